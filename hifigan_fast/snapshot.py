"""Whether modules are still as they were when they were last read: cheaper than reading them again."""

import itertools
import operator

CONTENTS = (
    "__dict__",
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Snapshot:
    """What some modules hold, by identity: attributes, parameters, buffers, children, hooks and what those say.

    Not what is behind a parameter: its dtype, device, address and flags change in place.
    """

    def __init__(self, modules):
        self._modules = list(modules)
        self._dicts = [getattr(module, contents) for module in self._modules for contents in CONTENTS]
        hooks = [hook for module in self._modules for hook in module._forward_pre_hooks.values()]
        self._dicts += [hook.__dict__ for hook in hooks if hasattr(hook, "__dict__")]
        self._seen = self._now()

    def _now(self):
        return (*map(type, self._modules), *itertools.chain.from_iterable(map(dict.values, self._dicts)))

    def holds(self):
        now = self._now()
        return len(now) == len(self._seen) and all(map(operator.is_, now, self._seen))

"""Whether modules are still as they were when they were last read: cheaper than reading them again."""

import itertools
import operator

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
KEEPER = "_hifigan_fast"  # the attribute in which what was read is kept, with its snapshot
CONTENTS = ("__dict__", "_parameters", "_buffers", "_modules", *HOOKS)


def has_hooks(module):
    """Whether calling a module would call a hook, now or on the way back."""
    return any(getattr(module, hooks) for hooks in HOOKS)


class Snapshot:
    """What a module and those in it hold, by identity: attributes, parameters, buffers, children, hooks and theirs.

    Not what is behind a parameter: dtype, device, address and flags change in place; nor inside of an attribute, a list
    of strides, say. Nor does it hold the module, which goes as soon as it is dropped: not when Python looks for cycles.
    """

    def __init__(self, module):
        modules = list(module.modules())
        self._modules = modules[1:]
        _, *dicts = [getattr(own, contents) for own in modules for contents in CONTENTS]
        hooks = [hook for own in modules for hook in own._forward_pre_hooks.values()]
        dicts += [hook.__dict__ for hook in hooks if hasattr(hook, "__dict__")]
        self._dicts, self._empty = [own for own in dicts if own], [own for own in dicts if not own]  # most are
        self._seen = self._now(module)

    def _now(self, module):
        return (
            *[value for name, value in module.__dict__.items() if name != KEEPER],
            *map(type, self._modules),
            *map(vars, self._modules),
            *itertools.chain.from_iterable(map(dict.values, self._dicts)),
        )

    def holds(self, module):
        if any(self._empty):
            return False
        now = self._now(module)
        return len(now) == len(self._seen) and all(map(operator.is_, now, self._seen))

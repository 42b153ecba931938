"""What is read off a module once, and must not change while its fused forward stands for its own."""

from torch import nn

from ..snapshot import has_hooks
from .observe import CONVS

PLAIN = (bool, int, float, str, tuple, type(None))


def state_of(module):
    """Children, numbers and properties of all modules in `module`: (owner, name, value, whether a child).

    None names the count of children. Not those of convolutions, which are read anew at every call.
    """
    found = []
    for m in module.modules():
        if isinstance(m, CONVS):
            continue
        found.append((m, None, len(m._modules), True))
        found += [(m, name, child, True) for name, child in m._modules.items()]
        names = [name for name in vars(m) if not name.startswith("_") and name not in ("training", "forward")]
        for kind in type(m).__mro__[: type(m).__mro__.index(nn.Module)]:
            names += [name for name, value in vars(kind).items() if isinstance(value, property)]
        values = [(name, getattr(m, name, None)) for name in names]
        found += [(m, name, value, False) for name, value in values if isinstance(value, PLAIN)]
    return found


def changed(state):
    """What is no longer as `state_of` found it, in words; None if all is."""
    for owner, name, value, is_child in state:
        if name is None:
            if len(owner._modules) != value:
                return f"what a {type(owner).__name__} holds"
        elif is_child:
            child = owner._modules.get(name)
            if child is not value:
                return f"{name} of a {type(owner).__name__}"
            if not isinstance(child, CONVS) and (has_hooks(child) or "forward" in child.__dict__):
                return f"the hooks of {name} of a {type(owner).__name__}"
        elif getattr(owner, name, None) != value:
            return f"{name} of a {type(owner).__name__}"
    return None

"""Calling a module's own forward to see what it does, and leaving nothing behind."""

import contextlib
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from .. import dispatch
from ..snapshot import HOOKS

CONVS = (nn.Conv1d, nn.Conv2d)
BEFORE = (nn.AvgPool1d, nn.ReflectionPad1d)  # what a waveform may pass before a stem


class Refused(Exception):
    """Why a module cannot be accelerated, in words."""


@contextlib.contextmanager
def untouched(module):
    """Within the block `module` may be called, and anything set on it; afterwards it is as it was.

    The block has copies of its buffers, none of its own hooks, and no autocast. Random states are put back, also those
    of numpy and Python.
    """
    kept = [(m, dict(vars(m)), _contents(vars(m))) for m in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    states = random.getstate(), np.random.get_state()
    devices = {parameter.device for parameter, _ in flags}
    try:
        copies = {}
        for m, _, _ in kept:
            for name, buffer in m._buffers.items():
                if buffer is not None:
                    m._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        for hooks in HOOKS:
            getattr(module, hooks).clear()
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([d for d in devices if d.type == "cuda"]))
            for device in {d.type for d in devices}:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for m, attributes, contents in kept:
            vars(m).clear()
            vars(m).update(attributes)
            for name, values in contents.items():
                attributes[name].clear()
                attributes[name].extend(values) if isinstance(values, list) else attributes[name].update(values)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        random.setstate(states[0])
        np.random.set_state(states[1])


def _contents(attributes):
    """Shallow copies of those attributes that a call could fill: what is registered, hooks, caches."""
    return {name: value.copy() for name, value in attributes.items() if isinstance(value, (dict, list))}


@dataclass
class ConvCall:
    """One call of a convolution. `seen` and `out` are copies, of the time of the call; `given` and `result` the tensors
    themselves, which may have been changed in place since."""

    conv: nn.Module
    given: torch.Tensor
    seen: torch.Tensor
    result: torch.Tensor | None = None
    out: torch.Tensor | None = None


@dataclass
class Observed:
    """One call of a module.

    Attributes:
        convs: `ConvCall`s in their order.
        before: (module, input, output) of each of `BEFORE`.
        output: what it returned.
    """

    convs: list = field(default_factory=list)
    before: list = field(default_factory=list)
    output: object = None


def observe(module, given):
    """Call `module` on keyword arguments `given`, in plain PyTorch -> `Observed`. To be called in `untouched`.

    `Refused` where it draws random numbers.
    """
    found, handles, drawn = Observed(), [], _drawn(given)

    def before(conv, args):
        found.convs.append(ConvCall(conv, args[0], args[0].detach().clone()))

    def after(conv, args, out):
        call = next(c for c in reversed(found.convs) if c.conv is conv)
        call.result, call.out = out, out.detach().clone()

    try:
        for m in module.modules():
            if isinstance(m, CONVS):
                handles += [m.register_forward_pre_hook(before), m.register_forward_hook(after)]
            elif isinstance(m, BEFORE):
                handles.append(m.register_forward_hook(lambda m, args, out: found.before.append((m, args[0], out))))
        with dispatch.use_backend(dispatch.MODULES):
            found.output = module(**given)
    finally:
        for handle in handles:
            handle.remove()
    if _drawn(given) != drawn:
        raise Refused("it draws random numbers")
    return found


def _drawn(given):
    """The random states of Python, numpy and PyTorch, on the device of the waveforms too."""
    device = next(iter(given.values())).device
    ours = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tolist(), rest, [state.tolist() for state in ours]

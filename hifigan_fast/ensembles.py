"""Discriminators as the passes take them, and one fused pass over several: what every front end runs."""

from dataclasses import dataclass

import torch
from torch import nn

from . import dispatch, norms
from .geometry import Ensemble, Layer, Stack, ensemble_of
from .passes.autograd import spectral_states
from .passes.call import Call
from .snapshot import KEEPER, Snapshot

BY_MODULES = "module by module in plain PyTorch"  # slower than a fused pass


@dataclass
class Member:
    """One discriminator: its convolutions and what joins them.

    Attributes:
        names: of the convolutions, for messages.
        convs: the modules, stem to head.
        slopes: of the leaky ReLU after each; 1 means none.
    """

    names: list
    convs: list
    slopes: tuple
    period: int = 1
    folded: bool = False

    @property
    def stack(self):
        """The layers as data, as the convolutions are now."""
        return Stack(tuple(map(Layer.of, self.convs, self.slopes)), self.period, self.folded)

    def why_module_by_module(self):
        """Why no fused pass can do what calling the convolutions would, in words; None if one can."""
        return unreadable(self.names, self.convs) or self.why_no_stack()

    def why_no_stack(self):
        """Why these convolutions, one after the other, are no `Stack`, in words; None if they are one."""
        whole = f"{self.names[0]} to {self.names[-1]}"
        if len(self.convs) < 2 or self.convs[0].in_channels != 1 or self.convs[-1].out_channels != 1:
            return f"{whole} do not lead from one channel to one"
        if any((len(conv.kernel_size) == 2) != self.folded for conv in self.convs):
            return f"{whole} mix convolutions of one and two dimensions"
        for name, above, below in zip(self.names[1:], self.convs, self.convs[1:]):
            if above.out_channels != below.in_channels:
                return f"{name} takes {below.in_channels} channels of {above.out_channels}"
        return None


def unreadable(names, convs):
    """Why a fused pass cannot do what calling one of `convs` would, in words; None if it can."""
    reasons = ((name, norms.unreadable(conv)) for name, conv in zip(names, convs))
    return next((f"{name} {reason}" for name, reason in reasons if reason), None)


class Group:
    """Discriminators that run in one pass, with what it needs of them, as they were when this was made.

    Attributes:
        stacks: of each, its layers as data.
        parameters: [stack][depth] of `norms.Parameters`.
        spectral: of each, whether a call moves its spectral norm; and its `norms.spectral_groups`.
        lasts: whether its tensors are the modules' own parameters, which outlive a call.
    """

    def __init__(self, members):
        self.members = members
        self.stacks = tuple(member.stack for member in members)
        self.parameters = [[norms.parameters(conv) for conv in member.convs] for member in members]
        flat = [t for own in self.parameters for p in own for t in (p.raw, p.magnitude, p.bias)]
        self.lasts = all(t is None or isinstance(t, nn.Parameter) for t in flat)
        self.spectral = [
            (any(norms.iterates(conv) for conv in member.convs), norms.spectral_groups(member.convs))
            for member in members
        ]

    def weight_sets(self, sides):
        """For each discriminator and side, the set of weights it uses."""
        sets, count = [], 0
        for moves, _ in self.spectral:
            own = sides if moves else 1
            sets.append(tuple(count + side % own for side in range(sides)))
            count += own
        return tuple(sets)

    def states(self, sides, backend):
        """Spectral norm's states, as `Call` has them. Side after side, as the modules' calls: each moves them on."""
        found = []
        for member, (moves, groups) in zip(self.members, self.spectral):
            if groups:
                found += spectral_states(member.convs, groups, sides if moves else 1, backend)
            else:
                found.append([None] * len(member.convs))
        return found


class _Reading:
    """What was made of a module, its parameters, and whether it is as it was, but for their addresses and flags."""

    def __init__(self, module, value):
        self.value, self._snapshot = value, Snapshot(module)
        self.parameters = _parameters(module)
        self._dtypes = [p.dtype for p in self.parameters]

    def holds(self, module):
        return self._snapshot.holds(module) and [p.dtype for p in self.parameters] == self._dtypes


class _Place:
    """Where a module keeps its reading: among its attributes, so that both go together. A copy's is empty."""

    reading = None

    def __deepcopy__(self, memo):
        return _Place()

    def __reduce__(self):
        return _Place, ()


def _parameters(module):
    return [p for m in module.modules() for p in m._parameters.values() if p is not None]


def reading(module, read):
    """(`read(module)`, all parameters of it), read again where anything in the module has changed.

    `read` returns why no pass can run the module, and a `Group` where one can. Kept is only a group of parameters, not
    of what `torch.func.functional_call` or a replica puts in their place, which may have a graph.
    """
    if torch.compiler.is_compiling():
        return read(module), list(module.parameters())
    place = module.__dict__.setdefault(KEEPER, _Place())
    found = place.reading
    if found is None or not found.holds(module):
        value = _, group = read(module)
        if group is None or not group.lasts:
            place.reading = None
            return value, _parameters(module)
        found = place.reading = _Reading(module, value)
    return found.value, found.parameters


def mismatch(x, parameters):
    """The first of `parameters` that does not go with waveform `x`, and in what: (parameter, "device" or "dtype").

    None where all do: they must be where the waveform is, and of its dtype, as for any convolution.
    """
    parameters = list(parameters)
    if {(p.device, p.dtype) for p in parameters} <= {(x.device, x.dtype)}:  # as nearly always
        return None
    autocast = dispatch.autocast_dtype(x.device) is not None  # mixes dtypes as it sees fit, but for float64
    for parameter in parameters:
        if parameter.device != x.device:
            return parameter, "device"
        if parameter.dtype != x.dtype and (not autocast or torch.float64 in (parameter.dtype, x.dtype)):
            return parameter, "dtype"
    return None


def why_no_pass(like):
    """Why no fused pass runs on tensors like `like`, whatever the discriminators, in words; None if one does."""
    return dispatch.not_fusible(like.device) or dispatch.no_kernels(like.device, dispatch.map_dtype(like))


def why_not_fused(like, members):
    """Why a call on tensors like `like` runs module by module, in words; None if it runs fused."""
    reasons = (member.why_module_by_module() for member in members)
    return why_no_pass(like) or next(filter(None, reasons), None)


def runs_on(like, members):
    """What runs a call on tensors like `like`, and why: as `explain` shows them."""
    reason = why_not_fused(like, members)
    if reason:
        return dispatch.MODULES, reason
    dtype = dispatch.map_dtype(like)
    choice = dispatch.choose(like.device, dtype)
    layers = dict.fromkeys(layer for member in members for layer in member.stack.layers[1:-1])
    others = choice.backend.by_others(like.device, dtype, layers)
    return choice.backend.name, f"{choice.why}; {others}" if others else choice.why


def slower(how, reason):
    """Whether there is a reason to run slower; it is said once, but for what was asked for."""
    if reason and reason != "requested" and not torch.compiler.is_compiling():
        dispatch.warn_once(f"running {how}: {reason}")
    return reason is not None


def fused(group, sides, waves):
    """One fused pass over discriminators of equal layers, as what `autograd.run_ensemble` and `run_step` take.

    Moves the spectral norms. ValueError where the waveforms are too short for a layer.

    Args:
        group: a `Group`.
        sides: waveforms [side][level], each [batch, 1, samples].
        waves: the level that each discriminator reads.
    """
    first = sides[0][0]
    lengths = tuple(wave.shape[-1] for wave in sides[0])
    dtype = dispatch.map_dtype(first)
    backend = dispatch.choose(first.device, dtype).backend
    make = Ensemble if torch.compiler.is_compiling() else ensemble_of
    sets = group.weight_sets(len(sides))
    ensemble = make(group.stacks, tuple(waves), lengths, first.shape[0], len(sides), sets)
    ensemble.check()  # before spectral norm moves
    call = Call(backend, ensemble, dtype, group.states(len(sides), backend), dispatch.to_save())
    return call, sides, group.parameters

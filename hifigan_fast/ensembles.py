"""Discriminators as the passes take them, and one fused pass over several: what every front end runs."""

from dataclasses import dataclass

import torch

from . import dispatch, norms
from .autograd import spectral_states
from .geometry import Ensemble, Layer, Stack
from .passes import Call

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
        for name, conv in zip(self.names, self.convs):
            reason = norms.unreadable(conv)
            if reason:
                return f"{name} {reason}"
            own = norms.parameters(conv)
            if own.raw.dtype != own.bias.dtype:
                return f"{name} mixes dtypes"
        return None


def mismatch(x, parameters):
    """The first of `parameters` that does not go with waveform `x`, and in what: (parameter, "device" or "dtype").

    None where all do: they must be where the waveform is, and of its dtype, as for any convolution.
    """
    autocast = dispatch.map_dtype(x) != x.dtype  # mixes dtypes as it sees fit, but for float64
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
    choice = dispatch.choose(like.device, dispatch.map_dtype(like))
    return choice.backend.name, choice.why


def slower(how, reason):
    """Whether there is a reason to run slower; it is said once, but for what was asked for."""
    if reason and reason != "requested" and not torch.compiler.is_compiling():
        dispatch.warn_once(f"running {how}: {reason}")
    return reason is not None


def fused(members, sides, waves):
    """One fused pass over discriminators of equal layers, as what `autograd.run_ensemble` and `run_step` take.

    Moves the spectral norms. ValueError where the waveforms are too short for a layer.

    Args:
        sides: waveforms [side][level], each [batch, 1, samples].
        waves: the level that each discriminator reads.
    """
    stacks = tuple(member.stack for member in members)
    lengths = tuple(wave.shape[-1] for wave in sides[0])
    for stack, wave in zip(stacks, waves):
        stack.rows(lengths[wave])  # too short: said before spectral norm moves
    first = sides[0][0]
    dtype = dispatch.map_dtype(first)
    choice = dispatch.choose(first.device, dtype)
    weight_sets, states = [], []
    for member in members:
        own = len(sides) if any(norms.iterates(conv) for conv in member.convs) else 1
        weight_sets.append(tuple(len(states) + side % own for side in range(len(sides))))
        # Side after side, as the modules' calls would: each moves the power iteration on.
        states += spectral_states(member.convs, own, choice.backend)
    ensemble = Ensemble(stacks, tuple(waves), lengths, first.shape[0], len(sides), tuple(weight_sets))
    parameters = [[norms.parameters(conv) for conv in member.convs] for member in members]
    return Call(choice.backend, ensemble, dtype, states, dispatch.to_save()), sides, parameters

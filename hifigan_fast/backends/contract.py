"""What a backend does: every operation of an ensemble's forward and backward pass, one depth at a time.

All buffers are flat and contiguous. Maps and their gradients are of one floating dtype; waveforms, parameters and the
gradients of both are of the same, or of float32 where the maps are bfloat16: effective weights are then rounded to it.
Activations and their gradients are rows of channels, laid out as `hifigan_fast.geometry.Run` says: a member's rows are
[samples, period, rows, channels]. Heads are H-major, [samples, rows, period], so that the logits are a view. Waveforms
are samples in a row. No operation allocates what it returns through an argument, none keeps a reference to a buffer,
and none changes an input.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch


@dataclass
class WeightSet:
    """The parameters of one layer under one set: effective weights are raw · scale, a scale an output channel.

    Attributes:
        raw: [out, in / groups, taps]: weight norm's direction, spectral norm's original, or the plain weight.
        magnitude: weight norm's g, [out]; None otherwise.
        sigma: spectral norm's σ, a scalar tensor; None otherwise.
    """

    raw: torch.Tensor
    magnitude: torch.Tensor | None = None
    sigma: torch.Tensor | None = None


@dataclass
class Weights:
    """One layer's weights for a whole ensemble, normalised: raws and, a set, its scales and norms [out]."""

    sets: list[WeightSet]
    scales: list[torch.Tensor]
    norms: list[torch.Tensor | None]


def widened(tensor):
    """As backends take waveforms, parameters and biases: bfloat16 values come as float32."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


class Backend(ABC):
    """Runs the operations of an ensemble. `role` is "stem", "conv" or "head"; `runs` a tuple of `geometry.Run`."""

    name: str

    @abstractmethod
    def cannot_run(self, device, dtype):
        """Why this backend cannot run tensors of `device` and `dtype`, in words; None if it can."""

    def empty(self, count, dtype, device):
        """A flat buffer of `count` elements, not initialised."""
        return torch.empty(count, dtype=dtype, device=device)

    @abstractmethod
    def row_norms(self, raw):
        """[out, in / groups, taps] -> the Euclidean norm of each output channel's weights, [out]."""

    def normalise_weights(self, layer, sets):
        """`WeightSet`s -> `Weights`: scale = magnitude / |raw| (rows), 1 / sigma, or 1."""
        norms = [None if s.magnitude is None else self.row_norms(s.raw) for s in sets]
        scales = []
        for s, norm in zip(sets, norms):
            if norm is not None:
                scales.append(s.magnitude / norm)
            else:
                one = s.raw.new_ones(layer.out_channels)
                scales.append(one if s.sigma is None else one / s.sigma)
        return Weights(sets, scales, norms)

    @abstractmethod
    def forward(self, role, layer, runs, x, weights, bias, out):
        """out = leaky(conv(x) + bias). x: rows, or the waveforms for a stem; bias: [sets, out channels]."""

    @abstractmethod
    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, grad_in):
        """grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved), for a conv or head.

        saved: the layer's input, its sign is the mask of the layer below, whose slope is `slope`; map_grads: for each
        run None or the caller's gradient of that input, in the run's layout.
        """

    @abstractmethod
    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        """Adds each run's gradient of the waveforms to `grad_waves`, which the caller has zeroed."""

    @abstractmethod
    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        """-> [(grad_raw, inner)] a set, and the gradient of the bias, [sets, out]; zeros for sets without rows.

        inner [out] = <grad of the effective weight, raw> a row; grad_raw is the whole gradient of weight norm's
        direction, and for spectral norm the part that holds sigma fixed.
        """

    @abstractmethod
    def feature_l1(self, real, generated):
        """Lists of maps of equal dense layout -> the mean |real - generated| of each pair, [pairs]."""

    @abstractmethod
    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        """grads [pairs] -> (gradients of real, gradients of generated), lists with None where not wanted."""

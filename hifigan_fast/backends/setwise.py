"""What backends share that keep weights as they are, and finish a layer's gradients set by set in PyTorch."""

from abc import abstractmethod

import torch

from .contract import Backend, Weights


class SetwiseBackend(Backend):
    """`weight_grad` returns ([(grad_raw, inner)] a set, the gradient of the bias [sets, out]); zeros without rows.

    inner [out] = <gradient of the effective weight, raw> a row; grad_raw is the whole gradient of weight norm's
    direction, and for spectral norm the part that holds sigma fixed.
    """

    @abstractmethod
    def row_norms(self, raw):
        """[out, in / groups, taps] -> the Euclidean norm of each output channel's weights, [out]."""

    def prepare(self, layers, sets, dtype):
        return [self._normalised(layer, own) for layer, own in zip(layers, sets)]

    def _normalised(self, layer, sets):
        norms = [None if s.magnitude is None else self.row_norms(s.raw) for s in sets]
        scales = []
        for s, norm in zip(sets, norms):
            if norm is not None:
                scales.append(s.magnitude / norm)
            else:
                one = s.raw.new_ones(layer.out_channels)
                scales.append(one if s.sigma is None else one / s.sigma)
        return Weights(sets, scales, norms, torch.stack([s.bias for s in sets]))

    def parameter_grads(self, jobs):
        return [_finished(job) for job in jobs]


def _finished(job):
    """One layer's (raw, magnitude, bias) gradients: its sets' together; overwrites them."""
    grads, bias = job.sums
    total, magnitude = None, None
    for s in job.sets:
        grad, inner = grads[s]
        norm, state = job.weights.norms[s], job.states[s]
        if norm is not None:
            magnitude = inner / norm if magnitude is None else magnitude + inner / norm
        if state is not None:  # W / σ depends on W through σ = uᵀ W v too
            along = inner.sum() / state.sigma**2
            grad.view(len(grad), -1).addr_(state.u.to(grad.dtype) * -along, state.v.to(grad.dtype))
        total = grad if total is None else total.add_(grad)
    return total, magnitude, bias[job.sets].sum(0)

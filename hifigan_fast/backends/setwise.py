"""What backends share that keep weights as they are, and finish a layer's gradients set by set in PyTorch."""

from abc import abstractmethod

import torch

from .contract import Backend


class SetwiseBackend(Backend):
    """`weight_grad` returns ([(grad_raw, inner)] a set, the gradient of the bias [sets, out]); zeros without rows.

    inner [out] = <gradient of the effective weight, raw> a row; grad_raw is the whole gradient of weight norm's
    direction, and for spectral norm the part that holds sigma fixed.
    """

    @abstractmethod
    def row_norms(self, raw):
        """[out, in / groups, taps] -> the Euclidean norm of each output channel's weights, [out]."""

    def prepare(self, layers, sets, dtype):
        first = sets[0][0].raw
        flat = [s for own in sets for s in own]
        scaling = first.new_ones(3, sum(len(s.raw) for s in flat))
        rows = scaling.split([len(s.raw) for s in flat], 1)
        for s, (bias, scale, norm) in zip(flat, rows):
            if s.magnitude is not None:
                norm.copy_(self.row_norms(s.raw))
                torch.div(s.magnitude.flatten(), norm, out=scale)
            elif s.sigma is not None:
                scale.div_(s.sigma)
            bias.copy_(s.bias)
        return scaling, torch.empty(0, dtype=dtype, device=first.device)

    def parameter_grads(self, jobs):
        return tuple(map(list, zip(*(_finished(job) for job in jobs))))


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

"""The three losses with the original's signatures (HiFi-GAN, section 2.4; jik876/hifi-gan `models.py`), no host sync.

`feature_loss` reads each pair of maps once, forward and backward, where a backend can; the adversarial losses touch a
few thousand logits and are the reference's.
"""

import torch

from . import dispatch
from .reference import discriminator_loss, generator_loss
from .reference import feature_loss as reference_feature_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]


class _FeatureL1(torch.autograd.Function):
    """Maps, real ones first -> the mean |real - generated| of each pair, [pairs]."""

    @staticmethod
    def forward(ctx, backend, *maps):
        pairs = len(maps) // 2
        ctx.backend = backend
        ctx.save_for_backward(*maps)
        return backend.feature_l1([m.detach() for m in maps[:pairs]], [m.detach() for m in maps[pairs:]])

    @staticmethod
    def backward(ctx, grads):
        maps = ctx.saved_tensors
        pairs, needs = len(maps) // 2, ctx.needs_input_grad[1:]
        real, generated = maps[:pairs], maps[pairs:]
        if torch.is_grad_enabled():  # create_graph
            signs = [(g - r).sgn() * (grad / r.numel()) for r, g, grad in zip(real, generated, grads)]
            return None, *(-s for s in signs), *signs
        grads_real, grads_generated = ctx.backend.feature_l1_backward(
            real, generated, grads, needs[:pairs], needs[pairs:]
        )
        return None, *grads_real, *grads_generated


def _is_dense(x):
    """Whether the elements fill their memory without gaps or overlaps, in whatever order of dimensions."""
    expected = 1
    for size, stride in sorted(((n, s) for n, s in zip(x.shape, x.stride()) if n > 1), key=lambda d: d[1]):
        if stride != expected:
            return False
        expected *= size
    return True


def _why_not_fused(pairs):
    """Why the pairs cannot be read as flat memory by one backend, in words; None if they can."""
    first = pairs[0][0]
    for real, generated in pairs:
        for m in (real, generated):
            if m.dtype != first.dtype or m.device != first.device or m.stride() != real.stride():
                return "maps differ in dtype, device or layout"
            if m.is_neg() or not m.dtype.is_floating_point:
                return "maps are negated lazily, or not real"
        if real.shape != generated.shape or not real.numel() or not _is_dense(real):
            return "maps are empty, not dense or differ in shape"
    return dispatch.not_fusible(first.device)


def feature_loss(fmap_r, fmap_g):
    """Feature-matching loss: 2 · the sum over all maps of the mean |real - generated|; the raw head maps count too.

    Args:
        fmap_r, fmap_g: the discriminators' maps, lists of lists of tensors, real and generated.

    Returns:
        A scalar of the maps' dtype (0 for empty lists).
    """
    pairs = [(r, g) for maps_r, maps_g in zip(fmap_r, fmap_g) for r, g in zip(maps_r, maps_g)]
    if not pairs or _why_not_fused(pairs):
        return reference_feature_loss(fmap_r, fmap_g)
    backend = dispatch.choose(pairs[0][0].device, pairs[0][0].dtype).backend
    if backend.name == "reference":
        return reference_feature_loss(fmap_r, fmap_g)
    real, generated = zip(*pairs)
    return (_FeatureL1.apply(backend, *real, *generated).sum() * 2).to(real[0].dtype)

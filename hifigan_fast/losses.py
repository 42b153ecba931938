"""The three losses with the original's signatures (HiFi-GAN, section 2.4; jik876/hifi-gan `models.py`), no host sync.

`feature_loss` reads each pair of maps once, forward and backward, where a backend can. The adversarial losses touch a
few thousand logits: on a GPU, where a launch costs more than they do, they are one; elsewhere they are the reference's.
torch.compile gets the reference's, which it fuses itself. All are taken in float32 at least: the sum of 46 means would
keep eight bits in bfloat16, autocast or not.
"""

import functools
from collections.abc import Sequence

import torch

from . import checks, dispatch, reference
from .backends.contract import is_dense
from .backends.kept import kept
from .reference.losses import Maps, in_float32

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]


def _layouts(tensors):
    return tuple([(t.shape, t.stride()) for t in tensors])


class _FeatureL1(torch.autograd.Function):
    """Maps of `layouts`, real ones first -> 2 · the sum of the mean |real - generated| of each pair."""

    @staticmethod
    def forward(ctx, backend, layouts, *maps):
        pairs = len(maps) // 2
        ctx.backend, ctx.layouts = backend, layouts
        ctx.save_for_backward(*maps)
        return backend.feature_l1(maps[:pairs], maps[pairs:]).sum() * 2

    @staticmethod
    def backward(ctx, grad):
        maps = ctx.saved_tensors
        pairs, needs = len(maps) // 2, ctx.needs_input_grad[2:]
        real, generated = maps[:pairs], maps[pairs:]
        if dispatch.by_operations(grad) or _layouts(maps) != ctx.layouts:  # a hook on saved tensors made others
            signs = [(g - r).sgn() * (2 * grad / r.numel()) for r, g in zip(real, generated)]
            return None, None, *(-s for s in signs), *signs
        grads = _twos(pairs, grad.dtype, grad.device) * grad
        found = ctx.backend.feature_l1_backward(real, generated, grads, needs[:pairs], needs[pairs:])
        return None, None, *found[0], *found[1]


@kept
def _twos(count, dtype, device):
    return torch.full((count,), 2, dtype=dtype, device="cpu").to(device)


@functools.lru_cache(maxsize=64)
def _flat_pairs(layouts):
    """Whether maps, real ones first, lie alike in pairs and fill their memory; and none is empty."""
    real, generated = layouts[: len(layouts) // 2], layouts[len(layouts) // 2 :]
    return real == generated and all(is_dense(*layout) and 0 not in layout[0] for layout in real)


def _not_saved(tensors):
    """Whether autograd refuses to save one of them: what was made in inference mode."""
    return torch.is_grad_enabled() and any(map(torch.Tensor.is_inference, tensors))


def _why_not_fused(maps, layouts):
    """Why pairs of maps, real ones first, cannot be read as flat memory by one backend, in words; None if they can."""
    first = maps[0]
    if len({m.dtype for m in maps}) > 1 or len({m.device for m in maps}) > 1:
        return "maps differ in dtype or device"
    if not first.dtype.is_floating_point or any(map(torch.Tensor.is_neg, maps)):
        return "maps are negated lazily, or not real"
    if _not_saved(maps):
        return "maps are of inference mode"
    reason = dispatch.not_fusible(first.device)
    if reason or _flat_pairs(layouts):  # a tracer's lengths may be no numbers to be kept by
        return reason
    return "maps differ in shape or layout, are empty or not dense"


def feature_loss(fmap_r: Maps, fmap_g: Maps) -> torch.Tensor:
    """Feature-matching loss: 2 · the sum over all maps of the mean |real - generated|; the raw head maps count too.

    Args:
        fmap_r, fmap_g: the discriminators' maps, lists of lists of tensors, real and generated.

    Returns:
        A scalar (0 for empty lists): float32 for maps of half precision, else of their dtype. TypeError where an entry
        of the lists is no list of maps.
    """
    fmap_r, fmap_g = checks.checked_maps("fmap_r", fmap_r), checks.checked_maps("fmap_g", fmap_g)
    pairs = [(r, g) for maps_r, maps_g in zip(fmap_r, fmap_g) for r, g in zip(maps_r, maps_g)]
    maps = [m for side in zip(*pairs) for m in side]
    layouts = () if not maps or torch.compiler.is_compiling() else _layouts(maps)
    if not layouts or _why_not_fused(maps, layouts):
        return reference.feature_loss(*([in_float32(maps) for maps in side] for side in (fmap_r, fmap_g)))
    return _FeatureL1.apply(dispatch.choose(maps[0].device, maps[0].dtype).backend, layouts, *maps)


class _SquaredMeans(torch.autograd.Function):
    """Scores and their targets -> the sum of their mean squared distances, and each of them, [parts]."""

    @staticmethod
    def forward(ctx, backend, targets, *scores):
        ctx.set_materialize_grads(False)
        ctx.backend, ctx.targets, ctx.layouts = backend, targets, _layouts(scores)
        ctx.save_for_backward(*scores)
        dtype = torch.promote_types(scores[0].dtype, torch.float32)
        return backend.squared_means(scores, targets, dtype)

    @staticmethod
    def backward(ctx, grad_total, grad_means):
        scores, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if dispatch.by_operations(grad_total, grad_means) or _layouts(scores) != ctx.layouts:
            given = [grad for grad in (grad_total, grad_means) if grad is not None]
            by = (sum(given) * 2).expand(len(scores)).unbind()
            return None, None, *((g / s.numel() * (s - t)).to(s.dtype) for g, s, t in zip(by, scores, ctx.targets))
        return None, None, *ctx.backend.squared_means_backward(scores, ctx.targets, grad_total, grad_means, wanted)


def _squared_means(scores, targets):
    """`_SquaredMeans` of the scores by the backend of the first; None where they must be the reference's."""
    if not scores or torch.compiler.is_compiling():
        return None
    first = scores[0]
    if any(s.dtype != first.dtype or s.device != first.device or not s.is_contiguous() or s.is_neg() for s in scores):
        return None
    if not all(s.numel() for s in scores) or not first.is_floating_point() or _not_saved(scores):
        return None
    if dispatch.not_fusible(first.device):
        return None
    backend = dispatch.choose(first.device, first.dtype).backend
    return _SquaredMeans.apply(backend, targets, *scores) if backend.fuses_small_work else None


def discriminator_loss(
    disc_real_outputs: Sequence[torch.Tensor], disc_generated_outputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Least-squares loss of the discriminators: the sum of mean (1 - D(y))² + mean D(ŷ)².

    Returns the loss and, per discriminator, its real and its generated part as detached scalars (the original
    returns Python floats, at the price of a host sync each): float32 for logits of half precision, else of their dtype.
    """
    real = checks.checked_scores("disc_real_outputs", disc_real_outputs)
    generated = checks.checked_scores("disc_generated_outputs", disc_generated_outputs)
    pairs = list(zip(real, generated))
    found = _squared_means([*(r for r, _ in pairs), *(g for _, g in pairs)], (1,) * len(pairs) + (0,) * len(pairs))
    if found is None:
        return reference.discriminator_loss(in_float32(real), in_float32(generated))
    terms = list(found[1].detach().unbind())
    return found[0], terms[: len(pairs)], terms[len(pairs) :]


def generator_loss(disc_outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Least-squares loss of the generator: the sum of mean (1 - D(ŷ))², and the list of its terms.

    Both are float32 for logits of half precision, else of their dtype.
    """
    scores = checks.checked_scores("disc_outputs", disc_outputs)
    found = _squared_means(scores, (1,) * len(scores))
    if found is None:
        return reference.generator_loss(in_float32(scores))
    return found[0], list(found[1].unbind())

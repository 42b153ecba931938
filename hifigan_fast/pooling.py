"""The scales' waveforms as one buffer, where a backend makes them in one launch."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from . import dispatch
from .reference import MultiScaleDiscriminator
from .snapshot import has_hooks

LEVELS = 3


def poolable(ensemble, sides):
    """Whether `pooled_sides` does what `ensemble.pooled` would of both sides."""
    return (
        type(ensemble).pooled is MultiScaleDiscriminator.pooled
        and "pooled" not in ensemble.__dict__
        and len(ensemble.discriminators) == LEVELS == len(ensemble.meanpools) + 1
        and all(_is_original(pool) for pool in ensemble.meanpools)
        and all(x.is_contiguous() and not x.is_neg() and x.numel() for x in sides)
        and len({(x.shape, x.dtype) for x in sides}) == 1
    )


def _is_original(pool):
    if type(pool) is not nn.AvgPool1d or has_hooks(pool) or "forward" in pool.__dict__:
        return False
    numbers = [n[0] if isinstance(n, tuple) else n for n in (pool.kernel_size, pool.stride, pool.padding)]
    return numbers == [4, 2, 2] and not pool.ceil_mode and pool.count_include_pad


def pooled_sides(backend, sides):
    """Waveforms [batch, 1, length], one a side -> [side][level], views of one buffer that lie one behind the other."""
    flat = iter(_Pooled.apply(backend, *sides))
    return [[next(flat) for _ in range(LEVELS)] for _ in sides]


def _levels(x):
    once = F.avg_pool1d(x, 4, 2, 2)
    return x, once, F.avg_pool1d(once, 4, 2, 2)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend, *sides):
        ctx.set_materialize_grads(False)
        ctx.shape = sides[0].shape
        samples, _, length = sides[0].shape
        lengths = [length, length // 2 + 1, (length // 2 + 1) // 2 + 1]
        views = backend.pooled([x.detach() for x in sides], lengths).split([samples * n for n in lengths] * len(sides))
        levels = tuple(view.view(samples, 1, n) for view, n in zip(views, lengths * len(sides)))
        constant = [not need for need in ctx.needs_input_grad[1:] for _ in range(LEVELS)]
        ctx.mark_non_differentiable(*itertools.compress(levels, constant))
        return levels

    @staticmethod
    def backward(ctx, *grads):
        found = [None]
        for side, need in enumerate(ctx.needs_input_grad[1:]):
            own = grads[side * LEVELS : (side + 1) * LEVELS]
            given = [grad for grad in own if grad is not None]
            if not need or not given:
                found.append(None)
                continue
            if not dispatch.by_operations(*given):
                found.append(_gradient(own, ctx.shape))
                continue
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():  # pooling is linear: any waveform will do
                x = given[0].new_zeros(ctx.shape).requires_grad_()
                levels = [level for level, grad in zip(_levels(x.view_as(x)), own) if grad is not None]
            found += torch.autograd.grad(levels, x, given, create_graph=create_graph)
        return tuple(found)


def _gradient(grads, shape):
    """Of the waveform, by those of its levels or None: as differentiating `_levels`, of which autograd is most."""
    found, lengths = None, [*itertools.accumulate(range(1, LEVELS), lambda n, _: n // 2 + 1, initial=shape[-1])]
    for level in range(LEVELS - 1, -1, -1):
        if found is not None:
            like = found.new_empty(*shape[:-1], 1, lengths[level])  # of which only the shape is asked
            found = torch.ops.aten.avg_pool2d_backward.default(
                found.unsqueeze(-2), like, (1, 4), (1, 2), (0, 2), False, True, None
            ).squeeze(-2)
        if grads[level] is not None:
            found = grads[level] if found is None else found + grads[level]
    return found

"""Least squares of logits, and their gradients: a few thousand numbers in many tensors."""

import triton
import triton.language as tl

from .pointers import pick


@triton.jit
def squared_means(scores, sum_of_means, means, parts, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """means[part] = the mean of (score - target)², and their sum; parts: [part] of (elements, target)."""
    total = 0.0
    for part in range(COUNT):
        count, target = tl.load(parts + 2 * part), tl.load(parts + 2 * part + 1).to(tl.float32)
        own = pick(scores, part)
        squares = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            at = first + tl.arange(0, BLOCK)
            away = tl.where(at < count, tl.load(own + at, at < count, other=0.0).to(tl.float32) - target, 0.0)
            squares += away * away
        mean = tl.sum(squares) / count.to(tl.float32)
        tl.store(means + part, mean.to(means.dtype.element_ty))
        total += mean
    tl.store(sum_of_means, total.to(sum_of_means.dtype.element_ty))


@triton.jit
def gradients(
    scores,
    grad_total,  # of the sum, or None
    grad_means,  # of the means, or None
    grads,  # a tensor or None for each part
    parts,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(grad_total + grad_means[part]) · 2 (score - target) / elements"""
    part = tl.program_id(0)
    count, target = tl.load(parts + 2 * part), tl.load(parts + 2 * part + 1).to(tl.float32)
    by = 0.0
    if grad_total is not None:
        by += tl.load(grad_total).to(tl.float32)
    if grad_means is not None:
        by += tl.load(grad_means + part).to(tl.float32)
    own = pick(scores, part)
    by = 2 * by / count.to(tl.float32)
    for first in range(tl.program_id(1) * BLOCK, count, tl.num_programs(1) * BLOCK):
        at = first + tl.arange(0, BLOCK)
        grad = by * (tl.load(own + at, at < count, other=0.0).to(tl.float32) - target)
        for i in tl.static_range(COUNT):
            if grads[i] is not None:  # noqa: SIM102 - known when compiled
                if part == i:
                    tl.store(grads[i] + at, grad.to(grads[i].dtype.element_ty), at < count)

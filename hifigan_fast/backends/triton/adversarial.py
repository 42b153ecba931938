"""Least squares of logits, and their gradients: a few thousand numbers in many tensors."""

import triton
import triton.language as tl

from ..gpu import fields
from .constants import constants
from .pointers import pick

COUNT, TARGET, LEAD, GRAD = constants(fields.Part)
FIELDS = tl.constexpr(len(fields.Part))


@triton.jit
def _part(scores, parts, part):
    """A part's scores, how many they are, and their target."""
    own = parts + FIELDS * part
    return pick(scores, part) + tl.load(own + LEAD), tl.load(own + COUNT), tl.load(own + TARGET).to(tl.float32)


@triton.jit
def squared_means(scores, sum_of_means, means, parts, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """means[part] = the mean of (score - target)², and their sum."""
    total = 0.0
    for part in range(PARTS):
        own, count, target = _part(scores, parts, part)
        squares = tl.zeros([BLOCK], tl.float32)
        for first in range(0, count, BLOCK):
            at = first + tl.arange(0, BLOCK)
            away = tl.where(at < count, tl.load(own + at, at < count, other=0.0).to(tl.float32) - target, 0.0)
            squares += away * away
        mean = tl.sum(squares) / count.to(tl.float32)
        tl.store(means + part, mean.to(means.dtype.element_ty))
        total += mean
    tl.store(sum_of_means, total.to(sum_of_means.dtype.element_ty))


@triton.jit(do_not_specialize_on_alignment=["grad_total", "grad_means"])
def gradients(
    scores,
    grad_total,  # of the sum, or None
    grad_means,  # of the means, or None
    grads,
    parts,
    BLOCK: tl.constexpr,
):
    """(grad_total + grad_means[part]) · 2 (score - target) / elements"""
    part = tl.program_id(0)
    own, count, target = _part(scores, parts, part)
    first_grad = tl.load(parts + FIELDS * part + GRAD)
    by = 0.0
    if grad_total is not None:
        by += tl.load(grad_total).to(tl.float32)
    if grad_means is not None:
        by += tl.load(grad_means + part).to(tl.float32)
    by = 2 * by / count.to(tl.float32)
    if first_grad >= 0:
        for first in range(tl.program_id(1) * BLOCK, count, tl.num_programs(1) * BLOCK):
            at = first + tl.arange(0, BLOCK)
            grad = by * (tl.load(own + at, at < count, other=0.0).to(tl.float32) - target)
            tl.store(grads + first_grad + at, grad.to(grads.dtype.element_ty), at < count)

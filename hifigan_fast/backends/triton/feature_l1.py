"""The feature-matching loss over all pairs of maps, and its gradients."""

import triton
import triton.language as tl

from ..gpu import fields
from . import together
from .constants import constants
from .pointers import pick

CHUNK_FIELDS = tl.constexpr(len(fields.Chunk))
FIRST, END, COUNT, LEAD_REAL, LEAD_GENERATED = constants(fields.Pair)
PAIR_FIELDS = tl.constexpr(len(fields.Pair))


@triton.jit
def _chunk(real, generated, chunks, pairs, BLOCK: tl.constexpr):
    """This program's pair and its maps, its first element, where whole aligned blocks end, and the end."""
    chunk = chunks + tl.program_id(0) * CHUNK_FIELDS
    pair, begin, end = tl.load(chunk), tl.load(chunk + 1), tl.load(chunk + 2)
    own = pairs + PAIR_FIELDS * pair
    r, g = pick(real, pair) + tl.load(own + LEAD_REAL), pick(generated, pair) + tl.load(own + LEAD_GENERATED)
    aligned = (r.to(tl.int64) | g.to(tl.int64)) % 16 == 0
    return pair, r, g, begin, tl.where(aligned, begin + (end - begin) // BLOCK * BLOCK, begin), end


@triton.jit
def _aligned(map, first, BLOCK: tl.constexpr):
    """Addresses of a block of an aligned map, all of which is there: 16 bytes a load or store. Chunks begin so."""
    return tl.max_contiguous(tl.multiple_of(map + first + tl.arange(0, BLOCK), 16), BLOCK)


@triton.jit
def _read(map, first, end, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    if WHOLE:
        return tl.load(_aligned(map, first, BLOCK)).to(tl.float32)
    else:
        at = first + tl.arange(0, BLOCK)
        return tl.load(map + at, at < end, other=0.0).to(tl.float32)


@triton.jit
def means(
    real,
    generated,
    partial,  # [chunk], of |real - generated|
    out,
    chunks,
    pairs,
    counters,  # one a pair, after the first
    BLOCK: tl.constexpr,
):
    """out[pair] = the mean |real - generated|. A program has a chunk; a pair's last one adds all, in their order."""
    pair, r, g, begin, whole, end = _chunk(real, generated, chunks, pairs, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(begin, whole, BLOCK):
        total += tl.abs(_read(r, first, end, True, BLOCK) - _read(g, first, end, True, BLOCK))
    for first in range(whole, end, BLOCK):
        total += tl.abs(_read(r, first, end, False, BLOCK) - _read(g, first, end, False, BLOCK))
    tl.store(partial + tl.program_id(0), tl.sum(total))
    own = pairs + PAIR_FIELDS * pair
    begin, end = tl.load(own + FIRST), tl.load(own + END)
    if together.last(counters + 1 + pair, end - begin):
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(begin, end, BLOCK):
            total += _read(partial, first, end, False, BLOCK)
        tl.store(out + pair, tl.sum(total) / tl.load(own + COUNT).to(tl.float32))


@triton.jit
def _write(grads, place, value, first, end, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    if place >= 0:
        to = grads + place
        if WHOLE:
            tl.store(_aligned(to, first, BLOCK), value.to(to.dtype.element_ty))
        else:
            at = first + tl.arange(0, BLOCK)
            tl.store(to + at, value.to(to.dtype.element_ty), at < end)


@triton.jit
def _signs(r, g, by, grads, to_real, to_generated, first, end, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    """A block of both gradients: by · sign(g - r), and the opposite; a NaN stays one, not 0 as by PyTorch's sign."""
    r, g = _read(r, first, end, WHOLE, BLOCK), _read(g, first, end, WHOLE, BLOCK)
    sign = tl.where(g > r, by, tl.where(g < r, -by, (g - r) * by))
    _write(grads, to_real, -sign, first, end, WHOLE, BLOCK)
    _write(grads, to_generated, sign, first, end, WHOLE, BLOCK)


@triton.jit(do_not_specialize_on_alignment=["grad_means"])
def gradients(
    real,
    generated,
    grad_means,  # [pairs]
    grads,
    places,  # [pair] of (where real's gradient begins, where generated's), aligned; -1 where none is wanted
    chunks,
    pairs,
    BLOCK: tl.constexpr,
):
    """Of |generated - real|: its sign · grad / elements; 0 where the two are equal."""
    pair, r, g, begin, whole, end = _chunk(real, generated, chunks, pairs, BLOCK)
    by = tl.load(grad_means + pair).to(tl.float32) / tl.load(pairs + PAIR_FIELDS * pair + COUNT).to(tl.float32)
    to_real, to_generated = tl.load(places + 2 * pair), tl.load(places + 2 * pair + 1)
    for first in range(begin, whole, BLOCK):
        _signs(r, g, by, grads, to_real, to_generated, first, end, True, BLOCK)
    for first in range(whole, end, BLOCK):
        _signs(r, g, by, grads, to_real, to_generated, first, end, False, BLOCK)

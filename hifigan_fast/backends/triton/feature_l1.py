"""The feature-matching loss over all pairs of maps, and its gradients."""

import triton
import triton.language as tl

from .pointers import pick

# Fields of a chunk: its pair, its first element and its end.
CHUNK_FIELDS = tl.constexpr(3)


@triton.jit
def partial_sums(real, generated, partial, chunks, BLOCK: tl.constexpr):
    """partial[chunk] = the sum of |real - generated|."""
    chunk = chunks + tl.program_id(0) * CHUNK_FIELDS
    pair, end = tl.load(chunk), tl.load(chunk + 2)
    real, generated = pick(real, pair), pick(generated, pair)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.load(chunk + 1), end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        r = tl.load(real + at, at < end, other=0.0).to(tl.float32)
        total += tl.abs(r - tl.load(generated + at, at < end, other=0.0).to(tl.float32))
    tl.store(partial + tl.program_id(0), tl.sum(total))


@triton.jit
def means(partial, out, pairs, BLOCK: tl.constexpr):
    """out[pair] = the mean of its chunks first … end - 1; pairs: [pair] of (first chunk, end, elements)."""
    pair = pairs + 3 * tl.program_id(0)
    end = tl.load(pair + 1)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.load(pair), end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(partial + at, at < end, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(total) / tl.load(pair + 2).to(tl.float32))


@triton.jit
def gradients(
    real,
    generated,
    grads,  # of the means, [pairs]
    grad_real,  # a tensor or None for each pair
    grad_generated,
    chunks,
    pairs,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of |generated - real|: its sign · grad / elements; 0 where the two are equal."""
    chunk = chunks + tl.program_id(0) * CHUNK_FIELDS
    pair, begin, end = tl.load(chunk), tl.load(chunk + 1), tl.load(chunk + 2)
    by = tl.load(grads + pair).to(tl.float32) / tl.load(pairs + 3 * pair + 2).to(tl.float32)
    real, generated = pick(real, pair), pick(generated, pair)
    for first in range(begin, end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        r = tl.load(real + at, at < end, other=0.0).to(tl.float32)
        g = tl.load(generated + at, at < end, other=0.0).to(tl.float32)
        # A NaN stays one, as by PyTorch's sign.
        sign = tl.where(g > r, by, tl.where(g < r, -by, (g - r) * by))
        for i in tl.static_range(PAIRS):
            if grad_real[i] is not None:  # noqa: SIM102 - known when compiled
                if pair == i:
                    tl.store(grad_real[i] + at, (-sign).to(grad_real[i].dtype.element_ty), at < end)
            if grad_generated[i] is not None:  # noqa: SIM102 - known when compiled
                if pair == i:
                    tl.store(grad_generated[i] + at, sign.to(grad_generated[i].dtype.element_ty), at < end)

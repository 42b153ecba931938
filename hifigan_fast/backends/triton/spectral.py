"""Spectral norm's power iterations, for many layers at once: v = Wᵀ u / |Wᵀ u|, u = W v / |W v|, sigma = uᵀ W v.

Vectors are kept as they come out of the product, and normalised where they are read: the length of a whole vector is
only known to the next launch. `t` and `s` are Wᵀ u and W v, one job's after another's; a job is a row of `jobs`
(tables.py).
"""

import triton
import triton.language as tl

from .pointers import pick

# Fields of a job: rows and columns of the matrix, and where its vectors begin among all jobs'.
OUTS, SIZE, FIRST_OUT, FIRST_COLUMN = (tl.constexpr(field) for field in range(4))
FIELDS = tl.constexpr(4)


@triton.jit
def _square(vector, count, BLOCK: tl.constexpr):
    """|vector|²"""
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(vector + at, at < count, other=0.0)
        squares += value * value
    return tl.sum(squares)


@triton.jit
def _length(vector, count, eps, BLOCK: tl.constexpr):
    """max(|vector|, eps)"""
    return tl.maximum(tl.sqrt_rn(_square(vector, count, BLOCK)), eps)


@triton.jit
def _read(given, index, made, first, at, live):
    """Places of a job's vector: the one that was made, or, without one, the one that was given."""
    if made is None:
        value = tl.load(pick(given, index) + at, live, other=0.0).to(tl.float32)
    else:
        value = tl.load(made + first + at, live, other=0.0)
    return value


@triton.jit
def columns(
    weights,
    us,
    s,  # of the iteration before, or None: then us hold u
    t,
    programs,  # [program] of (job, first column)
    jobs,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """t = Wᵀ u, COLUMNS of them."""
    index = tl.load(programs + 2 * tl.program_id(0))
    job = jobs + index * FIELDS
    outs, size = tl.load(job + OUTS).to(tl.int32), tl.load(job + SIZE).to(tl.int32)
    k = tl.load(programs + 2 * tl.program_id(0) + 1).to(tl.int32) + tl.arange(0, COLUMNS)
    weight = pick(weights, index)
    by = 1.0
    if s is not None:
        by = 1.0 / _length(s + tl.load(job + FIRST_OUT), outs, eps, BLOCK)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, outs, ROWS):
        o = start + tl.arange(0, ROWS)
        u = _read(us, index, s, tl.load(job + FIRST_OUT), o, o < outs)
        inside = (o < outs)[:, None] & (k < size)[None, :]
        at = o.to(tl.int64)[:, None] * size + k[None, :]
        total += tl.sum(tl.load(weight + at, inside, other=0.0).to(tl.float32) * u[:, None], 0)
    tl.store(t + tl.load(job + FIRST_COLUMN) + k, total * by, k < size)


@triton.jit
def rows(
    weights,
    vs,
    t,  # or None: then vs hold v
    s,
    programs,  # [program] of (job, first row)
    jobs,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """s = W v, ROWS of them."""
    index = tl.load(programs + 2 * tl.program_id(0))
    job = jobs + index * FIELDS
    outs, size = tl.load(job + OUTS).to(tl.int32), tl.load(job + SIZE).to(tl.int32)
    o = tl.load(programs + 2 * tl.program_id(0) + 1).to(tl.int32) + tl.arange(0, ROWS)
    weight = pick(weights, index) + o.to(tl.int64)[:, None] * size
    by = 1.0
    if t is not None:
        by = 1.0 / _length(t + tl.load(job + FIRST_COLUMN), size, eps, BLOCK)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        k = start + tl.arange(0, BLOCK)
        v = _read(vs, index, t, tl.load(job + FIRST_COLUMN), k, k < size)
        inside = (o < outs)[:, None] & (k < size)[None, :]
        total += tl.sum(tl.load(weight + k[None, :], inside, other=0.0).to(tl.float32) * v[None, :], 1)
    tl.store(s + tl.load(job + FIRST_OUT) + o, total * by, o < outs)


@triton.jit
def _normalise(vector, count, length, out, moved, moves, BLOCK: tl.constexpr):
    """out = vector / length, and `moved` too where it moves."""
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = (tl.load(vector + at, at < count, other=0.0) / length).to(out.dtype.element_ty)
        tl.store(out + at, value, at < count)
        if moves:
            tl.store(moved + at, value, at < count)


@triton.jit
def states(
    us,
    vs,
    s,  # [call]
    t,  # [call], or None: then us and vs hold u and v, and stay
    u,  # [call] of all jobs' vectors
    v,
    sigmas,  # [call][job]
    jobs,
    eps,
    all_outs,
    all_columns,
    BLOCK: tl.constexpr,
):
    """u, v and sigma after each call; the last call's move `us` and `vs`."""
    index, call = tl.program_id(0), tl.program_id(1)
    job = jobs + index * FIELDS
    outs, size = tl.load(job + OUTS).to(tl.int32), tl.load(job + SIZE).to(tl.int32)
    own = s + call * all_outs + tl.load(job + FIRST_OUT)
    if t is None:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, outs, BLOCK):
            at = start + tl.arange(0, BLOCK)
            value = tl.load(pick(us, index) + at, at < outs, other=0.0).to(tl.float32)
            total += value * tl.load(own + at, at < outs, other=0.0)
        sigma = tl.sum(total)
    else:
        last = call == tl.num_programs(1) - 1
        square = _square(own, outs, BLOCK)
        length = tl.maximum(tl.sqrt_rn(square), eps)
        sigma = square / length
        to = call * all_outs + tl.load(job + FIRST_OUT)
        _normalise(own, outs, length, u + to, pick(us, index), last, BLOCK)
        to = call * all_columns + tl.load(job + FIRST_COLUMN)
        length = _length(t + to, size, eps, BLOCK)
        _normalise(t + to, size, length, v + to, pick(vs, index), last, BLOCK)
    tl.store(sigmas + call * tl.num_programs(0) + index, sigma.to(sigmas.dtype.element_ty))

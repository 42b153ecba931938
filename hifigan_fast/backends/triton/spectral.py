"""Spectral norm's power iterations, for many layers at once: v = Wᵀ u / |Wᵀ u|, u = W v / |W v|, sigma = uᵀ W v.

One launch, in stages between which all its programs meet: the length of a whole vector is only known after the stage
that makes it. So vectors are kept as they come out of the product, and normalised where they are read. `t` and `s` are
Wᵀ u and W v, one job's after another's; a job is a row of `jobs` (tables.py).
"""

import triton
import triton.language as tl

from ..gpu import fields
from . import together
from .constants import constants
from .pointers import pick

OUTS, SIZE, FIRST_OUT, FIRST_COLUMN = constants(fields.Spectral)
FIELDS = tl.constexpr(len(fields.Spectral))


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
def _tile(programs, tile, jobs):
    """A tile's job: its number, its fields, rows and columns of its matrix; and the tile's first row or column."""
    index = tl.load(programs + 2 * tile)
    job = jobs + index * FIELDS
    outs, size = tl.load(job + OUTS).to(tl.int32), tl.load(job + SIZE).to(tl.int32)
    return index, job, outs, size, tl.load(programs + 2 * tile + 1).to(tl.int32)


@triton.jit
def _columns(
    tile,
    weights,
    us,
    s,  # of the iteration before
    begins,  # no iteration was before: us hold u
    t,
    by_column,
    jobs,
    eps,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """t = Wᵀ u, COLUMNS of them."""
    index, job, outs, size, first = _tile(by_column, tile, jobs)
    k = first + tl.arange(0, COLUMNS)
    weight, before = pick(weights, index), s + tl.load(job + FIRST_OUT)
    by = 1.0
    if not begins:
        by = 1.0 / _length(before, outs, eps, BLOCK)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, outs, HEIGHT):
        o = start + tl.arange(0, HEIGHT)
        if begins:
            u = tl.load(pick(us, index) + o, o < outs, other=0.0).to(tl.float32)
        else:
            u = tl.load(before + o, o < outs, other=0.0)
        inside = (o < outs)[:, None] & (k < size)[None, :]
        at = o.to(tl.int64)[:, None] * size + k[None, :]
        total += tl.sum(tl.load(weight + at, inside, other=0.0).to(tl.float32) * u[:, None], 0)
    tl.store(t + tl.load(job + FIRST_COLUMN) + k, total * by, k < size)


@triton.jit
def _rows(
    tile,
    weights,
    vs,
    t,  # or None: then vs hold v
    s,
    by_row,
    jobs,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """s = W v, ROWS of them."""
    index, job, outs, size, first = _tile(by_row, tile, jobs)
    o = first + tl.arange(0, ROWS)
    weight = pick(weights, index) + o.to(tl.int64)[:, None] * size
    by = 1.0
    if t is not None:
        by = 1.0 / _length(t + tl.load(job + FIRST_COLUMN), size, eps, BLOCK)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        k = start + tl.arange(0, BLOCK)
        if t is None:
            v = tl.load(pick(vs, index) + k, k < size, other=0.0).to(tl.float32)
        else:
            v = tl.load(t + tl.load(job + FIRST_COLUMN) + k, k < size, other=0.0)
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
def _states(index, call, calls, all_jobs, us, vs, s, t, u, v, sigmas, jobs, eps, all_outs, all_columns, BLOCK):
    """u, v and sigma of one job after one call; the last call's move `us` and `vs`."""
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
        moves = call == calls - 1
        square = _square(own, outs, BLOCK)
        length = tl.maximum(tl.sqrt_rn(square), eps)
        sigma = square / length
        to = call * all_outs + tl.load(job + FIRST_OUT)
        _normalise(own, outs, length, u + to, pick(us, index), moves, BLOCK)
        to = call * all_columns + tl.load(job + FIRST_COLUMN)
        length = _length(t + to, size, eps, BLOCK)
        _normalise(t + to, size, length, v + to, pick(vs, index), moves, BLOCK)
    tl.store(sigmas + call * all_jobs + index, sigma.to(sigmas.dtype.element_ty))


NUMBERS = ["all_jobs", "all_outs", "all_columns", "column_tiles", "row_tiles", "calls", "iterations"]


@triton.jit(do_not_specialize=[*NUMBERS, "first_stage", "stages"])
def iterate(
    weights,
    us,
    vs,
    s,  # [call] of all jobs' vectors
    t,  # [call], or None without iterations: then us and vs hold u and v, and stay
    u,  # [call]
    v,
    sigmas,  # [call][job]
    jobs,
    by_column,  # [tile] of (job, first column)
    by_row,  # [tile] of (job, first row)
    counters,
    eps,
    all_jobs,
    all_outs,
    all_columns,
    column_tiles,
    row_tiles,
    calls,
    iterations,  # of a call
    first_stage,
    stages,  # the end: of all, calls · iterations times Wᵀ u and W v, or W v alone without iterations, and the states
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """u, v and sigma after each call."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    for stage in range(first_stage, stages):
        made = stage // 2  # which product by W, and by Wᵀ
        call, products = 0, 1
        if t is not None:
            call, products = made // iterations, 2 * calls * iterations
        own = s + call * all_outs
        if stage == products:
            for item in range(program, all_jobs * calls, programs):
                index, of = item % all_jobs, item // all_jobs
                _states(index, of, calls, all_jobs, us, vs, s, t, u, v, sigmas, jobs, eps, all_outs, all_columns, BLOCK)
        elif t is None:
            for tile in range(program, row_tiles, programs):
                _rows(tile, weights, vs, None, own, by_row, jobs, eps, ROWS, BLOCK)
        elif stage % 2 == 0:
            before = s + tl.maximum(made - 1, 0) // iterations * all_outs
            to = t + call * all_columns
            for tile in range(program, column_tiles, programs):
                _columns(tile, weights, us, before, made == 0, to, by_column, jobs, eps, HEIGHT, COLUMNS, BLOCK)
        else:
            for tile in range(program, row_tiles, programs):
                _rows(tile, weights, vs, t + call * all_columns, own, by_row, jobs, eps, ROWS, BLOCK)
        if stage + 1 < stages:
            together.meet(counters)

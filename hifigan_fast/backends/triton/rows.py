"""Where a convolution's tiles lie: which rows they have, what those read and where they are written.

A row of `runs` is a `geometry.Run`; tables say which rows a tile has (tables.py). A *stretch* is STRETCH consecutive
rows of a layer, which are one row of a matrix product (`convolution`).
"""

import triton
import triton.language as tl

from ..gpu import fields
from .constants import constants
from .rounding import rounded

WEIGHTS, SAMPLES, PERIOD, IN_ROWS, OUT_ROWS, IN_OFFSET, OUT_OFFSET, GRAD_IN_OFFSET, GRAD_OUT_OFFSET = constants(
    fields.Run
)
FIELDS = tl.constexpr(len(fields.Run))


@triton.jit
def divided(k0, size: tl.constexpr, COUNT: tl.constexpr):
    """k0 … k0 + COUNT - 1 as (quotients, remainders) by `size`, without a division where a block does not straddle."""
    k = tl.arange(0, COUNT)
    if size % COUNT == 0:
        return tl.zeros([COUNT], tl.int32) + k0 // size, tl.max_contiguous(tl.multiple_of(k0 % size + k, COUNT), COUNT)
    else:
        return (k0 + k) // size, (k0 + k) % size


@triton.jit
def beside(begin, sequence, step, rows, pitch, STRIDE: tl.constexpr):
    """Rows step · STRIDE in a buffer of `pitch` rows a sequence: a tile's first one, and how far all are behind it.

    A tile's rows are counted through from `begin`, `rows` a sequence. So offsets have 32 bits: fewer registers, so that
    more programs fit.
    """
    first = begin // rows * pitch + begin % rows * STRIDE
    return first, sequence * pitch + step * STRIDE - first


@triton.jit
def stretches(run, STRETCH: tl.constexpr):
    """How many stretches of output rows a sequence of a run has."""
    return tl.cdiv(tl.load(run + OUT_ROWS).to(tl.int32), STRETCH)


@triton.jit
def load_input(
    x,
    run,
    begin,
    sequence,
    row,
    live,
    tap,
    channel,
    IN: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    STEM: tl.constexpr,
    STRETCH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """[rows, columns]: what a tap of stretch `row` reads; zero outside. Stems read the waveform's fold."""
    in_rows, offset = tl.load(run + IN_ROWS).to(tl.int32), tl.load(run + IN_OFFSET)
    place = (row * (STRIDE * STRETCH) - PADDING)[:, None] + tap[None, :]
    if STEM:
        period = tl.load(run + PERIOD).to(tl.int32)
        inside = place < tl.cdiv(in_rows, period)
        at = place * period + (sequence % period)[:, None]
        at = tl.where(at < in_rows, at, 2 * (in_rows - 1) - at)  # the reflect pad
        at += offset + (sequence // period).to(tl.int64)[:, None] * in_rows
    else:
        inside = place < in_rows
        first, near = beside(begin, sequence, row, stretches(run, STRETCH), in_rows, STRIDE * STRETCH)
        at = (near[:, None] + tap[None, :]) * IN + channel[None, :]
        x += (offset + first - PADDING) * IN
    return rounded(tl.load(x + at, live & inside & (place >= 0), other=0.0), PRECISION)


@triton.jit
def head_row(run, sequence, row):
    """The number of a head's row, [...] int64; they are H-major."""
    period = tl.load(run + PERIOD).to(tl.int32)
    return ((sequence // period).to(tl.int64) * tl.load(run + OUT_ROWS) + row) * period + sequence % period


@triton.jit
def outputs(
    map,
    run,
    offset,
    begin,
    sequence,
    row,
    n,
    OUT: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    STRETCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """[BLOCK, columns]: addresses of column n of a tile's stretches, and which of their rows there are.

    Rows lie one behind the other, but for a head's.
    """
    if HEAD:
        at = map + (offset + head_row(run, sequence, row)) * OUT
        return at[:, None] + n[None, :], (n < GROUP)[None, :]
    elif STRETCH == 1:
        at = map + (offset + begin) * OUT + tl.arange(0, BLOCK) * OUT
        return at[:, None] + n[None, :], (n < GROUP)[None, :]
    else:
        out_rows = tl.load(run + OUT_ROWS).to(tl.int32)
        first, near = beside(begin, sequence, row, tl.cdiv(out_rows, STRETCH), out_rows, STRETCH)
        behind = n // GROUP
        at = near[:, None] * OUT + (behind * OUT + n % GROUP)[None, :]
        there = (row * STRETCH)[:, None] + behind[None, :] < out_rows
        return map + (offset + first) * OUT + at, there & (n < STRETCH * GROUP)[None, :]


@triton.jit
def left(run, begin, STRETCH: tl.constexpr):
    """How many stretches a run has from number `begin` on."""
    sequences = (tl.load(run + SAMPLES) * tl.load(run + PERIOD)).to(tl.int32)
    return sequences * stretches(run, STRETCH) - begin


@triton.jit
def counted(run, begin, STRETCH: tl.constexpr, BLOCK: tl.constexpr):
    """Of a run's stretches from number `begin` on, [BLOCK]: whether each is there, its sequence, its number in that."""
    out_rows = stretches(run, STRETCH)
    i = tl.arange(0, BLOCK)
    sequence, row = begin // out_rows, begin % out_rows + i
    # How many sequences further: a division by few rows. Sequences longer than a tile count as one of its length.
    fewest = tl.minimum(out_rows, BLOCK)
    behind = tl.maximum(row - (out_rows - fewest), 0)
    further = ((behind + 0.5) * (1.0 / fewest)).to(tl.int32)
    return i < left(run, begin, STRETCH), sequence + further, row - further * out_rows


@triton.jit
def tile_of(runs, tiles, tile):
    """A tile's run and its first stretch."""
    return runs + tl.load(tiles + 2 * tile) * FIELDS, tl.load(tiles + 2 * tile + 1).to(tl.int32)


@triton.jit
def in_a_row(runs, tiles, tile, end, STRETCH: tl.constexpr, BLOCK: tl.constexpr):
    """The run and the first stretch of a tile, and how many tiles from it on, as far as `end`, are of that run."""
    run, begin = tile_of(runs, tiles, tile)
    return run, begin, tl.minimum((end - tile).to(tl.int32), tl.cdiv(left(run, begin, STRETCH), BLOCK))

"""A convolution along time in its three directions: one kernel each, for the members of an ensemble in one grid.

An output row's receptive field is taps × channels of neighbouring rows, flattened into one dimension of a matrix
product (docs/design.md). Tables say which rows a tile has (tables.py); a row of `runs` is a `geometry.Run`. Effective
weights lie as [set][out channel][tap][channel of the group]. `PRECISION` is `tl.dot`'s for float32 maps.
"""

import triton
import triton.language as tl

from ..gpu import fields
from .constants import constants
from .pointers import pick
from .rounding import rounded

WEIGHTS, SAMPLES, PERIOD, IN_ROWS, OUT_ROWS, IN_OFFSET, OUT_OFFSET, GRAD_IN_OFFSET, GRAD_OUT_OFFSET = constants(
    fields.Run
)
FIELDS = tl.constexpr(len(fields.Run))


@triton.constexpr_function
def turns(columns, precision):
    """Whether a weight gradient has out channels as columns where they are fewer than the 64 rows that units want.

    Not in TF32: Triton would give a thread a position of all rows, to round it, and each thread all rows' addresses.
    """
    return columns >= 128 and precision != "tf32"


@triton.jit
def _split(k0, size: tl.constexpr, COUNT: tl.constexpr):
    """k0 … k0 + COUNT - 1 as (quotients, remainders) by `size`, without a division where a block does not straddle."""
    k = tl.arange(0, COUNT)
    if size % COUNT == 0:
        return tl.zeros([COUNT], tl.int32) + k0 // size, tl.max_contiguous(tl.multiple_of(k0 % size + k, COUNT), COUNT)
    else:
        return (k0 + k) // size, (k0 + k) % size


@triton.jit
def _beside(begin, sequence, step, rows, pitch, STRIDE: tl.constexpr):
    """Rows step · STRIDE in a buffer of `pitch` rows a sequence: a tile's first one, and how far all are behind it.

    A tile's rows are counted through from `begin`, `rows` a sequence. So offsets have 32 bits: fewer registers, so that
    more programs fit.
    """
    first = begin // rows * pitch + begin % rows * STRIDE
    return first, sequence * pitch + step * STRIDE - first


@triton.jit
def _load_input(
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
    PRECISION: tl.constexpr,
):
    """[rows, columns]: what a tap of output row `row` reads; zero outside. Stems read the waveform's fold."""
    in_rows, offset = tl.load(run + IN_ROWS).to(tl.int32), tl.load(run + IN_OFFSET)
    place = (row * STRIDE - PADDING)[:, None] + tap[None, :]
    if STEM:
        period = tl.load(run + PERIOD).to(tl.int32)
        inside = place < tl.cdiv(in_rows, period)
        at = place * period + (sequence % period)[:, None]
        at = tl.where(at < in_rows, at, 2 * (in_rows - 1) - at)  # the reflect pad
        at += offset + (sequence // period).to(tl.int64)[:, None] * in_rows
    else:
        inside = place < in_rows
        first, near = _beside(begin, sequence, row, tl.load(run + OUT_ROWS).to(tl.int32), in_rows, STRIDE)
        at = (near[:, None] + tap[None, :]) * IN + channel[None, :]
        x += (offset + first - PADDING) * IN
    return rounded(tl.load(x + at, live & inside & (place >= 0), other=0.0), PRECISION)


@triton.jit
def _head_row(run, sequence, row):
    """The number of a head's row, [...] int64; they are H-major."""
    period = tl.load(run + PERIOD).to(tl.int32)
    return ((sequence // period).to(tl.int64) * tl.load(run + OUT_ROWS) + row) * period + sequence % period


@triton.jit
def _outputs(map, run, offset, begin, sequence, row, OUT: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr):
    """Addresses of a tile's output rows, [BLOCK]: but for a head's they lie one behind the other."""
    if HEAD:
        return map + (offset + _head_row(run, sequence, row)) * OUT
    else:
        return map + (offset + begin) * OUT + tl.arange(0, BLOCK) * OUT


@triton.jit
def _left(run, begin):
    """How many output rows a run has from row `begin` on."""
    sequences = (tl.load(run + SAMPLES) * tl.load(run + PERIOD)).to(tl.int32)
    return sequences * tl.load(run + OUT_ROWS).to(tl.int32) - begin


@triton.jit
def _rows(runs, tiles, tile, BLOCK: tl.constexpr):
    """A tile's run, its first output row, and of each whether it is there, its sequence and its number in that."""
    run = runs + tl.load(tiles + 2 * tile) * FIELDS
    out_rows = tl.load(run + OUT_ROWS).to(tl.int32)
    begin = tl.load(tiles + 2 * tile + 1).to(tl.int32)
    i = tl.arange(0, BLOCK)
    sequence, row = begin // out_rows, begin % out_rows + i
    # How many sequences further: a division by few rows. Sequences longer than a tile count as one of its length.
    fewest = tl.minimum(out_rows, BLOCK)
    behind = tl.maximum(row - (out_rows - fewest), 0)
    further = ((behind + 0.5) * (1.0 / fewest)).to(tl.int32)
    return run, begin, i < _left(run, begin), sequence + further, row - further * out_rows


@triton.jit
def _block(OG: tl.constexpr, BLOCK: tl.constexpr):
    """(group, first column) of this program along axis 1."""
    blocks = tl.cdiv(OG, BLOCK)
    return tl.program_id(1) // blocks, tl.program_id(1) % blocks * BLOCK


@triton.jit
def forward(
    x,
    weight,
    bias,
    out,
    runs,
    tiles,  # [tile] of (run, first row)
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    STEM: tl.constexpr,
    HEAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = leaky(conv(x) + bias): a tile of BM rows by BN channels of a group."""
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    K: tl.constexpr = TAPS * IG
    group, first_column = _block(OG, BN)
    run, begin, live, sequence, row = _rows(runs, tiles, tl.program_id(0), BM)
    n = first_column + tl.arange(0, BN)
    channel = group * OG + n
    weights = tl.load(run + WEIGHTS)
    column = weight + (weights * OUT + channel) * K
    sums = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        tap, part = _split(k0, IG, BK)
        k_live = k0 + tl.arange(0, BK) < K
        a = _load_input(
            x,
            run,
            begin,
            sequence,
            row,
            live[:, None] & k_live[None, :],
            tap,
            group * IG + part,
            IN,
            STRIDE,
            PADDING,
            STEM,
            PRECISION,
        )
        b = tl.load(column[None, :] + (k0 + tl.arange(0, BK))[:, None], k_live[:, None] & (n < OG)[None, :], other=0.0)
        sums = tl.dot(a.to(b.dtype), b, sums, input_precision=PRECISION)
    sums += tl.load(bias + weights * OUT + channel, n < OG, other=0.0).to(tl.float32)[None, :]
    sums = tl.where(sums > 0, sums, sums * slope)
    rows = _outputs(out, run, tl.load(run + OUT_OFFSET), begin, sequence, row, OUT, HEAD, BM)
    tl.store(
        rows[:, None] + channel[None, :],
        sums.to(out.dtype.element_ty),
        live[:, None] & (n < OG)[None, :],
    )


@triton.jit
def _mask(sums, saved, map_grads, matching, scale, to, index, above, at, wanted, slope, RUNS, PRECISION):
    """to = (sums + map_grad) · leaky'(saved), at places that are wanted; see `input_grad`."""
    if matching is not None:
        mask = tl.load(saved + at, wanted, other=0.0)
        given = tl.load(pick(map_grads, index) + above + at, wanted, other=0.0)
        sums += tl.where(mask > given, scale, tl.where(mask < given, -scale, (mask - given).to(tl.float32)))  # 0 or NaN
    else:
        for i in tl.static_range(RUNS):  # len() of a tuple with None does not compile on Triton 3.6
            if map_grads[i] is not None:  # noqa: SIM102 - the one is known when compiled, the other when run
                if index == i:
                    sums += tl.load(map_grads[i] + above + at, wanted, other=0.0).to(tl.float32)
        mask = tl.load(saved + at, wanted, other=0.0)
    sums = tl.where(mask > 0, sums, sums * slope)
    tl.store(to + at, rounded(sums.to(to.dtype.element_ty), PRECISION), wanted)


@triton.jit(do_not_specialize_on_alignment=["matching"])
def input_grad(
    grad_out,
    weight,
    saved,
    map_grads,  # a pointer or None for each run
    matching,  # [run], or None
    grad_in,
    runs,
    tiles,  # [tile] of (run, phase, first row of the phase)
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    RUNS: tl.constexpr,
    HEAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): BM rows of one phase by BN channels of a group.

    With `matching`, map_grads are the other side's maps, and matching · sign(saved - map) is added.

    Input rows i with (i + PADDING) % STRIDE = phase meet taps phase, phase + STRIDE, … and no other.
    """
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    tile = tl.program_id(0)
    group, first_column = _block(IG, BN)
    index, phase = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1).to(tl.int32)
    run = runs + index * FIELDS
    in_rows, out_rows = tl.load(run + IN_ROWS).to(tl.int32), tl.load(run + OUT_ROWS).to(tl.int32)
    first = (phase + (STRIDE * PADDING - PADDING)) % STRIDE  # the phase's first row
    rows = tl.cdiv(in_rows - first, STRIDE)
    begin = tl.load(tiles + 3 * tile + 2).to(tl.int32)
    m = begin + tl.arange(0, BM)
    live = m < (tl.load(run + SAMPLES) * tl.load(run + PERIOD)).to(tl.int32) * rows
    sequence, step = m // rows, m % rows
    shift = (first + PADDING - phase) // STRIDE
    nearest = step + shift  # the output row that the first tap leads to
    n = first_column + tl.arange(0, BN)
    column = weight + tl.load(run + WEIGHTS) * (OUT * TAPS * IG) + phase * IG + n
    offset = tl.load(run + GRAD_OUT_OFFSET)
    reached, near = _beside(begin, sequence, step, rows, out_rows, 1)
    sums = tl.zeros([BM, BN], tl.float32)
    depth = tl.cdiv(TAPS - phase, STRIDE) * OG
    for k0 in range(0, depth, BK):
        back, part = _split(k0, OG, BK)
        k_live = k0 + tl.arange(0, BK) < depth
        row = nearest[:, None] - back[None, :]
        channel = group * OG + part
        if HEAD:
            grads = grad_out + (offset + _head_row(run, sequence[:, None], row)) * OUT
        else:
            grads = grad_out + (offset + reached + shift) * OUT + (near[:, None] - back[None, :]) * OUT
        inside = live[:, None] & k_live[None, :] & (row >= 0) & (row < out_rows)
        a = tl.load(grads + channel[None, :], inside, other=0.0)
        if HEAD:
            a = rounded(a, PRECISION)  # the loss's; all others come from here, rounded
        filters = (channel * TAPS + back * STRIDE) * IG
        b = tl.load(column[None, :] + filters[:, None], k_live[:, None] & (n < IG)[None, :], other=0.0)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    nearby, own = _beside(begin, sequence, step, rows, in_rows, STRIDE)
    above = (nearby + first).to(tl.int64) * IN + group * IG + first_column
    stored, to = saved + tl.load(run + IN_OFFSET) * IN + above, grad_in + tl.load(run + GRAD_IN_OFFSET) * IN + above
    scale = 0.0
    if matching is not None:
        scale = tl.load(matching + index)
    # Half of the columns at a time: with both maps an epilogue would have too few registers for two programs.
    PARTS: tl.constexpr = 2 if BN >= 64 else 1
    parts = (sums,)
    if PARTS == 2:
        parts = tl.split(tl.permute(tl.reshape(sums, (BM, 2, BN // 2)), (0, 2, 1)))
    for i in tl.static_range(PARTS):
        n = i * (BN // PARTS) + tl.arange(0, BN // PARTS)
        at, wanted = own[:, None] * IN + n[None, :], live[:, None] & (n < IG - first_column)[None, :]
        _mask(parts[i], stored, map_grads, matching, scale, to, index, above, at, wanted, slope, RUNS, PRECISION)


@triton.jit
def _column_sums(grad_out, runs, tiles, first_tile, end, channel, wanted, OUT: tl.constexpr, BLOCK: tl.constexpr):
    """Of some channels the sum over all rows of some tiles, in whichever order they lie.

    In a loop of its own, though the product has the same tiles: what a product in flight reads, registers shall not.
    """
    i = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK, channel.shape[0]], tl.float32)
    for tile in range(first_tile, end):
        run = runs + tl.load(tiles + 2 * tile) * FIELDS
        begin = tl.load(tiles + 2 * tile + 1).to(tl.int32)
        rows = grad_out + (tl.load(run + GRAD_OUT_OFFSET) + begin) * OUT + i * OUT
        live = (i < _left(run, begin))[:, None] & wanted[None, :]
        sums += tl.load(rows[:, None] + channel[None, :], live, other=0.0).to(tl.float32)
    return tl.sum(sums, 0)


@triton.jit
def weight_grad(
    x,
    grad_out,
    partial,  # [split][out channel][tap][channel of the group]
    partial_bias,  # [split][out channel]
    runs,
    tiles,  # [tile] of (run, first row)
    splits,  # [split] of (first tile, end)
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    STEM: tl.constexpr,
    HEAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One split's gradient of the effective weights: BM out channels by BN positions, over tiles of BK rows."""
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    K: tl.constexpr = TAPS * IG
    split = tl.program_id(0)
    group, first_channel = _block(OG, BM)
    k0 = tl.program_id(2) * BN
    o, k = first_channel + tl.arange(0, BM), k0 + tl.arange(0, BN)
    channel = group * OG + o
    tap, part = _split(k0, IG, BN)
    TURNED: tl.constexpr = BM < 64 and turns(BN, PRECISION)
    sums = tl.zeros([BN, BM] if TURNED else [BM, BN], tl.float32)
    first_tile, end = tl.load(splits + 2 * split), tl.load(splits + 2 * split + 1)
    for tile in range(first_tile, end):
        run, begin, live, sequence, row = _rows(runs, tiles, tile, BK)
        rows = _outputs(grad_out, run, tl.load(run + GRAD_OUT_OFFSET), begin, sequence, row, OUT, HEAD, BK)
        grad = tl.load(rows[:, None] + channel[None, :], live[:, None] & (o < OG)[None, :], other=0.0)
        inputs = _load_input(
            x,
            run,
            begin,
            sequence,
            row,
            live[:, None] & (k < K)[None, :],
            tap,
            group * IG + part,
            IN,
            STRIDE,
            PADDING,
            STEM,
            PRECISION,
        )
        inputs = inputs.to(grad.dtype)
        if HEAD:
            grad = rounded(grad, PRECISION)
        if TURNED:
            sums = tl.dot(tl.trans(inputs), grad, sums, input_precision=PRECISION)
        else:
            sums = tl.dot(tl.trans(grad), inputs, sums, input_precision=PRECISION)
    at = split.to(tl.int64) * OUT + channel
    if TURNED:
        tl.store(partial + at[None, :] * K + k[:, None], sums, (o < OG)[None, :] & (k < K)[:, None])
    else:
        tl.store(partial + at[:, None] * K + k[None, :], sums, (o < OG)[:, None] & (k < K)[None, :])
    if tl.program_id(2) == 0:
        bias = _column_sums(grad_out, runs, tiles, first_tile, end, channel, o < OG, OUT, BK)
        tl.store(partial_bias + at, bias, o < OG)

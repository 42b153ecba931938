"""A convolution along time in its three directions: one kernel each, for the members of an ensemble in one grid.

An output row's receptive field is taps × channels of neighbouring rows, flattened into one dimension of a matrix
product (docs/design.md). Tables say which rows a tile has (tables.py); a row of `runs` is a `geometry.Run`. Effective
weights lie as [set][out channel][tap][channel of the group]. `PRECISION` is `tl.dot`'s for float32 maps.

Of groups with few channels a row of the matrix stands for a *stretch* of STRETCH consecutive rows of the layer, its
columns for each one's channels: one window of the other side serves all of them, and its rows are read once instead of
STRETCH times, for a few products with taps that there are not.
"""

import triton
import triton.language as tl

from .pointers import pick
from .rounding import rounded
from .rows import (
    FIELDS,
    GRAD_IN_OFFSET,
    GRAD_OUT_OFFSET,
    IN_OFFSET,
    IN_ROWS,
    OUT_OFFSET,
    OUT_ROWS,
    PERIOD,
    SAMPLES,
    WEIGHTS,
    beside,
    counted,
    divided,
    head_row,
    in_a_row,
    load_input,
    outputs,
    tile_of,
)


@triton.constexpr_function
def turns(columns, precision):
    """Whether a weight gradient has out channels as columns where they are fewer than the 64 rows that units want.

    Not in TF32: Triton would give a thread a position of all rows, to round it, and each thread all rows' addresses.
    """
    return columns >= 128 and precision != "tf32"


@triton.jit
def _sum(a, b, sums, PRECISION: tl.constexpr):
    """sums + a · b. In exact float32 a block's sum is one part: a chain of a thousand multiply-adds loses bits."""
    if PRECISION == "ieee" and b.dtype == tl.float32:
        # Not by `+`, which Triton makes a longer chain of; LLVM makes an addition of it.
        return tl.fma(tl.dot(a, b, input_precision=PRECISION), 1.0, sums)
    else:
        return tl.dot(a, b, sums, input_precision=PRECISION)


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
    tiles,  # [tile] of (run, first stretch)
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    STEM: tl.constexpr,
    HEAD: tl.constexpr,
    STRETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = leaky(conv(x) + bias): a tile of BM stretches by BN of their channels of a group."""
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    OWN: tl.constexpr = TAPS * IG
    K: tl.constexpr = OWN + (STRETCH - 1) * STRIDE * IG
    group, first_column = _block(STRETCH * OG, BN)
    run, begin = tile_of(runs, tiles, tl.program_id(0))
    live, sequence, row = counted(run, begin, STRETCH, BM)
    n = first_column + tl.arange(0, BN)
    wanted = n < STRETCH * OG
    channel = group * OG + n
    above = tl.zeros([BN], tl.int32)  # a column's first tap
    if STRETCH > 1:
        channel, above = group * OG + n % OG, n // OG * (STRIDE * IG)
    weights = tl.load(run + WEIGHTS)
    column = weight + (weights * OUT + channel) * OWN - above
    sums = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        tap, part = divided(k0, IG, BK)
        a = load_input(
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
            STRETCH,
            PRECISION,
        )
        met = (k < K)[:, None] & wanted[None, :]
        if STRETCH > 1:
            met = wanted[None, :] & (k[:, None] >= above[None, :]) & (k[:, None] < (above + OWN)[None, :])
        b = tl.load(column[None, :] + k[:, None], met, other=0.0)
        sums = _sum(a.to(b.dtype), b, sums, PRECISION)
    sums += tl.load(bias + weights * OUT + channel, wanted, other=0.0).to(tl.float32)[None, :]
    sums = tl.where(sums > 0, sums, sums * slope)
    to = out + group * OG
    at, there = outputs(to, run, tl.load(run + OUT_OFFSET), begin, sequence, row, n, OUT, OG, HEAD, STRETCH, BM)
    tl.store(at, sums.to(out.dtype.element_ty), live[:, None] & there)


@triton.jit
def _mask(sums, saved, map_grads, matching, scale, to, index, above, at, wanted, slope, RUNS):
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
    tl.store(to + at, sums.to(to.dtype.element_ty), wanted)


@triton.jit(do_not_specialize_on_alignment=["matching"])
def input_grad(
    grad_out,
    weight,
    saved,
    map_grads,  # a pointer or None for each run
    matching,  # [run], or None
    grad_in,
    runs,
    tiles,  # [tile] of (run, phase, first row of the phase), or of (run, 0, first stretch)
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    RUNS: tl.constexpr,
    HEAD: tl.constexpr,
    STRETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): BM rows of one phase by BN channels of a group.

    With `matching`, map_grads are the other side's maps, and matching · sign(saved - map) is added.

    Input rows i with (i + PADDING) % STRIDE = phase meet taps phase, phase + STRIDE, … and no other. A stretch has as
    many rows of each phase; it begins with one of phase 0, which may lie before the sequence.
    """
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    tile = tl.program_id(0)
    EACH: tl.constexpr = STRETCH if STRETCH > 1 else STRIDE  # rows of the layer from one of the matrix to the next
    MOVED: tl.constexpr = EACH // STRIDE  # output rows
    group, first_column = _block(STRETCH * IG, BN)
    index, phase = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1).to(tl.int32)
    run = runs + index * FIELDS
    in_rows, out_rows = tl.load(run + IN_ROWS).to(tl.int32), tl.load(run + OUT_ROWS).to(tl.int32)
    # The phase's first row, or the stretch's.
    first = -(PADDING % STRIDE) if STRETCH > 1 else (phase + (STRIDE * PADDING - PADDING)) % STRIDE
    rows = tl.cdiv(in_rows - first, EACH)
    begin = tl.load(tiles + 3 * tile + 2).to(tl.int32)
    m = begin + tl.arange(0, BM)
    live = m < (tl.load(run + SAMPLES) * tl.load(run + PERIOD)).to(tl.int32) * rows
    sequence, step = m // rows, m % rows
    shift = (first + PADDING - phase) // STRIDE + (MOVED - 1)
    nearest = step * MOVED + shift  # the last output row that a tap leads to
    n = first_column + tl.arange(0, BN)
    behind = (phase - (MOVED - 1) * STRIDE) * IG + n  # from a filter's begin, of the first tap
    column = weight + tl.load(run + WEIGHTS) * (OUT * TAPS * IG) + behind
    offset = tl.load(run + GRAD_OUT_OFFSET)
    reached, near = beside(begin, sequence, step, rows, out_rows, MOVED)
    sums = tl.zeros([BM, BN], tl.float32)
    depth = (tl.cdiv(TAPS - phase, STRIDE) + (MOVED - 1)) * OG
    for k0 in range(0, depth, BK):
        back, part = divided(k0, OG, BK)
        k_live = k0 + tl.arange(0, BK) < depth
        row = nearest[:, None] - back[None, :]
        channel = group * OG + part
        if HEAD:
            grads = grad_out + (offset + head_row(run, sequence[:, None], row)) * OUT
        else:
            grads = grad_out + (offset + reached + shift) * OUT + (near[:, None] - back[None, :]) * OUT
        inside = live[:, None] & k_live[None, :] & (row >= 0) & (row < out_rows)
        a = rounded(tl.load(grads + channel[None, :], inside, other=0.0), PRECISION)
        met = k_live[:, None] & (n < STRETCH * IG)[None, :]
        if STRETCH > 1:
            own = behind[None, :] + (back * (STRIDE * IG))[:, None]
            met = met & (own >= 0) & (own < TAPS * IG)
        filters = (channel * TAPS + back * STRIDE) * IG
        b = tl.load(column[None, :] + filters[:, None], met, other=0.0)
        sums = _sum(a, b, sums, PRECISION)
    nearby, own = beside(begin, sequence, step, rows, in_rows, EACH)
    above = (nearby + first).to(tl.int64) * IN + group * IG
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
        n = first_column + i * (BN // PARTS) + tl.arange(0, BN // PARTS)
        at, wanted = own[:, None] * IN + n[None, :], live[:, None] & (n < STRETCH * IG)[None, :]
        if STRETCH > 1:
            row = (first + step * STRETCH)[:, None] + (n // IG)[None, :]
            at = own[:, None] * IN + (n // IG * IN + n % IG)[None, :]
            wanted = wanted & (row >= 0) & (row < in_rows)
        _mask(parts[i], stored, map_grads, matching, scale, to, index, above, at, wanted, slope, RUNS)


@triton.jit
def _column_sums(
    grad_out,
    runs,
    tiles,
    first_tile,
    end,
    o,
    OUT: tl.constexpr,
    GROUP: tl.constexpr,
    STRETCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of columns `o` of stretches the sum over all of some tiles; of a head's, in whichever order they lie.

    In a loop of its own, though the product has the same tiles: what a product in flight reads, registers shall not.
    """
    sums = tl.zeros([BLOCK, o.shape[0]], tl.float32)
    tile = first_tile
    while tile < end:
        run, first, count = in_a_row(runs, tiles, tile, end, STRETCH, BLOCK)
        offset = tl.load(run + GRAD_OUT_OFFSET)
        for begin in range(first, first + count * BLOCK, BLOCK):
            live, sequence, row = counted(run, begin, STRETCH, BLOCK)
            at, there = outputs(grad_out, run, offset, begin, sequence, row, o, OUT, GROUP, False, STRETCH, BLOCK)
            sums += tl.load(at, live[:, None] & there, other=0.0).to(tl.float32)
        tile += count
    return tl.sum(sums, 0)


@triton.jit
def weight_grad(
    x,
    grad_out,
    partial,  # [split][row of a stretch][out channel][tap][channel of the group]
    partial_bias,  # [split][row of a stretch][out channel]
    runs,
    tiles,  # [tile] of (run, first stretch)
    splits,  # [split] of (first tile, end)
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    STEM: tl.constexpr,
    HEAD: tl.constexpr,
    STRETCH: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One split's gradient of the effective weights: BM channels of stretches by BN positions, over tiles of BK.

    Each row of a stretch has sums of its own.
    """
    IG: tl.constexpr = IN // GROUPS
    OG: tl.constexpr = OUT // GROUPS
    OWN: tl.constexpr = TAPS * IG
    K: tl.constexpr = OWN + (STRETCH - 1) * STRIDE * IG
    split = tl.program_id(0)
    group, first_channel = _block(STRETCH * OG, BM)
    k0 = tl.program_id(2) * BN
    o, k = first_channel + tl.arange(0, BM), k0 + tl.arange(0, BN)
    tap, part = divided(k0, IG, BN)
    TURNED: tl.constexpr = BM < 64 and turns(BN, PRECISION)
    sums = tl.zeros([BN, BM] if TURNED else [BM, BN], tl.float32)
    first_tile, end = tl.load(splits + 2 * split), tl.load(splits + 2 * split + 1)
    grads = grad_out + group * OG
    tile = first_tile
    while tile < end:  # a loop for each run: within it nothing is looked up
        run, first, count = in_a_row(runs, tiles, tile, end, STRETCH, BK)
        offset = tl.load(run + GRAD_OUT_OFFSET)
        for begin in range(first, first + count * BK, BK):
            live, sequence, row = counted(run, begin, STRETCH, BK)
            at, there = outputs(grads, run, offset, begin, sequence, row, o, OUT, OG, HEAD, STRETCH, BK)
            grad = rounded(tl.load(at, live[:, None] & there, other=0.0), PRECISION)
            inputs = load_input(
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
                STRETCH,
                PRECISION,
            )
            inputs = inputs.to(grad.dtype)
            if TURNED:
                sums = _sum(tl.trans(inputs), grad, sums, PRECISION)
            else:
                sums = _sum(tl.trans(grad), inputs, sums, PRECISION)
        tile += count
    wanted, channel, above = o < STRETCH * OG, group * OG + o, tl.zeros([BM], tl.int32)
    if STRETCH > 1:  # the sums of a row of a stretch lie behind those of the one before
        channel, above = group * OG + o % OG + o // OG * OUT, o // OG * (STRIDE * IG)
    at = split.to(tl.int64) * (STRETCH * OUT) + channel
    to = partial + at * OWN - above
    if TURNED:
        own = k[:, None] - above[None, :]
        tl.store(to[None, :] + k[:, None], sums, wanted[None, :] & (own >= 0) & (own < OWN))
    else:
        own = k[None, :] - above[:, None]
        tl.store(to[:, None] + k[None, :], sums, wanted[:, None] & (own >= 0) & (own < OWN))
    if tl.program_id(2) == 0:
        bias = _column_sums(grads, runs, tiles, first_tile, end, o, OUT, OG, STRETCH, BK)
        tl.store(partial_bias + at, bias, wanted)

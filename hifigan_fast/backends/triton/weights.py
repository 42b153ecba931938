"""From parameters to effective weights and back, for all layers and sets of an ensemble, some rows a program.

A raw row is [channel of the group][tap], a packed one [tap][channel]. Pointers come as tuples, one for each job; a
job's numbers are a row of `jobs` (tables.py).
"""

import triton
import triton.language as tl

from ..gpu import fields
from .constants import constants
from .pointers import pick
from .rounding import rounded

PLAIN, WEIGHT, SPECTRAL = constants(fields.Norm)
KIND, OUT, CHANNELS, TAPS, PACKED, FIRST = constants(fields.Pack)
PACK_FIELDS = tl.constexpr(len(fields.Pack))
_, _, _, _, DEPTH, GRAD, FIRST_GRAD, SETS = constants(fields.Finish)
INNER, BEGIN, END, SLOT = constants(fields.Set)
SET_FIELDS, MOST_SETS = tl.constexpr(len(fields.Set)), tl.constexpr(fields.MOST_SETS)
FINISH_FIELDS = tl.constexpr(fields.FINISH_FIELDS)


@triton.jit
def _job(programs, jobs, FIELDS_OF: tl.constexpr, ROWS: tl.constexpr):
    """This program's job: its number, its fields, its out channels and which of them there are."""
    program = programs + 2 * tl.program_id(0)
    index = tl.load(program)
    job = jobs + index * FIELDS_OF
    out = tl.load(program + 1).to(tl.int32) + tl.arange(0, ROWS)
    return index, job, out, out < tl.load(job + OUT)


@triton.jit
def _tile(first_channel, first_tap, channels, taps, AT_ONCE: tl.constexpr, TAPS_AT_ONCE: tl.constexpr):
    """[tap, channel] of a row: its places in a packed row and in a raw one, and which there are.

    Of both lines are read and written whole: Triton turns the tile in shared memory.
    """
    tap, channel = (first_tap + tl.arange(0, TAPS_AT_ONCE))[:, None], (first_channel + tl.arange(0, AT_ONCE))[None, :]
    return tap * channels + channel, channel * taps + tap, (tap < taps) & (channel < channels)


@triton.jit
def pack(
    raws,
    magnitudes,  # of weight norm; anything elsewhere
    sigmas,  # of spectral norm; anything elsewhere
    biases,
    packed,
    scales,
    norms,
    packed_biases,
    programs,  # [program] of (job, first out channel)
    jobs,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TAPS_AT_ONCE: tl.constexpr,
):
    """packed = raw · scale; scale = magnitude / |raw|, 1 / sigma, or 1."""
    index, job, out, live = _job(programs, jobs, PACK_FIELDS, ROWS)
    BLOCK: tl.constexpr = AT_ONCE * TAPS_AT_ONCE
    kind, channels = tl.load(job + KIND), tl.load(job + CHANNELS).to(tl.int32)
    taps = tl.load(job + TAPS).to(tl.int32)
    size, at = channels * taps, tl.load(job + FIRST) + out
    raw = pick(raws, index) + out.to(tl.int64)[:, None] * size
    scale = tl.full([ROWS], 1.0, tl.float32)
    norm = scale
    if kind == WEIGHT:
        squares = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            k = start + tl.arange(0, BLOCK)
            value = tl.load(raw + k[None, :], live[:, None] & (k < size)[None, :], other=0.0).to(tl.float32)
            squares += value * value
        norm = tl.sqrt_rn(tl.sum(squares, 1))
        magnitude = tl.load(pick(magnitudes, index) + out, live, other=0.0).to(tl.float32)
        scale = tl.div_rn(magnitude, tl.where(live, norm, 1.0))
    elif kind == SPECTRAL:
        scale = tl.div_rn(scale, tl.load(pick(sigmas, index)).to(tl.float32))
    tl.store(scales + at, scale, live)
    tl.store(norms + at, norm, live)
    tl.store(packed_biases + at, tl.load(pick(biases, index) + out, live, other=0.0).to(tl.float32), live)
    raw, to = raw[:, :, None], (packed + tl.load(job + PACKED) + out.to(tl.int64) * size)[:, None, None]
    for first in range(0, channels, AT_ONCE):
        for tap in range(0, taps, TAPS_AT_ONCE):
            packed_at, raw_at, there = _tile(first, tap, channels, taps, AT_ONCE, TAPS_AT_ONCE)
            inside = live[:, None, None] & there[None, :, :]
            value = tl.load(raw + raw_at[None, :, :], inside, other=0.0).to(tl.float32)
            value = (value * scale[:, None, None]).to(packed.dtype.element_ty)
            tl.store(to + packed_at[None, :, :], rounded(value, PRECISION), inside)


@triton.jit
def _total(partial, split_size, begin, end, at, inside):
    """The sum of some rows' splits, in their order."""
    total = tl.zeros(at.shape, tl.float32)
    for split in range(begin, end):
        total += tl.load(partial + split * split_size + at, inside, other=0.0)
    return total


@triton.jit
def _splits(own):
    """The first split and the end of a set of a job."""
    return tl.load(own + BEGIN).to(tl.int32), tl.load(own + END).to(tl.int32)


@triton.jit
def finish(
    raws,
    partials,  # of a depth
    partial_biases,
    scales,  # of a slot: a set of a job
    norms,
    inners,
    grads,
    magnitude_grads,
    bias_grads,
    programs,
    jobs,
    ROWS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TAPS_AT_ONCE: tl.constexpr,
):
    """Rows' gradients from the sums of their splits: of raw (with sigma held fixed), magnitude and bias.

    inner = <gradient of the effective weight, raw>; of weight norm: grad = scale · (g - inner / norm² · raw).
    """
    index, job, out, live = _job(programs, jobs, FINISH_FIELDS, ROWS)
    kind, outs, taps = tl.load(job + KIND), tl.load(job + OUT), tl.load(job + TAPS).to(tl.int32)
    channels, depth = tl.load(job + CHANNELS).to(tl.int32), tl.load(job + DEPTH)
    size, split_size = channels * taps, outs * channels * taps
    row = out.to(tl.int64)[:, None, None] * size
    raw = pick(raws, index) + row
    partial, partial_bias = pick(partials, depth), pick(partial_biases, depth)
    inner, bias = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for s in tl.static_range(MOST_SETS):
        own = job + SETS + s * SET_FIELDS
        begin, end = _splits(own)
        products = tl.zeros([ROWS, TAPS_AT_ONCE, AT_ONCE], tl.float32)
        for first in range(0, channels, AT_ONCE):
            for tap in range(0, taps, TAPS_AT_ONCE):
                packed_at, raw_at, there = _tile(first, tap, channels, taps, AT_ONCE, TAPS_AT_ONCE)
                inside = live[:, None, None] & there[None, :, :]
                value = tl.load(raw + raw_at[None, :, :], inside, other=0.0).to(tl.float32)
                products += _total(partial, split_size, begin, end, row + packed_at[None, :, :], inside) * value
        product = tl.sum(tl.sum(products, 2), 1)
        if begin < end:
            tl.store(inners + tl.load(own + INNER) + out, product, live)
        inner += product
        bias += _total(partial_bias, outs, begin, end, out, live)
    at = tl.load(job + FIRST_GRAD) + out
    tl.store(bias_grads + at, bias.to(bias_grads.dtype.element_ty), live)
    scale = tl.load(pick(scales, tl.load(job + SETS + SLOT)) + out, live, other=0.0)
    along, magnitude_grad = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if kind == WEIGHT:
        norm = tl.load(pick(norms, tl.load(job + SETS + SLOT)) + out, live, other=1.0)
        along = inner / (norm * norm)
        magnitude_grad = inner / norm
    tl.store(magnitude_grads + at, magnitude_grad.to(magnitude_grads.dtype.element_ty), live)
    to = grads + tl.load(job + GRAD) + row
    for first in range(0, channels, AT_ONCE):
        for tap in range(0, taps, TAPS_AT_ONCE):
            packed_at, raw_at, there = _tile(first, tap, channels, taps, AT_ONCE, TAPS_AT_ONCE)
            inside = live[:, None, None] & there[None, :, :]
            total = tl.zeros([ROWS, TAPS_AT_ONCE, AT_ONCE], tl.float32)
            for s in tl.static_range(MOST_SETS):
                own = job + SETS + s * SET_FIELDS
                begin, end = _splits(own)
                if begin < end:
                    by = tl.load(pick(scales, tl.load(own + SLOT)) + out, live, other=0.0)[:, None, None]
                    total += by * _total(partial, split_size, begin, end, row + packed_at[None, :, :], inside)
            own_part = tl.load(raw + raw_at[None, :, :], inside, other=0.0).to(tl.float32)
            total -= (scale * along)[:, None, None] * own_part
            tl.store(to + raw_at[None, :, :], total.to(grads.dtype.element_ty), inside)


@triton.jit
def finish_spectral(
    us,
    vs,
    sigmas,
    inners,
    grads,
    programs,
    jobs,
    ROWS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TAPS_AT_ONCE: tl.constexpr,
):
    """grads -= the part of the gradient through sigma = uᵀ W v: for each set, sum(inner) / sigma² · u vᵀ."""
    BLOCK: tl.constexpr = AT_ONCE * TAPS_AT_ONCE
    _, job, out, live = _job(programs, jobs, FINISH_FIELDS, ROWS)
    outs = tl.load(job + OUT).to(tl.int32)
    size = (tl.load(job + CHANNELS) * tl.load(job + TAPS)).to(tl.int32)
    to = grads + tl.load(job + GRAD) + out.to(tl.int64)[:, None] * size
    for s in tl.static_range(MOST_SETS):
        own = job + SETS + s * SET_FIELDS
        begin, end = _splits(own)
        if begin < end:
            if s:  # the same elements again, perhaps by other threads
                tl.debug_barrier()
            slot = tl.load(own + SLOT)
            inner = inners + tl.load(own + INNER)
            total = tl.zeros([BLOCK], tl.float32)
            for start in range(0, outs, BLOCK):
                o = start + tl.arange(0, BLOCK)
                total += tl.load(inner + o, o < outs, other=0.0)
            sigma = tl.load(pick(sigmas, slot)).to(tl.float32)
            u = tl.load(pick(us, slot) + out, live, other=0.0).to(tl.float32) * (tl.sum(total) / (sigma * sigma))
            v = pick(vs, slot)
            for start in range(0, size, BLOCK):
                k = start + tl.arange(0, BLOCK)
                inside = live[:, None] & (k < size)[None, :]
                grad = tl.load(to + k[None, :], inside, other=0.0).to(tl.float32)
                grad -= u[:, None] * tl.load(v + k, k < size, other=0.0).to(tl.float32)[None, :]
                tl.store(to + k[None, :], grad.to(grads.dtype.element_ty), inside)

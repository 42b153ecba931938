"""From parameters to effective weights and back, for all layers and sets of an ensemble, some rows a program.

A raw row is [channel of the group][tap], a packed one [tap][channel]. Pointers come as tuples, one for each job; a
job's numbers are a row of `jobs` (tables.py).
"""

import triton
import triton.language as tl

from ..gpu import fields
from .constants import constants
from .pointers import ask_for, pick
from .rounding import rounded

PLAIN, WEIGHT, SPECTRAL = constants(fields.Norm)
KIND, OUT, CHANNELS, TAPS, PACKED, FIRST, EXACT = constants(fields.Pack)
PACK_FIELDS = tl.constexpr(len(fields.Pack))
_, _, _, _, DEPTH, GRAD, FIRST_GRAD, SETS = constants(fields.Finish)
INNER, BEGIN, END, SLOT = constants(fields.Set)
SET_FIELDS, MOST_SETS = tl.constexpr(len(fields.Set)), tl.constexpr(fields.MOST_SETS)
FINISH_FIELDS = tl.constexpr(fields.FINISH_FIELDS)
THIN, SPLITS = tl.constexpr(256), tl.constexpr(32)  # elements of a row so short that so many splits go at a time
LINES = tl.constexpr(256)  # of a row that are asked for: of up to 8192 elements all
FEW, MANY = tl.constexpr(8), tl.constexpr(64)  # taps of a tile, by how many a row has


@triton.jit
def _job(programs, jobs, FIELDS_OF: tl.constexpr, ROWS: tl.constexpr):
    """This program's job: its number, its fields, its out channels and which of them there are."""
    program = programs + 2 * tl.program_id(0)
    index = tl.load(program)
    job = jobs + index * FIELDS_OF
    out = tl.load(program + 1).to(tl.int32) + tl.arange(0, ROWS)
    return index, job, out, out < tl.load(job + OUT)


@triton.jit
def _tile(number, channels, taps, live, TAPS_AT_ONCE: tl.constexpr, AT_ONCE: tl.constexpr):
    """[row, tap, channel] of a row's tile: its places in a packed row and in a raw one, and which there are.

    Of both lines are read and written whole: Triton turns the tile in shared memory.
    """
    across = tl.cdiv(taps, TAPS_AT_ONCE)
    tap = (number % across * TAPS_AT_ONCE + tl.arange(0, TAPS_AT_ONCE))[None, :, None]
    channel = (number // across * AT_ONCE + tl.arange(0, AT_ONCE))[None, None, :]
    inside = live[:, None, None] & (tap < taps) & (channel < channels)
    return tap * channels + channel, channel * taps + tap, inside


@triton.jit
def _tiles(channels, taps, TAPS_AT_ONCE: tl.constexpr, AT_ONCE: tl.constexpr):
    """How many tiles a row has."""
    return tl.cdiv(channels, AT_ONCE) * tl.cdiv(taps, TAPS_AT_ONCE)


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
    ELEMENTS: tl.constexpr,
):
    """packed = raw · scale; scale = magnitude / |raw|, 1 / sigma, or 1."""
    index, job, out, live = _job(programs, jobs, PACK_FIELDS, ROWS)
    kind, channels = tl.load(job + KIND), tl.load(job + CHANNELS).to(tl.int32)
    taps = tl.load(job + TAPS).to(tl.int32)
    size, at = channels * taps, tl.load(job + FIRST) + out
    row = out.to(tl.int64) * size
    raw, to = pick(raws, index) + row[:, None], (packed + tl.load(job + PACKED) + row)[:, None, None]
    scale = tl.full([ROWS], 1.0, tl.float32)
    norm = scale
    if kind == WEIGHT:
        squares = tl.zeros([ROWS, ELEMENTS], tl.float32)
        for start in range(0, size, ELEMENTS):
            k = start + tl.arange(0, ELEMENTS)
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
    raw, exact = raw[:, :, None], tl.load(job + EXACT) != 0
    AT_ONCE: tl.constexpr = ELEMENTS // FEW
    for number in range(_tiles(channels, taps, FEW, AT_ONCE)):
        packed_at, raw_at, inside = _tile(number, channels, taps, live, FEW, AT_ONCE)
        value = tl.load(raw + raw_at, inside, other=0.0).to(tl.float32)
        value = (value * scale[:, None, None]).to(to.dtype.element_ty)
        if PRECISION == "tf32":
            value = tl.where(exact, value, rounded(value, PRECISION))
        tl.store(to + packed_at, value, inside)


@triton.jit
def _some(partial, split_size, first, end, at, inside, SPLITS: tl.constexpr):
    """The sum of SPLITS splits from the first one on, as far as there are."""
    split = first + tl.arange(0, SPLITS)[None, :, None, None]
    found = tl.load(partial[:, None] + split * split_size + at[:, None], inside[:, None] & (split < end), other=0.0)
    return tl.sum(found, 1)


@triton.jit
def _rest(total, partial, split_size, first, end, at, inside, SPLITS: tl.constexpr):
    """The splits from `first` on added to `total`, in their order."""
    for split in range(first, end, SPLITS):
        total += _some(partial, split_size, split, end, at, inside, SPLITS)
    return total


@triton.jit
def _tile_of(raw, partial, split_size, begin, end, raw_at, packed_at, inside, SPLITS: tl.constexpr):
    """A tile of `raw` and the sum of its splits; the first of both are under way together."""
    total = _some(partial, split_size, begin, end, packed_at, inside, SPLITS)
    value = tl.load(raw + raw_at, inside, other=0.0).to(tl.float32)
    return value, _rest(total, partial, split_size, begin + SPLITS, end, packed_at, inside, SPLITS)


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
    ELEMENTS: tl.constexpr,
):
    """Rows' gradients from the sums of their splits: of raw (with sigma held fixed), magnitude and bias.

    inner = <gradient of the effective weight, raw>; of weight norm: grad = scale · (g - inner / norm² · raw).
    """
    index, job, out, live = _job(programs, jobs, FINISH_FIELDS, ROWS)
    outs, taps = tl.load(job + OUT), tl.load(job + TAPS).to(tl.int32)
    channels, depth = tl.load(job + CHANNELS).to(tl.int32), tl.load(job + DEPTH)
    size, split_size = channels * taps, outs * channels * taps
    row = tl.minimum(out, outs - 1).to(tl.int64) * size
    raw, partial, to = pick(raws, index) + row, pick(partials, depth) + row, grads + tl.load(job + GRAD) + row
    ask_for(raw, size, LINES)
    bias, partial_bias = tl.zeros([ROWS], tl.float32), pick(partial_biases, depth) + out[:, None]
    for s in tl.static_range(MOST_SETS):
        begin, end = _splits(job + SETS + s * SET_FIELDS)
        if begin < end:
            ask_for(partial + begin * split_size, size, LINES)
        for first in range(begin, end, SPLITS):
            split = first + tl.arange(0, SPLITS)[None, :]
            found = tl.load(partial_bias + split * outs, live[:, None] & (split < end), other=0.0)
            bias += tl.sum(found, 1)
    at = tl.load(job + FIRST_GRAD) + out
    tl.store(bias_grads + at, bias.to(bias_grads.dtype.element_ty), live)
    raw, partial, to = raw[:, None, None], partial[:, None, None], to[:, None, None]
    own = raw, partial, split_size, scales, norms, inners, to, magnitude_grads + at, job, out, live, channels, taps
    if size <= THIN:
        _finish(*own, SPLITS, 16, ELEMENTS // SPLITS // 16)
    elif taps <= FEW:
        _finish(*own, 1, FEW, ELEMENTS // FEW)
    else:
        _finish(*own, 1, MANY, ELEMENTS // MANY)


@triton.jit
def _finish(
    raw,
    partial,
    split_size,
    scales,
    norms,
    inners,
    to,
    magnitude_grads,
    job,
    out,
    live,
    channels,
    taps,
    SPLITS: tl.constexpr,
    TAPS_AT_ONCE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """`finish` of weights, by tiles; all pointers but those of a slot are of these rows. The last tile is read once."""
    tiles = _tiles(channels, taps, TAPS_AT_ONCE, AT_ONCE)
    inner = tl.zeros(out.shape, tl.float32)
    value = tl.zeros([live.shape[0], TAPS_AT_ONCE, AT_ONCE], tl.float32)
    grad = value
    for s in tl.static_range(MOST_SETS):
        own = job + SETS + s * SET_FIELDS
        begin, end = _splits(own)
        if begin < end:
            total = tl.zeros(value.shape, tl.float32)
            products = total
            for number in range(tiles):
                packed_at, raw_at, inside = _tile(number, channels, taps, live, TAPS_AT_ONCE, AT_ONCE)
                value, total = _tile_of(raw, partial, split_size, begin, end, raw_at, packed_at, inside, SPLITS)
                products += total * value
            grad += tl.load(pick(scales, tl.load(own + SLOT)) + out, live, other=0.0)[:, None, None] * total
            product = tl.sum(tl.sum(products, 2), 1)
            tl.store(inners + tl.load(own + INNER) + out, product, live)
            inner += product
    along, magnitude_grad = tl.zeros(out.shape, tl.float32), tl.zeros(out.shape, tl.float32)
    if tl.load(job + KIND) == WEIGHT:
        slot = tl.load(job + SETS + SLOT)
        norm = tl.load(pick(norms, slot) + out, live, other=1.0)
        along = tl.load(pick(scales, slot) + out, live, other=0.0) * (inner / (norm * norm))
        magnitude_grad = inner / norm
    tl.store(magnitude_grads, magnitude_grad.to(magnitude_grads.dtype.element_ty), live)
    for back in range(tiles):
        packed_at, raw_at, inside = _tile(tiles - 1 - back, channels, taps, live, TAPS_AT_ONCE, AT_ONCE)
        if back > 0:
            grad = tl.zeros(value.shape, tl.float32)
            for s in tl.static_range(MOST_SETS):
                own = job + SETS + s * SET_FIELDS
                begin, end = _splits(own)
                if begin < end:
                    by = tl.load(pick(scales, tl.load(own + SLOT)) + out, live, other=0.0)[:, None, None]
                    total = tl.zeros(value.shape, tl.float32)
                    grad += by * _rest(total, partial, split_size, begin, end, packed_at, inside, SPLITS)
            value = tl.load(raw + raw_at, inside, other=0.0).to(tl.float32)
        tl.store(to + raw_at, (grad - along[:, None, None] * value).to(to.dtype.element_ty), inside)


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
    ELEMENTS: tl.constexpr,
):
    """grads -= the part of the gradient through sigma = uᵀ W v: for each set, sum(inner) / sigma² · u vᵀ."""
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
            total = tl.zeros([ELEMENTS], tl.float32)
            for start in range(0, outs, ELEMENTS):
                o = start + tl.arange(0, ELEMENTS)
                total += tl.load(inner + o, o < outs, other=0.0)
            sigma = tl.load(pick(sigmas, slot)).to(tl.float32)
            u = tl.load(pick(us, slot) + out, live, other=0.0).to(tl.float32) * (tl.sum(total) / (sigma * sigma))
            v = pick(vs, slot)
            for start in range(0, size, ELEMENTS):
                k = start + tl.arange(0, ELEMENTS)
                inside = live[:, None] & (k < size)[None, :]
                grad = tl.load(to + k[None, :], inside, other=0.0).to(tl.float32)
                grad -= u[:, None] * tl.load(v + k, k < size, other=0.0).to(tl.float32)[None, :]
                tl.store(to + k[None, :], grad.to(grads.dtype.element_ty), inside)

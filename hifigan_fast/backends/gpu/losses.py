"""Poolings and losses as launches: grids, tables and buffers."""

import functools
import itertools

import torch

from ..contract import ALIGNED
from . import program, tables
from .counters import counters
from .kernels import cdiv
from .pointers import from_aligned
from .program import empty

MAP_BLOCK, MAP_CHUNK = 1024, 16384  # elements of a pair of maps: at a time, and a program
MOST_PROGRAMS = 65535  # of a grid's second axis, all that a device takes
LAYOUTS = 512  # of scores and maps, whose programs are kept
SCORES_AT_ONCE = 4096  # by the one program that sums all logits


@functools.lru_cache(maxsize=LAYOUTS)
def _programs(launch, device, layout):
    return {}


def _again(kernels, layout, inputs, run):
    """`program.again` of a loss; layout: what it goes by beside the kinds of its inputs."""
    return program.again(kernels, _programs(kernels.launch, inputs[0].device, layout), (), inputs, run)


def pooled(kernels, sides, lengths):
    first = sides[0]
    memory, leads = zip(*map(from_aligned, sides))
    tiles, total = tables.pool_tiles(leads, len(first), tuple(lengths), MAP_BLOCK, first.device)
    out = first.new_empty(total)
    kernels.launch(out.device, kernels.pooled, (len(tiles),), memory, out, tiles, *lengths[:2], BLOCK=MAP_BLOCK)
    return out


def _parts(scores, targets, grads):
    """Scores as kernels take them: memory, and [part] as in adversarial.py; `grads`: where each one's begins, or -1."""
    memory, leads = zip(*map(from_aligned, scores))
    rows = tuple(zip((s.numel() for s in scores), targets, leads, grads))
    return memory, tables.numbers(rows, scores[0].device)


def squared_means(kernels, scores, targets, dtype):
    def run():
        total, means = empty((), dtype, device), empty((len(scores),), dtype, device)
        memory, parts = _parts(scores, targets, [-1] * len(scores))
        blocks = {"PARTS": len(scores), "BLOCK": SCORES_AT_ONCE}
        kernels.launch(device, kernels.squared_means, (1,), memory, total, means, parts, **blocks)
        return [[total, means]]

    device, key = scores[0].device, ("squared_means", tuple(s.numel() for s in scores), tuple(targets), dtype)
    return tuple(_again(kernels, key, scores, run)[0])


@functools.lru_cache(maxsize=LAYOUTS)
def _in_turn(sizes, halves):
    """Where the gradients of scores of these sizes lie, and in which order: a real score's before its generated one's,
    as an ensemble's heads do, which then need no copy."""
    order = sorted(range(len(sizes)), key=lambda i: i % (len(sizes) // halves))
    places = dict(zip(order, itertools.accumulate((sizes[i] for i in order), initial=0)))
    return [places[i] for i in range(len(sizes))], order, [sizes[i] for i in order]


def squared_means_backward(kernels, scores, targets, grad_total, grad_means, wanted):
    device, sizes, targets, wanted = scores[0].device, tuple(s.numel() for s in scores), tuple(targets), tuple(wanted)
    places, order, ordered = _in_turn(sizes, len(set(targets)))

    def run():
        grads = empty((sum(sizes),), scores[0].dtype, device)
        memory, parts = _parts(scores, targets, [place if want else -1 for place, want in zip(places, wanted)])
        blocks = len(scores), min(cdiv(max(sizes), MAP_BLOCK), MOST_PROGRAMS)
        given = memory, grad_total, grad_means, grads, parts
        kernels.launch(device, kernels.squared_means_gradients, blocks, *given, BLOCK=MAP_BLOCK)
        return [[grads]]

    key = "squared_means_backward", sizes, targets, wanted
    ((grads,),) = _again(kernels, key, [*scores, grad_total, grad_means], run)
    found = [None] * len(scores)
    for i, grad in zip(order, grads.split(ordered)):
        if wanted[i]:
            found[i] = grad if scores[i].dim() == 1 else grad.view(scores[i].shape)
    return found


def _chunks(real, generated):
    """Pairs of maps as kernels take them: memory of each side, and `tables.map_chunks`."""
    counts = tuple(m.numel() for m in real)
    (real, leads), (generated, others) = (zip(*map(from_aligned, side)) for side in (real, generated))
    return real, generated, *tables.map_chunks(counts, tuple(zip(leads, others)), MAP_CHUNK, real[0].device)


def feature_l1(kernels, real, generated):
    def run():
        reals, others, chunks, pairs = _chunks(real, generated)
        partial, means = (empty((size,), torch.float32, device) for size in (len(chunks), len(real)))
        given = reals, others, partial, means, chunks, pairs, counters(device, len(real))
        kernels.launch(device, kernels.l1_means, (len(chunks),), *given, BLOCK=MAP_BLOCK)
        return [[means]]

    device, counts = real[0].device, tuple(m.numel() for m in real)
    return _again(kernels, ("feature_l1", counts), [*real, *generated], run)[0][0]


def feature_l1_backward(kernels, real, generated, grads, want_real, want_generated):
    step = ALIGNED // real[0].itemsize
    counts, wanted = [m.numel() for m in real], [*want_real, *want_generated]
    sizes = [cdiv(count, step) * step if want else 0 for count, want in zip(2 * counts, wanted)]
    *starts, total = itertools.accumulate(sizes, initial=0)

    def run():
        flat, half = empty((total,), real[0].dtype, device), len(real)
        places = [start if want else -1 for start, want in zip(starts, wanted)]
        table = tables.numbers(tuple(zip(places[:half], places[half:])), device)
        reals, others, chunks, pairs = _chunks(real, generated)
        given = reals, others, means, flat, table, chunks, pairs
        kernels.launch(device, kernels.l1_gradients, (len(chunks),), *given, BLOCK=MAP_BLOCK)
        return [[flat]]

    device, means = real[0].device, grads.contiguous()
    key = "feature_l1_backward", tuple(counts), tuple(wanted)
    ((flat,),) = _again(kernels, key, [*real, *generated, means], run)
    found = [
        flat.as_strided(m.shape, m.stride(), start) if want else None
        for start, m, want in zip(starts, (*real, *generated), wanted)
    ]
    return found[: len(real)], found[len(real) :]

"""Poolings and losses as launches: grids, tables and buffers."""

import itertools

import torch

from ..contract import ALIGNED
from . import tables
from .counters import counters
from .kernels import cdiv
from .pointers import from_aligned

MAP_BLOCK, MAP_CHUNK = 1024, 16384  # elements of a pair of maps: at a time, and a program
MOST_PROGRAMS = 65535  # of a grid's second axis, all that a device takes
SCORES_AT_ONCE = 4096  # by the one program that sums all logits


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
    total, means = scores[0].new_empty((), dtype=dtype), scores[0].new_empty(len(scores), dtype=dtype)
    memory, parts = _parts(scores, targets, [-1] * len(scores))
    blocks = {"PARTS": len(scores), "BLOCK": SCORES_AT_ONCE}
    kernels.launch(total.device, kernels.squared_means, (1,), memory, total, means, parts, **blocks)
    return total, means


def squared_means_backward(kernels, scores, targets, grad_total, grad_means, wanted):
    # A real score's gradient before its generated one's: as an ensemble's heads lie, which then need no copy.
    sizes, halves = [s.numel() for s in scores], len(set(targets))
    order = sorted(range(len(scores)), key=lambda i: i % (len(scores) // halves))
    places = dict(zip(order, itertools.accumulate((sizes[i] for i in order), initial=0)))
    grads = scores[0].new_empty(sum(sizes))
    memory, parts = _parts(scores, targets, [places[i] if want else -1 for i, want in enumerate(wanted)])
    kernels.launch(
        grads.device,
        kernels.squared_means_gradients,
        (len(scores), min(cdiv(max(sizes), MAP_BLOCK), MOST_PROGRAMS)),
        memory,
        grad_total,
        grad_means,
        grads,
        parts,
        BLOCK=MAP_BLOCK,
    )
    own = dict(zip(order, grads.split([sizes[i] for i in order])))
    return [own[i].view(s.shape) if want else None for i, (s, want) in enumerate(zip(scores, wanted))]


def _chunks(real, generated):
    """Pairs of maps as kernels take them: memory of each side, and `tables.map_chunks`."""
    counts = tuple(m.numel() for m in real)
    (real, leads), (generated, others) = (zip(*map(from_aligned, side)) for side in (real, generated))
    return real, generated, *tables.map_chunks(counts, tuple(zip(leads, others)), MAP_CHUNK, real[0].device)


def feature_l1(kernels, real, generated):
    real, generated, chunks, pairs = _chunks(real, generated)
    partial = torch.empty(len(chunks), dtype=torch.float32, device=chunks.device)
    means = partial.new_empty(len(real))
    kernels.launch(
        chunks.device,
        kernels.l1_means,
        (len(chunks),),
        real,
        generated,
        partial,
        means,
        chunks,
        pairs,
        counters(chunks.device, len(real)),
        BLOCK=MAP_BLOCK,
    )
    return means


def feature_l1_backward(kernels, real, generated, grads, want_real, want_generated):
    wanted = [(m, want) for own in ((real, want_real), (generated, want_generated)) for m, want in zip(*own)]
    step = ALIGNED // real[0].itemsize
    sizes = [cdiv(m.numel(), step) * step if want else 0 for m, want in wanted]
    *starts, total = itertools.accumulate(sizes, initial=0)
    flat, half = real[0].new_empty(total), len(real)
    places = [start if want else -1 for start, (_, want) in zip(starts, wanted)]
    memory, others, chunks, pairs = _chunks(real, generated)
    kernels.launch(
        flat.device,
        kernels.l1_gradients,
        (len(chunks),),
        memory,
        others,
        grads.contiguous(),
        flat,
        tables.numbers(tuple(zip(places[:half], places[half:])), flat.device),
        chunks,
        pairs,
        BLOCK=MAP_BLOCK,
    )
    found = [flat.as_strided(m.shape, m.stride(), start) if want else None for start, (m, want) in zip(starts, wanted)]
    return found[:half], found[half:]

"""What the kernels read instead of shapes: which rows a tile has, which tiles a split, which numbers a job.

Made once a shape and kept on the device. Tables are int64 tensors, [entry][field]; offsets may pass 2³¹.
"""

import itertools
from dataclasses import dataclass

import torch

from ...geometry import run_table
from ..contract import packed_room
from ..kept import capturing, kept
from . import devices
from .fields import FINISH_FIELDS, MOST_SETS, Chunk, Finish, Norm, Pack, Pair, Set, Spectral
from .kernels import cdiv


def _on(device, table):
    if device.type == "cuda" and capturing():
        raise RuntimeError(
            "a CUDA graph is being captured: run a call of these shapes once before, which makes its tables"
        )
    return table.to(device)


def as_table(rows, fields, device):
    """Rows of so many numbers each, in their order."""
    return _on(device, torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(len(rows), fields))


@kept
def runs_on(runs, device):
    """`geometry.Run`s as the kernels read them."""
    for run in runs:
        rows = run.sequences * max(run.in_rows, run.out_rows)
        if rows >= 2**31:
            raise ValueError(f"waveform: {rows} rows of a discriminator in one call, expected fewer than 2**31")
    return _on(device, torch.from_numpy(run_table(runs)))


def sets_of(runs):
    """The sets of weights that runs have."""
    return sorted({run.weights for run in runs})


def spans_of(first, end, count):
    """Numbers from first up to end cut into about `count` spans: [(first, end)]."""
    step = max(1, cdiv(end - first, count))
    return [(begin, min(begin + step, end)) for begin in range(first, end, step)]


def _stretches(runs, block, stretch):
    """(run, first one) of every `block` stretches of `stretch` output rows, run by run."""
    for index, run in enumerate(runs):
        for first in range(0, run.sequences * cdiv(run.out_rows, stretch), block):
            yield index, first


@kept
def tiles(runs, block, stretch, device):
    """[tile] of (run, first stretch of output rows), `block` each, run by run."""
    return as_table(list(_stretches(runs, block, stretch)), 2, device)


@kept
def phase_tiles(runs, layer, block, stretch, device):
    """[tile] of (run, phase, first row of the phase): an input gradient's; of stretches (run, 0, first stretch)."""
    rows, each = [], layer.stride if stretch == 1 else stretch
    for (index, run), phase in itertools.product(enumerate(runs), range(layer.stride if stretch == 1 else 1)):
        first = (phase - layer.padding) % layer.stride if stretch == 1 else -(layer.padding % layer.stride)
        count = max(0, cdiv(run.in_rows - first, each))
        rows += [(index, phase, at) for at in range(0, run.sequences * count, block)]
    return as_table(rows, 3, device)


@dataclass(frozen=True)
class Splits:
    """The rows of a weight gradient: tiles set by set, and how many consecutive ones are summed by one program.

    Attributes:
        tiles: [tile] of (run, first stretch of output rows), or of what else a backend's tiles are.
        table: [split] of (first tile, end).
        of_set: {weight set: (first split, end)}.
    """

    tiles: torch.Tensor
    table: torch.Tensor
    of_set: dict


def split(runs, tiles_of, fields, wanted, device):
    """`Splits` with about `wanted` of them a set, as far as there are tiles; `tiles_of` a set: rows of `fields`."""
    found, spans, of_set = [], [], {}
    for own in sets_of(runs):
        first, first_span = len(found), len(spans)
        found += tiles_of(own)
        spans += spans_of(first, len(found), wanted)
        if len(spans) > first_span:
            of_set[own] = first_span, len(spans)
    return Splits(as_table(found, fields, device), as_table(spans, 2, device), of_set)


@kept
def splits(runs, block, stretch, wanted, device):
    """A weight gradient's `Splits`, of `block` stretches of output rows at a time."""

    def tiles_of(weights):
        return [tile for tile in _stretches(runs, block, stretch) if runs[tile[0]].weights == weights]

    return split(runs, tiles_of, 2, wanted, device)


@kept
def wave_tiles(runs, block, device):
    """The stem's runs by the waveforms that they read, and [tile] of (first run, end, sample, place, address)."""
    runs = tuple(sorted(runs, key=lambda run: run.grad_in_offset))
    rows, begin = [], 0
    for address, own in itertools.groupby(runs, key=lambda run: run.grad_in_offset):
        own = list(own)
        end, length = begin + len(own), own[0].in_rows
        for sample, place in itertools.product(range(own[0].samples), range(0, length, block)):
            rows.append((begin, end, sample, place, address + sample * length))
        begin = end
    return runs_on(runs, device), as_table(rows, 5, device)


@dataclass(frozen=True)
class Jobs:
    """Rows of weights as programs: [program] of (job, first out channel), and the jobs' numbers."""

    programs: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, rows, fields, block, device, terms=lambda row: 0):
        """`terms` of a job's row: how many are summed; the longest sums begin first."""
        longest = sorted(range(len(rows)), key=lambda job: -terms(rows[job]))
        programs = [(job, out) for job in longest for out in range(0, rows[job][Finish.OUT], block)]
        return cls(as_table(programs, 2, device), as_table(rows, fields, device))


def _numbers(kind, layer):
    return kind, layer.out_channels, layer.in_channels // layer.groups, layer.taps


@kept
def pack_jobs(layers, kinds, block, device):
    """Jobs of `pack` by depth and set, `kinds` [depth][set]; how many elements and rows all have."""
    rows, elements, vectors = [], 0, 0
    for layer, own in zip(layers, kinds):
        for number, kind in enumerate(own):
            rows.append((*_numbers(kind, layer), elements + number * layer.weights, vectors, devices.exact(layer)))
            vectors += layer.out_channels
        elements += packed_room(layer, len(own))
    return Jobs.of(rows, len(Pack), block, device), elements, vectors


@kept
def finish_jobs(jobs, block, spectral_block, device):
    """Jobs of `finish`, those of `finish_spectral`; how many elements and rows all have.

    Args:
        jobs: of each (kind, layer, number of its sums, ((first split, end) of each of its sets)).
    """
    rows, elements, vectors, slots = [], [0], [0], [0]
    for kind, layer, depth, splits in jobs:
        sets = [
            number
            for i, own in enumerate(splits)
            for number in (vectors[-1] * MOST_SETS + i * layer.out_channels, *own, slots[-1] + i)
        ]
        sets += [0] * (MOST_SETS * len(Set) - len(sets))
        rows.append((*_numbers(kind, layer), depth, elements[-1], vectors[-1], *sets))
        elements.append(elements[-1] + layer.weights)
        vectors.append(vectors[-1] + layer.out_channels)
        slots.append(slots[-1] + len(splits))
    fields = FINISH_FIELDS
    spectral = [row for row in rows if row[0] == Norm.SPECTRAL]
    return (
        Jobs.of(rows, fields, block, device, lambda row: row[Finish.SETS + Set.END] - row[Finish.SETS + Set.BEGIN]),
        Jobs.of(spectral, fields, spectral_block, device),
        elements[-1],
        vectors[-1],
    )


@kept
def spectral_jobs(shapes, rows, columns, device):
    """Of matrices of `shapes`: the jobs, [program] of (job, first row) and of (job, first column), and both totals."""
    jobs, outs, sizes = [], 0, 0
    for out, size in shapes:
        jobs.append((out, size, outs, sizes))
        outs, sizes = outs + out, sizes + size
    programs = (
        [(job, first) for job, shape in enumerate(shapes) for first in range(0, shape[axis], block)]
        for axis, block in ((0, rows), (1, columns))
    )
    return as_table(jobs, len(Spectral), device), *(as_table(own, 2, device) for own in programs), outs, sizes


@kept
def pool_tiles(leads, samples, lengths, block, device):
    """[tile] as in the kernel `pooled`, and how many samples of all levels there are.

    `leads`: of each side, how many elements lie before its first.
    """
    rows, address, each = [], 0, range(samples)
    for (side, lead), (level, length), sample in itertools.product(enumerate(leads), enumerate(lengths), each):
        rows += [(side, lead + sample * lengths[0], level, first, address) for first in range(0, length, block)]
        address += length
    return as_table(rows, 5, device), address


@kept
def numbers(rows, device):
    """Rows of numbers as they are."""
    return as_table(rows, len(rows[0]), device)


@kept
def map_chunks(counts, leads, size, device):
    """Of pairs of `counts` elements: [chunk] of (pair, first element, end), and [pair] as `feature_l1` has them.

    `leads`: of each pair's maps, how many elements lie before their first.
    """
    chunks, pairs = [], []
    for pair, (count, own) in enumerate(zip(counts, leads)):
        begin = len(chunks)
        # A pair without elements has a chunk too: its mean is not a number, as PyTorch's.
        chunks += [(pair, first, min(first + size, count)) for first in range(0, max(count, 1), size)]
        pairs.append((begin, len(chunks), count, *own))
    return as_table(chunks, len(Chunk), device), as_table(pairs, len(Pair), device)

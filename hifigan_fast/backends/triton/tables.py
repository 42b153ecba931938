"""What the kernels read instead of shapes: which rows a tile has, which tiles a split, which numbers a job.

Made once a shape and kept on the device. Tables are int64 tensors, [entry][field]; offsets may pass 2³¹.
"""

import itertools
from dataclasses import dataclass

import torch

from ...geometry import run_table
from ..kept import capturing, kept
from . import weights as kernels


def _on(device, table):
    if device.type == "cuda" and capturing():
        raise RuntimeError(
            "a CUDA graph is being captured: run a call of these shapes once before, which makes its tables"
        )
    return table.to(device)


def _table(rows, fields, device):
    return _on(device, torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(len(rows), fields))


@kept
def runs_on(runs, device):
    """`geometry.Run`s as the kernels read them."""
    for run in runs:
        rows = run.sequences * max(run.in_rows, run.out_rows)
        if rows >= 2**31:
            raise ValueError(f"waveform: {rows} rows of a discriminator in one call, expected fewer than 2**31")
    return _on(device, torch.from_numpy(run_table(runs)))


@kept
def tiles(runs, block, device):
    """[tile] of (run, first output row), `block` rows each, run by run."""
    rows = [(index, first) for index, run in enumerate(runs) for first in range(0, run.sequences * run.out_rows, block)]
    return _table(rows, 2, device)


@kept
def phase_tiles(runs, layer, block, device):
    """[tile] of (run, phase, first row of the phase): an input gradient's."""
    rows = []
    for (index, run), phase in itertools.product(enumerate(runs), range(layer.stride)):
        first = (phase - layer.padding) % layer.stride
        count = max(0, -(-(run.in_rows - first) // layer.stride))
        rows += [(index, phase, at) for at in range(0, run.sequences * count, block)]
    return _table(rows, 3, device)


@dataclass(frozen=True)
class Splits:
    """The rows of a weight gradient: tiles set by set, and how many consecutive ones are summed by one program.

    Attributes:
        tiles: [tile] of (run, first output row).
        table: [split] of (first tile, end).
        of_set: {weight set: (first split, end)}.
    """

    tiles: torch.Tensor
    table: torch.Tensor
    of_set: dict


@kept
def splits(runs, block, wanted, device):
    """`Splits` with about `wanted` of them a set, as far as there are tiles."""
    found, table, of_set = [], [], {}
    for own in sorted({run.weights for run in runs}):
        begin = len(found)
        found += [
            (index, first)
            for index, run in enumerate(runs)
            if run.weights == own
            for first in range(0, run.sequences * run.out_rows, block)
        ]
        if len(found) == begin:
            continue
        step = -(-(len(found) - begin) // wanted)
        first_split = len(table)
        table += [(first, min(first + step, len(found))) for first in range(begin, len(found), step)]
        of_set[own] = (first_split, len(table))
    return Splits(_table(found, 2, device), _table(table, 2, device), of_set)


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
    return runs_on(runs, device), _table(rows, 5, device)


@dataclass(frozen=True)
class Jobs:
    """Rows of weights as programs: [program] of (job, first out channel), and the jobs' numbers."""

    programs: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, rows, fields, block, device):
        programs = [(job, out) for job, row in enumerate(rows) for out in range(0, row[kernels.OUT.value], block)]
        return cls(_table(programs, 2, device), _table(rows, fields, device))


def _numbers(kind, layer):
    return kind, layer.out_channels, layer.in_channels // layer.groups, layer.taps


@kept
def pack_jobs(layers, kinds, block, device):
    """Jobs of `pack` by depth and set, `kinds` [depth][set]; how many elements and rows all have."""
    rows, elements, vectors = [], 0, 0
    for layer, own in zip(layers, kinds):
        for kind in own:
            rows.append((*_numbers(kind, layer), elements, vectors))
            elements, vectors = elements + layer.weights, vectors + layer.out_channels
    return Jobs.of(rows, kernels.PACK_FIELDS.value, block, device), elements, vectors


@kept
def finish_jobs(jobs, block, device):
    """Jobs of `finish`, those of `finish_spectral`; how many elements and rows all have.

    Args:
        jobs: of each (kind, layer, number of its sums, ((first split, end) of each of its sets)).
    """
    rows, elements, vectors, slots = [], [0], [0], [0]
    for kind, layer, depth, splits in jobs:
        sets = [
            number
            for i, own in enumerate(splits)
            for number in (vectors[-1] * kernels.MOST_SETS.value + i * layer.out_channels, *own, slots[-1] + i)
        ]
        sets += [0] * (kernels.MOST_SETS.value * kernels.SET_FIELDS.value - len(sets))
        rows.append((*_numbers(kind, layer), depth, elements[-1], vectors[-1], *sets))
        elements.append(elements[-1] + layer.weights)
        vectors.append(vectors[-1] + layer.out_channels)
        slots.append(slots[-1] + len(splits))
    fields = kernels.FINISH_FIELDS.value
    spectral = [row for row in rows if row[0] == kernels.SPECTRAL.value]
    return (
        Jobs.of(rows, fields, block, device),
        Jobs.of(spectral, fields, block, device),
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
    return _table(jobs, 4, device), *(_table(own, 2, device) for own in programs), outs, sizes


@kept
def pool_tiles(sides, samples, lengths, block, device):
    """[tile] of (side, sample, level, first place, address), and how many samples of all levels there are."""
    rows, address = [], 0
    for side, (level, length), sample in itertools.product(range(sides), enumerate(lengths), range(samples)):
        rows += [(side, sample, level, first, address) for first in range(0, length, block)]
        address += length
    return _table(rows, 5, device), address


@kept
def score_parts(counts, targets, device):
    """[part] of (elements, target)."""
    return _table(list(zip(counts, targets)), 2, device)


@kept
def map_chunks(counts, size, device):
    """Of pairs of `counts` elements: [chunk] of (pair, first element, end), [pair] of (first chunk, end, elements)."""
    chunks, pairs = [], []
    for pair, count in enumerate(counts):
        begin = len(chunks)
        # A pair without elements has a chunk too: its mean is not a number, as PyTorch's.
        chunks += [(pair, first, min(first + size, count)) for first in range(0, max(count, 1), size)]
        pairs.append((begin, len(chunks), count))
    return _table(chunks, 3, device), _table(pairs, 3, device)


@kept
def wanted(flags, device):
    """[pair] of (whether real's gradient is, whether generated's is)."""
    return _table(flags, 2, device)

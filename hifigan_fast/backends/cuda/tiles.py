"""Which rows the window kernels' tiles have: fewer where the sequences of many rows would not fit into a window."""

import functools
import itertools
from dataclasses import dataclass

import torch

from ..gpu.fields import PhaseTile, Span, Tile
from ..gpu.tables import as_table, sets_of, spans_of, split
from ..kept import kept
from . import blocks


def fitting(rows, step, taps, own):
    """How many consecutive rows of sequences of `rows` fit into a window of `own`, a `Blocks`, wherever they begin."""
    gap = blocks.gap(step, taps)
    for count in range(own.rows, 1, -1):
        behind = -(-(count - 1) // rows)  # sequences that begin behind the first row
        if (count - 1) * step + behind * gap + taps <= own.slots:
            return count
    return 1


@dataclass(frozen=True)
class Walked:
    """Tiles set by set, and the consecutive ones that one program walks through.

    Attributes:
        tiles: [tile] of (run, first output row, end); of an input gradient (run, phase, first row of the phase, end).
        spans: [program] of (first tile, end).
    """

    tiles: torch.Tensor
    spans: torch.Tensor


def _cut(runs, weights, rows_of, step, taps, own):
    """(run, first row, end) of all tiles of a set of weights; `rows_of` a run: rows a sequence."""
    for index, run in enumerate(runs):
        each = rows_of(run)
        if run.weights == weights and each > 0:
            rows, count = run.sequences * each, fitting(each, step, taps, own)
            yield from ((index, begin, min(begin + count, rows)) for begin in range(0, rows, count))


def _rows_of_phase(layer, phase, run):
    """Input rows of a sequence that one phase of the stride reads."""
    return -(-(run.in_rows - (phase - layer.padding) % layer.stride) // layer.stride)


@kept
def walked(runs, layer, own, programs, device):
    """A forward pass's `Walked`. Where weights stay (`own`, a `Blocks`, has one stage), about `programs` a set."""
    found, spans = [], []
    for weights in sets_of(runs):
        first = len(found)
        found += _cut(runs, weights, lambda run: run.out_rows, layer.stride, layer.taps, own)
        spans += spans_of(first, len(found), programs if own.stages == 1 else len(found))
    return Walked(as_table(found, len(Tile), device), as_table(spans, len(Span), device))


@kept
def walked_phases(runs, layer, own, programs, device):
    """The same of an input gradient, of whose weights each phase has its own."""
    found, spans, stride = [], [], layer.stride
    for weights, phase in itertools.product(sets_of(runs), range(stride)):
        begin, rows_of = len(found), functools.partial(_rows_of_phase, layer, phase)
        cut = _cut(runs, weights, rows_of, 1, -(-layer.taps // stride), own)
        found += [(index, phase, *rows) for index, *rows in cut]
        spans += spans_of(begin, len(found), max(1, programs // stride) if own.stages == 1 else len(found))
    return Walked(as_table(found, len(PhaseTile), device), as_table(spans, len(Span), device))


@kept
def splits(runs, layer, own, wanted, device):
    """A weight gradient's `tables.Splits`, of tiles as a forward pass has them."""

    def tiles_of(weights):
        return _cut(runs, weights, lambda run: run.out_rows, layer.stride, own.taps, own)

    return split(runs, tiles_of, len(Tile), wanted, device)

"""The window kernels of csrc/cuda, executed: right by the ratio rule, no bank conflicts, no spills; planted faults."""

import dataclasses
import itertools

import pytest
import torch

from hifigan_fast import parity
from hifigan_fast.backends.cuda import blocks, kernel, tiles
from hifigan_fast.backends.gpu import fields
from hifigan_fast.geometry import Layer, Run

from . import count_windows, windows
from .counters import Counters
from .parse import parse

LAYERS = {
    "dense": Layer(128, 128, 3, 1, 1),
    "strided": Layer(48, 136, 5, 3, 2),
    "grouped": Layer(64, 128, 41, 4, 20, 4),
    "narrow": Layer(32, 64, 41, 2, 20, 4),
    "groups of 4": Layer(16, 32, 41, 4, 20, 4),
    "odd": Layer(15, 21, 5, 2, 1, 3),
    "phases without taps": Layer(16, 24, 2, 3, 0),
}
BEFORE_80 = ("float16", "float32")  # kinds that an earlier device multiplies
EXECUTED = [
    *((75, kind) for kind in BEFORE_80),
    *((80, kind) for kind in windows.DTYPES),
    (89, "bfloat16"),
    (90, "tf32"),
]
# (sequences, output rows): longer than a tile, several in one, and a row each.
SEQUENCES = ((2, 131), (30, 7), (40, 1))


def case_of(layer, kind, sequences=SEQUENCES):
    rows = [(rows - 1) * layer.stride + layer.taps - 2 * layer.padding for _, rows in sequences]
    shapes = [(count, max(1, own)) for (count, _), own in zip(sequences, rows)]
    return windows.Case.of(layer, kind, shapes)


def judge(session, judged, dtype):
    """`judged`: of each tensor (ours, plain PyTorch's, right)."""
    assert not session.faults, str(session.faults)
    for ours, theirs, right in judged:
        pair = [((ours, right), (theirs, right))]
        assert parity.error_ratio(pair, parity.FLOOR_ULPS, torch.finfo(dtype).eps) <= parity.LIMIT


def plain_dtype(kind):
    return torch.float32 if kind == "tf32" else windows.DTYPES[kind]


def operands(kind):
    """What a matrix unit makes of float32, for PyTorch too."""
    return windows.rounded if kind == "tf32" else lambda tensor: tensor


def forward_judged(case, **how):
    session, out = windows.forward(case, **how)
    dtype = plain_dtype(case.kind)
    return session, [
        (
            ours,
            windows.plain_forward(case, run, dtype, operands(case.kind)),
            windows.plain_forward(case, run, torch.float64, lambda tensor: tensor),
        )
        for run, ours in enumerate(out)
    ]


def input_grad_judged(case, matched, **how):
    random = torch.Generator().manual_seed(1)
    given = [torch.randn(x.shape, generator=random).to(x.dtype) for x in case.x]
    matching = torch.tensor([0.3, 0.1, -2.0]) if matched else None
    if not matched:
        given[1] = None
    session, grads = windows.input_grad(case, given=given, matching=matching, **how)
    dtype = plain_dtype(case.kind)
    return session, [
        (
            ours,
            windows.plain_input_grad(case, run, dtype, operands(case.kind), given, matching),
            windows.plain_input_grad(case, run, torch.float64, lambda tensor: tensor, given, matching),
        )
        for run, ours in enumerate(grads)
    ]


def weight_grad_judged(case, **how):
    session, grads = windows.weight_grad(case, **how)
    judged = []
    for run, ours in enumerate(grads):
        theirs = windows.plain_weight_grad(case, run, torch.float32, operands(case.kind))
        judged += zip(ours, theirs, windows.plain_weight_grad(case, run, torch.float64, lambda tensor: tensor))
    return session, judged


JUDGED = {
    "forward": forward_judged,
    "input_grad": lambda case, **how: input_grad_judged(case, False, **how),
    "matching": lambda case, **how: input_grad_judged(case, True, **how),
    "weight_grad": weight_grad_judged,
}


def executed(layer, what, kind, target=80, sequences=SEQUENCES, **how):
    session, judged = JUDGED[what](case_of(layer, kind, sequences), target=target, **how)
    judge(session, judged, torch.float32 if what == "weight_grad" else plain_dtype(kind))
    return session


@pytest.mark.parametrize("what", JUDGED)
@pytest.mark.parametrize("name", ["dense", "grouped", "odd"])
def test_executed(name, what, poisoned):
    executed(LAYERS[name], what, "bfloat16")


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", JUDGED)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("target, kind", EXECUTED)
def test_every_kind(target, kind, name, what, poisoned):
    session = executed(LAYERS[name], what, kind, target)
    assert ("mma.sync" in session.texts[0]) == (kind != "float32")
    assert ("cp.async" in session.texts[0]) == (target >= 80)


WINDOW = "convolution_window.cuh"


@pytest.mark.parametrize(
    "what, kinds, file, right, wrong",
    [
        ("forward", set(), WINDOW, "* STEP - source.padding;", "* STEP - source.padding + 1;"),
        ("forward", {"in flight"}, WINDOW, "wait_for_copies<AHEAD - 1>();", ""),
        ("forward", {"in flight"}, WINDOW, "copies<AHEAD - 1>", "copies<AHEAD>"),
        ("forward", {"race"}, WINDOW, "__syncthreads();", ""),
        ("forward", set(), WINDOW, "swizzled<ROW, WIDE>(16 * (slot", "swizzled<1>(16 * (slot"),
        (
            "input_grad",
            set(),
            "convolution_input_grad.cu",
            "(phase + STRIDE * PADDING",
            "(phase + 1 + STRIDE * PADDING",
        ),
        (
            "input_grad",
            set(),
            "convolution_input_grad.cu",
            "Weights::place(row, chunk)",
            "Matrix<1>::place(PITCH * row, chunk)",
        ),
        ("weight_grad", set(), "convolution_weight_grad.cu", "PADDING - first_tap", "PADDING - 1"),
        ("weight_grad", set(), "convolution_weight_grad.cu", "row < rows.count", "true"),
        ("weight_grad", {"in flight"}, WINDOW, "wait_for_copies<AHEAD - 1>();", ""),
    ],
)
def test_planted(what, kinds, file, right, wrong):
    """Reported by the machine, or seen in the result."""
    with windows.planted(file, right, wrong):
        session, judged = JUDGED[what](case_of(LAYERS["grouped" if what != "forward" else "strided"], "bfloat16"))
    assert kinds <= session.faults.kinds()
    with pytest.raises(AssertionError):
        judge(session, judged, torch.float32 if what == "weight_grad" else torch.bfloat16)


@pytest.mark.parametrize(
    "name, kind, direction",
    [("grouped", "bfloat16", "forward"), ("strided", "tf32", "input_grad"), ("grouped", "tf32", "weight_grad")],
)
def test_no_bank_conflicts_and_whole_sectors(name, kind, direction):
    counters = Counters()
    session = executed(LAYERS[name], direction, kind, sequences=((1, 70), (3, 7)), counters=counters)
    shared = counters.total(counters.shared)
    assert shared.taken == shared.least > 0
    for access in ("cp", "st") if direction != "input_grad" else ("cp",):  # rows of a phase lie apart
        reached = counters.total(counters.global_, access)
        assert 0 < reached.least <= reached.taken <= 1.1 * reached.least
    assert counters.instructions(parse(session.texts[0]))["mma"]


def all_cases():
    for target, direction in itertools.product(blocks.SHARED, ("forward", "input_grad", "weight_grad")):
        for kind in BEFORE_80 if target < 80 else windows.DTYPES:
            yield from ((name, direction, kind, target) for name in count_windows.LAYERS)


def test_blocks_fit():
    for name, direction, kind, target in all_cases():
        own = blocks.blocks_of(direction, count_windows.LAYERS[name], kind, target)
        assert blocks.shared_bytes(direction, own, kind) <= 1024 * blocks.SHARED[target]
        assert own.rows >= 16 and own.stages >= 1
    with pytest.raises(ValueError, match="taps do not fit"):
        blocks.blocks_of("forward", Layer(64, 64, 2001, 1, 0), "float32", 75)


@pytest.mark.parametrize("each, step, taps", [(1, 1, 5), (7, 2, 41), (28, 1, 5), (300, 4, 41), (3, 3, 2)])
def test_tiles_fit_into_their_window(each, step, taps):
    layer = Layer(64, 64, taps, step, 0)
    own = blocks.blocks_of("forward", layer, "bfloat16", 80)
    count, gap = tiles.fitting(each, step, taps, own), blocks.gap(step, taps)
    used = max((count - 1) * step + (first + count - 1) // each * gap + taps for first in range(each))
    assert used <= own.slots
    more = max(count * step + (first + count) // each * gap + taps for first in range(each))
    assert count == own.rows or more > own.slots


def test_every_row_has_one_tile():
    case = case_of(LAYERS["grouped"], "bfloat16")
    own = blocks.blocks_of("input_grad", case.layer, "bfloat16", 80)
    walked = tiles.walked_phases(case.runs, case.layer, own, 2, windows.CPU)
    found = torch.zeros(sum(run.sequences * run.in_rows for run in case.runs))
    for run, phase, begin, end in walked.tiles.tolist():
        each = -(-(case.runs[run].in_rows - (phase - case.layer.padding) % 4) // 4)
        for number in range(begin, end):
            row = (phase - case.layer.padding) % 4 + number % each * 4
            found[case.runs[run].in_offset + number // each * case.runs[run].in_rows + row] += 1
    assert (found == 1).all()
    spans = walked.spans.tolist()
    assert [first for first, _ in spans] == [0, *(end for _, end in spans[:-1])]
    for first, end in spans:  # weights that stay are of one set and phase
        assert len({(case.runs[run].weights, phase) for run, phase, *_ in walked.tiles[first:end].tolist()}) == 1


def assert_no_spills(name, direction, kind, target):
    registers, stack = windows.registers(count_windows.LAYERS[name], direction, kind, target)
    assert registers <= 255 and stack == 0


@pytest.mark.parametrize(
    "name, direction, kind, target",
    [("P4", "forward", "bfloat16", 80), ("P3", "input_grad", "tf32", 80), ("S1", "weight_grad", "float16", 75)],
)
def test_no_spills(name, direction, kind, target):
    assert_no_spills(name, direction, kind, target)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name, direction, kind, target", list(all_cases()))
def test_no_spills_anywhere(name, direction, kind, target):
    assert_no_spills(name, direction, kind, target)


def test_rows_that_kernels_read_as_structures():
    assert [own.name.upper() for own in dataclasses.fields(Run)] == [own.name for own in fields.Run]
    assert "struct PhaseTile { long long run, phase, begin, end; };" in kernel.records().splitlines()

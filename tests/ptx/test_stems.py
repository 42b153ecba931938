"""The stems of csrc/cuda, executed: right by the ratio rule, few instructions, no spills; planted faults."""

import itertools

import pytest
import torch

from benchmarks import ahead
from hifigan_fast import parity
from hifigan_fast.backends.cuda import blocks
from hifigan_fast.backends.cuda.kernels import MOST_TAPS
from hifigan_fast.backends.gpu import convolutions
from hifigan_fast.geometry import Layer

from . import stems
from .counters import Counters
from .parse import parse
from .windows import DTYPES, planted

# Shapes: (period, samples, length) of each run. Rows of several sequences in a tile, a mirrored end, one sample.
PERIODS, SCALES = [(2, 1, 97), (11, 2, 97), (3, 2, 1700)], [(1, 2, 150), (1, 1, 611)]
CASES = {
    "period": (stems.PERIOD, PERIODS),
    "scale": (stems.SCALE, SCALES),
    "rows of one tap": (Layer(1, 64, 1, 1, 0), [(1, 1, 1), (7, 3, 50)]),
    "all taps there are": (Layer(1, 128, 16, 2, 8), SCALES),
    "odd channels": (Layer(1, 7, 9, 4, 3), [(1, 3, 77), (5, 2, 331)]),
    "panels": (Layer(1, 300, 3, 1, 1), [(1, 2, 60), (2, 1, 301)]),
    "a stride beyond its taps": (Layer(1, 48, 2, 5, 0), [(1, 2, 333), (3, 2, 333)]),
    "a row each": (Layer(1, 32, 5, 5, 1), [(37, 9, 100)]),
    "more taps than at a time": (Layer(1, 136, 41, 3, 20), [(1, 2, 150), (5, 1, 331)]),
    "much padding": (Layer(1, 40, 4, 1, 9), [(1, 2, 20), (2, 1, 35)]),
}
# Of more taps only the waveform's gradient has a kernel of stems.
LAUNCHES = [
    (name, direction)
    for name, direction in itertools.product(CASES, stems.LAUNCHED)
    if direction == "input_grad" or CASES[name][0].taps <= MOST_TAPS
]
BEFORE_80 = ("float16", "float32")  # kinds that an earlier device has
TARGETS = {75: BEFORE_80, 80: tuple(DTYPES), 90: ("bfloat16", "float32")}


def judge(session, ours, case, direction):
    assert not session.faults, str(session.faults)
    maps = DTYPES[case.kind] if direction == "forward" else torch.float32
    theirs, right = (stems.plain(case, dtype)[direction] for dtype in (maps, torch.float64))
    for own in zip(ours, theirs, right, strict=True):
        pair = [((own[0], own[2]), (own[1], own[2]))]
        assert parity.error_ratio(pair, parity.FLOOR_ULPS, torch.finfo(maps).eps) <= parity.LIMIT


def executed(name, direction, kind, target=80, counters=None):
    layer, shapes = CASES[name]
    case = stems.Case.of(layer, kind, shapes)
    session, ours = stems.executed(case, direction, target, counters)
    judge(session, ours, case, direction)
    return session, case


@pytest.mark.parametrize("direction", stems.LAUNCHED)
@pytest.mark.parametrize("name, kind", [("period", "bfloat16"), ("scale", "bfloat16"), ("scale", "float32")])
def test_executed(name, kind, direction, poisoned):
    session, _ = executed(name, direction, kind)
    assert ("mma.sync" in session.texts[0]) == (kind != "float32")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name, direction", LAUNCHES)
@pytest.mark.parametrize("target, kind", [(target, kind) for target, kinds in TARGETS.items() for kind in kinds])
def test_every_geometry(target, kind, name, direction, poisoned):
    executed(name, direction, kind, target)


def test_several_tiles_of_a_split(monkeypatch, poisoned):
    monkeypatch.setattr(convolutions, "PROGRAMS", 1)
    executed("scale", "weight_grad", "bfloat16")


def test_a_sample_that_is_no_number_stays_within_its_rows(poisoned):
    """A product has more taps than the layer."""
    case = stems.Case.of(stems.SCALE, "bfloat16", [(1, 1, 611)])
    case.waves[0][0, 300] = float("nan")
    session, (ours,) = stems.executed(case, "forward")
    assert not session.faults, str(session.faults)
    assert ours.isnan().any(2).nonzero()[:, 1].tolist() == list(range(293, 308))


@pytest.mark.parametrize(
    "direction, kinds, file, right, wrong",
    [
        ("forward", set(), "stem.cuh", "(row + i) / rows", "(row + i + 1) / rows"),
        ("forward", set(), "stem.cuh", "STRIDE - PADDING", "STRIDE - PADDING + 1"),
        ("forward", set(), "stem.cuh", "2 * (length - 1) - straight", "2 * length - 1 - straight"),
        ("forward", {"race"}, "stem_forward.cu", "__syncthreads();", ""),
        ("weight_grad", {"race"}, "stem_weight_grad.cu", "__syncthreads();  // others", "// others"),
        ("weight_grad", set(), "stem_weight_grad.cu", "row < rows ? OUT - first : 0", "OUT - first"),
        ("input_grad", {"race"}, "stem_input_grad.cu", "__syncthreads();", ""),
        ("input_grad", set(), "stem_input_grad.cu", "PADDING - TAPS + 1)", "PADDING - TAPS + 1 + STRIDE)"),
        ("input_grad", set(), "stem_input_grad.cu", "min(folded, ", "min(folded - 1, "),
        ("input_grad", set(), "stem_input_grad.cu", "row < span.first + span.rows", "row <= span.first + span.rows"),
    ],
)
def test_planted(direction, kinds, file, right, wrong, monkeypatch):
    """Reported by the machine, or seen in the result."""
    monkeypatch.setattr(convolutions, "PROGRAMS", 1)
    case = stems.Case.of(stems.PERIOD, "bfloat16", PERIODS)
    with planted(file, right, wrong):
        session, ours = stems.executed(case, direction)
    assert kinds <= session.faults.kinds()
    with pytest.raises(AssertionError):
        judge(session, ours, case, direction)


@pytest.mark.parametrize(
    "direction, most, access",
    [("forward", 12, "st.global.v4"), ("weight_grad", 14, "ld.global.v4"), ("input_grad", 12, "ld.global.v4")],
)
def test_nothing_is_looked_up_for_each_tap(direction, most, access):
    """Instructions of a thread for each element of a map; with a look-up a tap they were 78, 142 and 94."""
    case, counters = stems.Case.of(stems.SCALE, "bfloat16", [(1, 2, 2048)]), Counters()
    session, _ = stems.executed(case, direction, 90, counters)
    total = sum(counters.instructions(parse(session.texts[0])).values())
    assert 32 * total <= most * case.grad.numel()
    maps = [own for (_, text), own in counters.global_.items() if text.startswith(access)]
    assert maps and all(own.taken == own.least for own in maps)


def assert_no_spills(name, direction, kind, target):
    layer, shapes = CASES[name]
    with ahead.compiling(f"sm_{target}", False, "cuda") as launches:
        stems.LAUNCHED[direction](stems.Case.of(layer, kind, shapes))
    assert launches[0].spills == 0 and launches[0].registers <= 255
    assert launches[0].shared <= 48 * 1024


@pytest.mark.parametrize(
    "name, direction, kind, target",
    [("scale", "forward", "float32", 75), ("scale", "weight_grad", "bfloat16", 90)],
)
def test_no_spills(name, direction, kind, target):
    assert_no_spills(name, direction, kind, target)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name, direction", LAUNCHES)
@pytest.mark.parametrize("target", blocks.SHARED)
def test_no_spills_anywhere(name, direction, target):
    for kind in BEFORE_80 if target < 80 else ("bfloat16", *BEFORE_80):
        assert_no_spills(name, direction, kind, target)

"""hifigan-fast bench: ways are timed in turn, and what their times say of each other."""

import collections
import functools

import pytest
import torch
import tqdm

from hifigan_fast.bench import report, timing
from hifigan_fast.bench.cases import Case, Work
from hifigan_fast.bench.steps import GENERATOR, ORIGINAL, OURS


def test_a_way_that_fails_is_its_error_and_the_others_go_on():
    def fails():
        raise RuntimeError("no such thing\nat all")

    calls, errors = timing.guarded({ORIGINAL: lambda: None, "channels_last": fails, OURS: lambda: None})
    rows = {row["way"]: row for row in timing.rows_of(timing.interleaved(calls, 2), errors)}
    assert rows["channels_last"]["error"] == "RuntimeError: no such thing"
    assert rows[OURS]["best_rival"] == ORIGINAL and "ms" in rows[OURS]


def test_ours_is_held_against_the_original_and_the_best_rival_of_its_dtype():
    times = {ORIGINAL: [9, 4, 4], "frozen": [9, 2, 2], "bf16": [9, 3, 3], OURS: [9, 1, 1], f"{OURS} bf16": [9, 5, 5]}
    rows = {row["way"]: row for row in timing.rows_of(times, {})}
    assert rows[OURS]["over_original"]["median"] == 4 and rows[OURS]["first_s"] == 9
    assert (rows[OURS]["best_rival"], rows[OURS]["over_best"]["median"]) == ("frozen", 2)
    lost = rows[f"{OURS} bf16"]
    assert (lost["best_rival"], lost["over_best"]["median"]) == ("bf16", 0.6)
    assert rows["frozen"]["over_best"] is None and rows["frozen"]["over_original"]["median"] == 2
    where = {"ensemble": "both", "step": GENERATOR, "of_floor": None}
    assert "(slower)" in timing.line(where | lost) and "0.60 bf16 (slower)" in report.table([where | lost])


@pytest.mark.parametrize(
    "ours, original, noisy",
    [
        ([1.0, 1.04, 1.08], [2.0, 2.08, 2.16], False),
        ([1.0, 1.0, 1.2], [2.0, 2.0, 2.4], True),  # both slow down: the ratio stays
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.5], True),
        ([1.0, 1.08, 1.0], [2.1, 1.95, 2.1], True),  # each is steady enough, the ratio is not
        ([1.0], [2.0], False),  # which one pair does not tell
    ],
)
def test_an_uncertain_median_is_noise(ours, original, noisy):
    _, row = timing.rows_of({ORIGINAL: [9, *original], OURS: [9, *ours]}, {})
    assert row["noisy"] is noisy and (row["uncertainty"] is None) == (len(ours) == 1)
    text = report.table([{"ensemble": "mpd", "step": "forward", "of_floor": 0.5, **row}])
    assert (timing.ADVICE in text and " !" in text) if noisy else "!" not in text


def test_more_repeats_make_a_median_more_certain():
    """As the advice says; a single disturbance among many is none of the median's."""
    few, many = (timing.uncertainty(count * [1.0, 1.1, 1.2]) for count in (1, 8))
    assert few > timing.NOISY > many
    assert timing.uncertainty([*(20 * [1.0, 1.01]), 5.0]) < 0.01 and timing.uncertainty([1.0]) is None


def test_an_unsteady_rival_is_noise():
    """Of the ratio to the best rival, whatever that to the original loop is."""
    times = {ORIGINAL: [9, 4.0, 4.0, 4.0], "frozen": [9, 2.0, 2.4, 2.9], OURS: [9, 1.0, 1.0, 1.0]}
    rows = {row["way"]: row for row in timing.rows_of(times, {})}
    assert rows[OURS]["best_rival"] == "frozen" and rows[OURS]["noisy"] and not rows[ORIGINAL]["noisy"]


def test_each_way_is_first_in_its_turn():
    """Behind another a way finds other caches."""
    ran = []
    timing.interleaved({name: functools.partial(ran.append, name) for name in "abc"}, 3)
    assert "".join(ran) == "abcbcacababc"
    assert timing.interleaved({}, 1) == {}


@pytest.mark.parametrize("round_, kept", [(0, None), (1, None), (2, 1), (3, 2)])
def test_an_interrupt_keeps_the_repeats_that_all_ways_were_done_with(round_, kept):
    """Round 0 is in front of the repeats; ours, the last to be called, is interrupted in this one."""
    called = collections.Counter()

    def call(name):
        called[name] += 1
        if name == OURS and called[name] == round_ + 1:
            raise KeyboardInterrupt

    calls = {name: functools.partial(call, name) for name in (ORIGINAL, "frozen", OURS)}
    case, rows = Case("both", GENERATOR, Work(1.0, 1.0), calls, {}), []
    ceilings = {"gflops": {}, "gbytes": 1.0}
    with pytest.raises(KeyboardInterrupt):
        for row in timing.measure([case], 5, tqdm.tqdm(disable=True), ceilings, torch.device("cpu")):
            rows.append(row)
    assert [row["way"] for row in rows] == (list(calls) if kept else [])
    assert all((row["uncertainty"] is None) == (kept == 1) and row["gflops"] > 0 for row in rows)

"""hifigan-fast bench --compare: a change is one where it is more than runs of one state differ by."""

import itertools
import json
import re
from pathlib import Path

import pytest

from hifigan_fast.bench import comparison, report, timing
from hifigan_fast.bench.steps import GENERATOR, ORIGINAL, OURS
from hifigan_fast.cli import main

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
COMMITTED = sorted(RESULTS.glob("cpu-2c-avx512-2026-11-26-*.json"))  # five runs of one commit


def saved(path, ms, errors=None, **changes):
    """A bench.json of one step: the original loop takes 200 ms, ours these, each in 8 repeats."""
    ours = [1e-3 * m for m in ms for _ in range(8)]
    times = {ORIGINAL: [9, *(0.2 for _ in ours)], OURS: [9, *ours]}
    rows = [{"ensemble": "both", "step": GENERATOR, **row} for row in timing.rows_of(times, errors or {})]
    where = {"device": "one", "processor": "one", "threads": 2, "what": "it", "batch": 4, "segment": 8192}
    run = {"format": report.FORMAT, **where, "versions": {"torch": "2.13"}, "commit": "a", "repeats": 24, "speed": rows}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run | changes))
    return str(path)


def said(capsys, old, new):
    """What `--compare` prints: ours's line, and all of it."""
    assert main(["bench", "--compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert comparison.RULE in out
    return next(line for line in out.splitlines() if OURS in line), out


def test_runs_of_one_commit_have_not_changed():
    """And the floor is just above what they differ by."""
    runs, largest = [report.load(path) for path in COMMITTED], 0
    assert len(runs) == 5 and len({run["commit"] for run in runs}) == 1
    for old, new in itertools.permutations(runs, 2):
        assert not re.search(r"(faster|slower) *$", comparison.compared([old], [new]), re.M)
        for a, b in zip(*(comparison._rows([run]).values() for run in (old, new)), strict=True):
            largest = max(largest, comparison._over_original(b)[0] / comparison._over_original(a)[0])
    assert round(largest - 1, 2) == comparison.SEEN < comparison.FLOOR < 1.2 * comparison.SEEN


def test_ends_of_the_committed_runs_have_not_changed():
    runs = [report.load(path) for path in COMMITTED]
    for count in (2, 3):
        assert not re.search(r"(faster|slower) *$", comparison.compared(runs[:count], runs[-count:]), re.M)


@pytest.mark.parametrize("ms, says", [([100], ""), ([120], ""), ([130], "slower"), ([79], "faster"), ([81], "")])
def test_one_run_a_side_is_held_against_what_runs_differ_by(tmp_path, capsys, ms, says):
    """However many repeats it has, and however alike they are."""
    line, _ = said(capsys, saved(tmp_path / "old.json", [100]), saved(tmp_path / "new.json", ms))
    assert re.search(rf"%\s*{says}$", line)


def test_a_run_of_wide_repeats_shows_less(tmp_path, capsys):
    old, new = saved(tmp_path / "old.json", [100]), saved(tmp_path / "new.json", [50, 140, 300])
    assert re.search(r"-28\.6%\s*$", said(capsys, old, new)[0])


@pytest.mark.parametrize("new, says", [((104, 105, 106), "slower"), ((101, 100, 102), ""), ((90, 105, 130), "")])
def test_three_runs_a_side_show_themselves_what_they_differ_by(tmp_path, capsys, new, says):
    for side, values in (("old", (100, 101, 99)), ("new", new)):
        for index, ms in enumerate(values):
            saved(tmp_path / side / f"{index}.json", [ms])
    line, out = said(capsys, tmp_path / "old", tmp_path / "new")
    assert re.search(rf"%\s*{says}$", line) and "new, × original, runs: 3" in out


def test_what_else_changed_is_said(tmp_path, capsys):
    old = saved(tmp_path / "old.json", [100])
    other = saved(tmp_path / "new.json", [100], versions={"torch": "2.14"}, threads=8)
    _, out = said(capsys, old, other)
    assert "other torch: 2.13, now 2.14" in out and "other threads: 2, now 8" in out
    assert "other" not in said(capsys, old, old)[1]


def test_what_failed_is_told_from_what_was_not_run(tmp_path, capsys):
    old, failed = saved(tmp_path / "old.json", [100]), saved(tmp_path / "new.json", [100], {OURS: "no"})
    assert re.search(r"2\.00 +failed\s*$", said(capsys, old, failed)[0])
    assert re.search(r"failed +failed\s*$", said(capsys, failed, failed)[0])
    without = saved(tmp_path / "without.json", [100], speed=[])
    assert re.search(r"2\.00 +not run\s*$", said(capsys, old, without)[0])
    alone = json.loads((tmp_path / "old.json").read_text())
    for row in alone["speed"]:
        row["over_original"]["uncertainty"] = None
    (tmp_path / "alone.json").write_text(json.dumps(alone))
    assert re.search(r"\+0\.0% +\?$", said(capsys, old, tmp_path / "alone.json")[0])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"speed": [{"ensemble": "both", "step": GENERATOR}]}, "lacks 'way of a row'; measure again"),
        ({"speed": [5]}, "lacks 'ensemble of a row'; measure again"),
        ({"speed": "abc"}, "has 'abc' as speed, expected list; measure again"),
        ({"speed": None}, "has None as speed, expected list; measure again"),
        ({"repeats": None}, "has None as repeats, expected int; measure again"),
        ({"versions": []}, r"has \[\] as versions, expected dict; measure again"),
        (
            {"format": report.FORMAT + 1},
            f"of format {report.FORMAT}, got {report.FORMAT + 1} in .*; update hifigan_fast",
        ),
        ({"format": [1]}, r"of format 3, got \[1\] in .*; measure again"),
    ],
)
def test_a_damaged_file_is_told_with_its_cure(tmp_path, capsys, change, said):
    path = saved(tmp_path / "one.json", [100], **change)
    assert main(["bench", "--compare", path, path]) == 2
    assert re.fullmatch(f"error: compare: .*{said}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("ms_range", ..., "lacks 'ms_range of a row'"),
        ("ms", "fast", "has 'fast' as ms of a row, expected int or float"),
        ("over_original", 2.0, "lacks 'median of over_original'"),
        ("over_original", {"median": None, "range": []}, "has None as median of over_original, expected int or float"),
    ],
)
def test_a_damaged_row_is_told_with_its_cure(tmp_path, capsys, key, value, said):
    whole = json.loads(Path(saved(tmp_path / "one.json", [100])).read_text())
    row = whole["speed"][1]
    row.pop(key) if value is ... else row.update({key: value})
    (tmp_path / "one.json").write_text(json.dumps(whole))
    assert main(["bench", "--compare", str(tmp_path / "one.json"), str(tmp_path / "one.json")]) == 2
    assert capsys.readouterr().err == f"error: compare: {tmp_path / 'one.json'} {said}; measure again\n"


def test_no_file_of_runs_is_told_with_its_cure(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "a.txt").write_text("Speed: much")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    for name, said in (
        ("none", r"or a folder of them, got '.*none', which has none; hifigan-fast bench --out .*none measures one"),
        ("a.txt", r".*a.txt is not JSON: .*; hifigan-fast bench --json FILE writes one"),
        ("a.png", r".*a.png is not JSON: .*; hifigan-fast bench --json FILE writes one"),
    ):
        assert main(["bench", "--compare", str(tmp_path / name), str(tmp_path / name)]) == 2
        assert re.fullmatch(f"error: compare: .*{said}\n", capsys.readouterr().err)


def test_a_folder_is_of_one_state(tmp_path, capsys):
    saved(tmp_path / "a" / "0.json", [100])
    saved(tmp_path / "a" / "1.json", [100], commit="b")
    assert main(["bench", "--compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 2
    assert "expected runs of one state in" in (said := capsys.readouterr().err) and "commit 'a' in" in said
    (tmp_path / "none").mkdir()
    assert main(["bench", "--compare", str(tmp_path / "none"), str(tmp_path / "a")]) == 2
    assert "expected a bench.json or a folder of them, got" in capsys.readouterr().err

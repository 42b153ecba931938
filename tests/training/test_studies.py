"""docs/studies: a killed run goes on to the same result, missing runs are named, jobs share them out."""

import dataclasses
import json
import math
import signal

import pytest
import torch
import train_studies
from filelock import FileLock
from studies import clips, course, jobs, probes, results, runs

from hifigan_fast.training import checkpoint, step

from .conftest import ROOT

RUN = runs.Run("step-losses", 1, spectral="none")
CPU = torch.device("cpu")


@pytest.fixture
def execute(narrow, plan, data, tmp_path, monkeypatch):
    """execute(run) in a folder of its own; returns its result. Distances that other libraries measure are a mean."""

    def quality(pairs, *_):
        return round(float(torch.cat([generated for _, generated in pairs], 1).abs().mean()), 9)

    for name in ("_stft", "_pesq"):
        monkeypatch.setattr(probes, name, quality)

    def call(run, folder):
        assert course.work([run], plan, data, tmp_path / folder, tmp_path / folder / "results") == 0
        return json.loads((tmp_path / folder / "results" / "tiny" / f"{run.name}.json").read_text())

    return call


def without_clock(result):
    return {key: value for key, value in result.items() if key not in ("conditions", "seconds_per_step")}


class Killed(BaseException):
    """What nothing catches: a kill, as far as the files go."""


def kill():
    raise Killed


def once(function, at, then):
    """`function`; when its call number `at` is done, `then` is called."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(None)
        found = function(*args, **kwargs)
        if len(calls) == at:
            then()
        return found

    return counted


def test_a_killed_run_goes_on_to_the_same_result(execute, tmp_path, monkeypatch):
    expected = execute(RUN, "whole")
    assert [row["step"] for row in expected["probes"]] == [0, 2, 3] and expected["curve"]["step"] == [2, 3]
    assert len({json.dumps(row["layers"]) for row in expected["probes"]}) == 3, "the probes are of one state"
    saves = [(results, "write", 1), (checkpoint, "save_checkpoint", 2), (checkpoint, "thin", 2)]
    kills = [(step.Trainer, "train_step", 3), (probes, "probe", 2), (results, "write", 2), *saves]
    for where, name, at in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(where, name, once(getattr(where, name), at, kill))
            execute(RUN, f"{name}-{at}")
        assert without_clock(execute(RUN, f"{name}-{at}")) == without_clock(expected), f"killed in {name}, call {at}"
        assert not (tmp_path / f"{name}-{at}" / "tiny" / RUN.name).exists(), "its checkpoint stayed"


def test_work_leaves_out_what_is_finished(execute, plan, data, tmp_path, capsys):
    execute(RUN, "a")
    capsys.readouterr()
    other = dataclasses.replace(RUN, seed=2)
    assert course.work([RUN, other], plan, data, tmp_path / "a", tmp_path / "a" / "results") == 0
    said = capsys.readouterr().out
    assert f"{other.name}: done" in said and f"{RUN.name}: done" not in said
    found = results.of_plan(plan, [RUN, other], tmp_path / "a" / "results")
    assert found[RUN.name]["curve"] != found[other.name]["curve"]
    third = dataclasses.replace(RUN, seed=3)
    assert results.missing(found, [RUN, other, third]) == "2 of 3 runs; missing: spectral-none-3"
    assert results.missing(found, [RUN, other]) == "2 of 2 runs"


def test_runs_side_by_side_are_those_alone(execute, plan, data, tmp_path, monkeypatch):
    """And one that fails is said to have, and ends no other."""
    plan = dataclasses.replace(plan, checkpoint=None)
    wanted = [dataclasses.replace(RUN, seed=seed) for seed in runs.SEEDS]
    assert course.work(wanted, plan, data, tmp_path, tmp_path / "alone") == 0
    monkeypatch.setitem(course.ABREAST, "cpu", 2)
    mel, made = step.Trainer.mel, []

    def not_a_number(trainer, y, fmax):
        made.append(trainer.config.seed)
        return mel(trainer, y, fmax) * (math.nan if trainer.config.seed == 2 and trainer.step == 1 else 1)

    monkeypatch.setattr(step.Trainer, "mel", not_a_number)
    assert course.work(wanted, plan, data, tmp_path, tmp_path / "beside") == 1
    changes = sum(a != b for a, b in zip(made, made[1:]))
    alone, beside = (results.of_plan(plan, wanted, tmp_path / name) for name in ("alone", "beside"))
    assert changes >= len(wanted) and list(beside) == ["spectral-none-1", "spectral-none-3"]
    assert not (tmp_path / "tiny").exists(), "a plan without checkpoints wrote one"
    assert {name: without_clock(own) for name, own in beside.items()} == {
        name: without_clock(alone[name]) for name in beside
    }


def test_a_run_that_fails_says_why(execute, plan, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "MEL_WEIGHT", math.inf)
    assert course.work([RUN], plan, data, tmp_path, tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith("spectral-none-1: failed: step 1: losses or gradients are not finite") and ".wav" in said
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(step, "MEL_WEIGHT", 45)
        patch.setattr(checkpoint, "save_checkpoint", once(checkpoint.save_checkpoint, 1, kill))
        course.work([RUN], plan, data, tmp_path, tmp_path)
    assert course.work([RUN], plan, data._replace(digest="another"), tmp_path, tmp_path) == 1
    assert "was begun on other clips" in capsys.readouterr().err
    monkeypatch.setattr(step.Trainer, "train_step", None)
    assert course.work([RUN], plan, data, tmp_path, tmp_path) == 1
    assert "Traceback" in capsys.readouterr().err, "of what nobody expects, where it was is said"


def test_two_processes_do_not_train_one_run(narrow, plan, data, tmp_path, capsys):
    with FileLock(tmp_path / "tiny" / f"{RUN.name}.lock"):
        assert course.work([RUN], plan, data, tmp_path, tmp_path / "results") == 1
    assert f"{RUN.name}: failed: another process trains it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "name", "at", "after"), [(probes, "probe", 2, 2), (step.Trainer, "train_step", 3, 3)]
)
def test_a_signal_ends_a_run_with_a_checkpoint(execute, plan, data, tmp_path, monkeypatch, where, name, at, after):
    expected = execute(RUN, "whole")
    plan = dataclasses.replace(plan, checkpoint=3)  # none but the last is due
    with monkeypatch.context() as patch:
        patch.setattr(where, name, once(getattr(where, name), at, lambda: signal.raise_signal(signal.SIGTERM)))
        assert course.work([RUN], plan, data, tmp_path / "b", tmp_path / "b" / "results") == 128 + signal.SIGTERM
    assert (tmp_path / "b" / "tiny" / RUN.name / f"g_{after:08d}").is_file()
    assert not (tmp_path / "b" / "results").exists(), "of a run whose last probe is missing"
    assert course.work([RUN], plan, data, tmp_path / "b", tmp_path / "b" / "results") == 0
    found = results.read(tmp_path / "b" / "results" / "tiny" / f"{RUN.name}.json")
    assert [found[key] for key in ("curve", "probes")] == [expected[key] for key in ("curve", "probes")]


def test_a_trainer_goes_on_as_if_it_had_not_been_probed(execute, plan, data):
    found = []
    for probed in (False, True):
        own = course.Course(dataclasses.replace(RUN, spectral="all"), plan, data, data.folder / "none", CPU)
        own._steps(1, bool)
        if probed:
            probes.probe(own.trainer, own.held_out, speech=True)
        [losses] = own._steps(2, bool)
        found.append(losses.read())
    assert found[0] == found[1]


def test_jobs_share_the_runs_out(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        f"for name in sys.argv[1:]:\n    pathlib.Path({str(tmp_path)!r}, name).touch()\n"
        "if 'plain-2' in sys.argv:\n    os.abort()\n"
    )
    wanted = runs.FIDELITY
    assert jobs.shared_out([str(script)], wanted, 3) == 1
    assert {path.name for path in tmp_path.iterdir()} == {script.name, *(run.name for run in wanted)}
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"ended by signal {signal.SIGABRT}") and "plain-2" in said and "plain-1" not in said
    assert jobs.shared_out([str(script)], [], 3) == 0


def test_a_signal_ends_all_jobs(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(jobs.time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    assert jobs.shared_out([str(script)], runs.FIDELITY, 2) == 128 + signal.SIGINT


def test_each_way_runs_as_it_says(narrow, plan, data):
    spectral = {name: _spectral_scales(dataclasses.replace(RUN, spectral=name), plan) for name in runs.SPECTRAL}
    assert spectral == {"first": [True, False, False], "none": [False] * 3, "all": [True] * 3}
    for way in runs.WAYS:
        assert _spectral_scales(runs.Run(way, 1), plan) == [True, False, False]
    for name in runs.PERIODS:
        assert (
            tuple(runs.config_of(runs.Run("plain", 1, periods=name), plan).discriminator_periods) == runs.PERIODS[name]
        )
    assert len({run.name for run in runs.RUNS}) == len(runs.RUNS) == 27


def _spectral_scales(run, plan):
    step.DISCRIMINATORS[run.name] = runs.kind_of(run)
    trainer = step.Trainer(runs.config_of(run, plan), torch.device("cpu"), run.name)
    assert math.isfinite(trainer.train_step(0.1 * torch.randn(2, 1024)).read()[1])
    return [hasattr(scale.conv_post, "weight_orig") for scale in trainer.msd.discriminators]


def test_results_of_another_plan_do_not_count_and_of_other_clips_are_refused(plan, tmp_path):
    others = [RUN, dataclasses.replace(RUN, seed=2)]
    for run, digest, steps in ((others[0], "a", 3), (others[1], "b", 3)):
        result = {"plan": dataclasses.asdict(dataclasses.replace(plan, steps=steps)), "data": digest}
        results.write(tmp_path / "tiny" / f"{run.name}.json", result)
    with pytest.raises(ValueError, match="spectral-none-1 and spectral-none-2 were trained on different clips"):
        results.of_plan(plan, others, tmp_path)
    assert not results.of_plan(dataclasses.replace(plan, steps=4), others, tmp_path)
    for content in ("{", "[]", "{}", '{"data": "a"}', '{"data": "a", "plan": {}}', '{"data": "a", "plan": 3}'):
        (tmp_path / "tiny" / f"{RUN.name}.json").write_text(content)
        with pytest.raises(ValueError, match="delete it, and it is measured again"):
            results.of_plan(plan, others, tmp_path)


def test_a_run_begins_with_a_shorter_one(execute, plan, data, tmp_path):
    """So a question's standard is trained once, and what was begun by either plan goes on by the other."""
    whole, first = execute(RUN, "a"), dataclasses.replace(plan, steps=2)
    folder = tmp_path / "a" / "results"
    [cut] = results.of_plan(first, [RUN], folder).values()
    assert course.work([RUN], first, data, tmp_path / "b", tmp_path / "b" / "results") == 0
    short = results.read(tmp_path / "b" / "results" / "tiny" / f"{RUN.name}.json")
    for result in (cut, short):
        result["probes"][-1]["pesq"] = None  # which a run's end has
    assert without_clock(cut) == without_clock(short) and whole["plan"]["steps"] == 3
    assert not results.of_plan(dataclasses.replace(first, batch_size=3), [RUN], folder)
    begun = course.Course(RUN, plan, data, tmp_path / "c" / "tiny" / RUN.name, CPU)
    for _ in begun.turns(lambda: begun.trainer.step == 3):
        pass
    assert course.work([RUN], first, data, tmp_path / "c", tmp_path / "c" / "results") == 0
    further = results.read(tmp_path / "c" / "results" / "tiny" / f"{RUN.name}.json")
    assert [further[key] for key in ("curve", "plan")] == [short[key] for key in ("curve", "plan")]


def test_clips_are_the_first_sixteen_and_every_fourth_is_held_out(data, tmp_path):
    training, held_out = (
        (data.folder / f"{name}.txt").read_text().split("\n")[:-1] for name in ("training", "validation")
    )
    assert len(training) == 12 and len(held_out) == 4 and not set(training) & set(held_out)
    assert clips.chosen(data.paths[0].parent, tmp_path / "again").digest == data.digest
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="--data: expected a folder of at least 4 wavs, got 0"):
        clips.chosen(tmp_path / "none", tmp_path)


def test_the_command_says_what_is_missing_and_what_it_does_not_know(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_studies.py", "plain-9", "--list"])
    assert train_studies.main() == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("RUN: expected names of plain-1, ") and said.endswith("got plain-9\n") and said.count("\n") == 1
    )
    monkeypatch.setattr("sys.argv", ["train_studies.py", "--list", "--plan", "short", "plain-1"])
    assert train_studies.main() == 0
    assert capsys.readouterr().out == "0 of 1 runs; missing: plain-1\n"
    monkeypatch.setattr("sys.argv", ["train_studies.py", "plain-1", "periods-odd-1", "--results", str(ROOT / "none")])
    by_plan = train_studies.chosen(train_studies.parsed())
    assert {plan: [run.name for run in own] for plan, own in by_plan.items()} == {
        runs.WHOLE: ["plain-1"],
        runs.THIRD: ["periods-odd-1"],
    }
    assert all(runs.plan_of(run, "cuda:0") is runs.GPU for run in runs.RUNS)
    for wrong in (["--data", str(ROOT / "nowhere")], ["--threads", "-1"], ["--jobs", "0"]):
        monkeypatch.setattr("sys.argv", ["train_studies.py", "plain-1", *wrong])
        assert train_studies.main() == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(wrong[0] if wrong[0] != "--data" else "data")

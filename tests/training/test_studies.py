"""docs/studies: a killed run goes on to the same result, missing runs are named, what is measured is right."""

import dataclasses
import json
import math
import signal

import make_fidelity_figure
import make_questions_figures
import numpy as np
import pytest
import torch
import train_studies
from studies import bands, clips, course, jobs, pages, parting, periods, probes, results, runs
from torch.nn.utils import spectral_norm, weight_norm

from hifigan_fast import DiscriminatorP, extras
from hifigan_fast.training import checkpoint, step
from hifigan_fast.voice import write_clips

from .conftest import ROOT

RUN = runs.Run("step-losses", 1, spectral="none")
CPU = torch.device("cpu")


@pytest.fixture
def plan(tiny_config_file):
    return runs.Plan(
        "tiny", steps=3, mark=2, mean=2, checkpoint=1, batch_size=4, segment_size=1024, config=str(tiny_config_file)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return clips.chosen(write_clips(folder / "voice", clips.CLIPS, 0.3)[0].parent, folder)


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
    for content in ("{", "[]", "{}"):
        (tmp_path / "tiny" / f"{RUN.name}.json").write_text(content)
        with pytest.raises(ValueError, match="delete it, and it is measured again"):
            results.of_plan(plan, others, tmp_path)


def test_clips_are_the_first_sixteen_and_every_fourth_is_held_out(data, tmp_path):
    training, held_out = (
        (data.folder / f"{name}.txt").read_text().split("\n")[:-1] for name in ("training", "validation")
    )
    assert len(training) == 12 and len(held_out) == 4 and not set(training) & set(held_out)
    assert clips.chosen(data.paths[0].parent, tmp_path / "again").digest == data.digest
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="--data: expected a folder of at least 4 wavs, got 0"):
        clips.chosen(tmp_path / "none", tmp_path)


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm, lambda conv: conv], ids=["weight", "spectral", "none"])
@pytest.mark.parametrize("make", [torch.nn.Conv1d, torch.nn.Conv2d])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_gain_is_the_norm_of_the_convolution_as_a_matrix(make, norm, monkeypatch):
    monkeypatch.setattr(probes, "ROWS", 20)
    monkeypatch.setattr(probes, "ITERATIONS", 500)
    column = (lambda n: (n, 1)) if make is torch.nn.Conv2d else (lambda n: n)
    options = {"bias": False, "groups": 2} if make is torch.nn.Conv1d else {"bias": False}
    padding = (2, 0) if make is torch.nn.Conv2d else 2
    conv = norm(make(4, 6, column(5), column(3), padding=padding, **options))
    inputs = torch.eye(80).view(80, 4, 20, *([1] if make is torch.nn.Conv2d else []))
    with torch.no_grad():
        vectors = [buffer.clone() for buffer in conv.buffers()]
        weight = probes._effective(conv)
        assert all(map(torch.equal, conv.buffers(), vectors)), "the probe iterated"
        matrix = conv(inputs).flatten(1)  # in training: spectral norm iterates before
        assert torch.equal(weight.flatten(1), conv.weight.flatten(1))
        assert probes._gain(conv, weight) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-3)
        assert probes._largest(weight.flatten(1)) == pytest.approx(
            float(torch.linalg.matrix_norm(conv.weight.flatten(1), 2)), rel=1e-4
        )


def test_gradient_norms_are_those_of_plain_pytorch(narrow, plan):
    found = {}
    pairs = [tuple(0.1 * torch.randn(2, 1, 2048, generator=torch.Generator().manual_seed(seed))) for seed in range(2)]
    for way in ("plain", "step-losses"):
        step.DISCRIMINATORS[way] = runs.kind_of(runs.Run(way, 1))
        trainer = step.Trainer(runs.config_of(runs.Run(way, 1), plan), torch.device("cpu"), way)
        found[way] = probes.gradient_norms(trainer, pairs)
    assert list(found["plain"]) == [*(f"mpd.{i}" for i in range(5)), *(f"msd.{i}" for i in range(3))]
    for name, sides in found["plain"].items():
        assert found["step-losses"][name] == pytest.approx(sides, rel=2e-3) and sides[0] != sides[1], name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pesq divides silence by its peak
def test_quality_measures_are_their_libraries(speech):
    pytest.importorskip("auraloss", reason="measures the STFT distance")
    pytest.importorskip("pesq", reason="measures PESQ")
    soundfile = pytest.importorskip("soundfile", reason="reads the clips")
    audio, rate = soundfile.read(sorted(speech.glob("*.wav"))[0], dtype="float32")
    clip = torch.from_numpy(audio[: 2 * rate]).unsqueeze(0)
    noisy = clip + 0.05 * torch.randn(clip.shape)
    assert probes._stft([(clip, clip)]) < 1e-3 < 0.1 < probes._stft([(clip, noisy)])
    if clips.SPEECH.is_dir():
        assert probes._pesq([(clip, clip)], rate) > 4.5 > probes._pesq([(clip, noisy)], rate) > 1
    assert probes._pesq([(0 * clip, 0 * clip)], rate) is None


def test_fields_are_what_an_output_depends_on(narrow):
    discriminator = DiscriminatorP(1)
    x = torch.randn(1, 1, 2001, requires_grad=True)
    _, maps = discriminator(x)
    for rows, own in zip(periods.fields(), maps, strict=True):
        middle = own[0, :, own.shape[2] // 2].sum()
        [gradient] = torch.autograd.grad(middle, x, retain_graph=True)
        reached = gradient[0, 0].nonzero()
        assert int(reached[-1] - reached[0]) + 1 == rows


def test_a_fold_keeps_apart_aliases_and_merges():
    energies = np.array([1.0, 1.0, 1.0, 0.01])
    where = np.array([400.0, 2600.0, 3000.0 - 400.0 + 1000.0 - 1.0, 405.0 + 2000.0])
    found = periods.folded(
        where, energies, 11, 11000
    )  # a column has 1000 Hz; 2600 folds to 400, 3599 and 2405 to 401, 405
    assert found[periods.MERGED].tolist() == [True, True, True, True]
    found = periods.folded(where[[0, 3]], energies[[0, 3]], 11, 11000)
    assert found[periods.ALONE].tolist() == [True, False], "a partial below a tenth hides another"
    assert found[periods.MERGED].tolist() == [False, True]
    found = periods.folded(np.array([100.0, 2600.0]), energies[:2], 11, 11000)
    assert found[periods.ALIASED].tolist() == [False, True] and found[periods.ALONE].tolist() == [True, False]


def test_what_a_set_sees_is_counted():
    even = [1.0] * periods.DISTANCES
    primes = periods.overlap((2, 3, 5, 7, 11), np.array(even))
    seen = [d for d in range(1, periods.DISTANCES + 1) if any(d % p == 0 for p in (2, 3, 5, 7, 11))]
    assert primes["covered"] == primes["weighted"] == round(len(seen) / periods.DISTANCES, 4)
    others = periods.overlap((2, 4, 6, 8, 10), np.array(even))
    assert others["covered"] == 0.5 and [share for p, share in others["own"].items() if p != "2"] == [0, 0, 0, 0]
    assert periods.seen([1])[0].sum() == periods.fields()[-1] - 1, "beyond the field nothing is seen"


def test_partials_of_a_known_voice():
    rate, f0 = 22050, 210.0
    time = np.arange(periods.WINDOW) / rate
    frame = periods.Frame(f0, sum(np.cos(2 * np.pi * h * f0 * time) / h for h in (1, 2, 3)))
    frequencies, energies, whole = periods.partials(frame, rate)
    assert frequencies[:3].tolist() == [210, 420, 630] and len(frequencies) == 52
    assert energies[:3] / energies[0] == pytest.approx([1, 1 / 4, 1 / 9], rel=0.05)
    assert energies.sum() / whole == pytest.approx(1, abs=0.01)
    assert periods.resemblance([frame])[rate // 210 - 1] > 0.95, "a pitch period later it is the same"


def test_the_derived_set_is_that_of_the_clips():
    found = results.read(results.RESULTS / "periods.json")
    assert tuple(found["pitch_set"]) == runs.PERIODS["pitch"]


def test_the_band_holds_one_more_run():
    random = np.random.default_rng(0)
    inside = [bands.within(run[3], bands.band(run[:3])) for run in random.standard_normal((400, 4, 50))]
    assert np.mean(inside) == pytest.approx(bands.CONFIDENCE, abs=0.01)
    assert bands.band(random.standard_normal((2, 5))) is None


def test_runs_part_by_rounding_only(narrow, plan, data, tmp_path, monkeypatch):
    plan = dataclasses.replace(plan, steps=2, batch_size=1)
    quick = {name: rival for name, rival in parting.RIVALS.items() if rival.threads == 1}  # busy cores make others wait
    monkeypatch.setattr(parting, "RIVALS", quick)
    parting.measure(parting.RUNS[0], plan, data, tmp_path)
    [found] = results.of_plan(plan, parting.RUNS[:1], tmp_path).values()
    for part in ("generator", "discriminators"):
        rivals = {name: own[part] for name, own in found["rivals"].items()}
        assert list(rivals) == list(parting.RIVALS) and all(len(own) == 2 for own in rivals.values())
        assert rivals["functions"][0] < 0.05 < 1e3 * rivals["autocast"][0], "of another seed it would be 1.4"
        assert parting.ratios(found, part, "autocast")[0] == pytest.approx(
            rivals["autocast"][0] / rivals["plain-autocast"][0]
        )


def test_modules_and_step_losses_train_alike_bit_for_bit(narrow, plan, data):
    """So one long run stands for both. With the discriminators' full widths it was the same over 12 steps."""
    assert runs.ALIKE in runs.WAYS and not any(run.way == runs.ALIKE for run in runs.RUNS)
    ways = [
        parting._steps(runs.Run("plain", 1), plan, data, parting.OURS[name]) for name in (runs.ALIKE, "step-losses")
    ]
    for (one, _), (other, _) in zip(*ways):
        assert all(torch.equal(one[part], other[part]) for part in one)


def test_a_way_that_trains_otherwise_parts(narrow, plan, data, monkeypatch):
    plan = dataclasses.replace(plan, steps=1, batch_size=1)
    [(right, losses)] = parting._steps(runs.Run("plain", 1), plan, data, parting.Rival("plain", ""))
    [(again, _)] = parting._steps(runs.Run("plain", 1), plan, data, parting.Rival("plain", ""))
    assert all(torch.equal(right[part], again[part]) for part in right) and len(losses) == 3
    monkeypatch.setattr(step, "MEL_WEIGHT", 44)
    [(wrong, _)] = parting._steps(runs.Run("plain", 1), plan, data, parting.Rival("plain", ""))
    assert not torch.equal(right["generator"], wrong["generator"])
    assert torch.equal(right["discriminators"], wrong["discriminators"])


def test_pages_say_what_the_results_say():
    parted = results.of_plan(parting.PARTING, parting.RUNS)
    text = make_fidelity_figure.PAGE.read_text(encoding="utf-8")
    section = make_fidelity_figure.section(parted, *results.fullest(runs.LONG, runs.FIDELITY))
    assert text == pages.with_section(text, section)
    short, folds = results.of_plan(runs.SHORT, make_questions_figures.SHORT), results.read(make_questions_figures.FOLDS)
    text = make_questions_figures.PAGE.read_text(encoding="utf-8")
    trained = results.fullest(runs.LONG, [*runs.OF_PERIODS, *runs.OF_SPECTRAL])
    assert text == pages.with_section(text, make_questions_figures.section(folds, short, *trained))
    with pytest.raises(ValueError, match="put both back"):
        pages.with_section("no lines", "")


def test_pages_of_finished_trainings_have_their_figures(monkeypatch, tmp_path):
    random = np.random.default_rng(0)
    runs_done = [run for run in runs.RUNS if run.seed < 3 or run.way == "plain"]
    found = {run.name: made_up(random, run.way == "autocast") for run in runs_done}
    section = make_fidelity_figure.section({}, runs.GPU, found)
    assert "9 of 12 runs; missing: step-losses-3" in section and "ours, bf16 autocast" in section
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("|")}
    assert "≥ 0%" in rows["ours, bf16 autocast"] and "≥ 0%" not in rows["ours, float32, step losses"]
    section = make_questions_figures.section(None, {}, runs.GPU, found)
    assert "8 of 12 runs" in section and "no band yet" in section and "2, 4, 6, 8, 10" in section
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    figure, axes = pages.canvas(2)
    make_fidelity_figure.draw_training(axes[0], runs.GPU, found)
    make_questions_figures.draw_trained(
        axes[1], found, runs.OF_SPECTRAL, runs.GPU, lambda r: r.spectral, str, "disc_loss"
    )
    pages.save(figure, "figure.png")
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "plain PyTorch's 95 % band",
        *(way.title for name, way in runs.WAYS.items() if name != runs.ALIKE),
    ]


def made_up(random, far):
    """A result whose curves are noise, far from all others' if `far`."""
    plan = runs.GPU
    points = plan.steps // plan.mean
    curve = {loss: (random.standard_normal(points) + 1e3 * far).tolist() for loss in runs.LOSSES}
    probe = {"step": plan.steps, "mel_error": 1.0, "stft": 2.0, "pesq": None}
    conditions = results.conditions() | {"device": "NVIDIA H200"}
    steps = list(range(plan.mean, plan.steps + 1, plan.mean))
    return {
        "plan": dataclasses.asdict(plan),
        "data": "clips",
        "conditions": conditions,
        "curve": {"step": steps} | curve,
        "probes": [probe],
    }


def test_a_page_has_the_plan_with_most_results(tmp_path):
    """And says which machine that was."""
    random = np.random.default_rng(0)
    plan, found = results.fullest(runs.LONG, runs.FIDELITY, tmp_path)
    assert plan is runs.WHOLE and not found
    for run in runs.FIDELITY[:2]:
        results.write(tmp_path / "gpu" / f"{run.name}.json", made_up(random, False))
    plan, found = results.fullest(runs.LONG, runs.FIDELITY, tmp_path)
    assert plan is runs.GPU and len(found) == 2
    said = pages.made(plan, found, runs.FIDELITY)
    assert said.startswith("V2, batch 2 × 4096, 1500 steps; NVIDIA H200, Triton ") and "; 2 of 12 runs; " in said
    assert said.endswith(pages.TF32)
    [short] = results.of_plan(runs.SHORT, make_questions_figures.SHORT[:1]).values()
    said = pages.made(runs.SHORT, {"step-losses-1": short}, make_questions_figures.SHORT[:1])
    assert f"{short['conditions']['processor']}, " in said and "thread" in said and "TF32" not in said


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
    for wrong in (["--data", str(ROOT / "nowhere")], ["--threads", "-1"], ["--jobs", "0"]):
        monkeypatch.setattr("sys.argv", ["train_studies.py", "plain-1", *wrong])
        assert train_studies.main() == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(wrong[0] if wrong[0] != "--data" else "data")


def test_a_figure_without_matplotlib_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    for script in (make_fidelity_figure, make_questions_figures):
        monkeypatch.setattr("sys.argv", [script.__name__])
        assert script.main() == 1
        assert capsys.readouterr().err.startswith("drawing needs matplotlib: pip install 'hifigan-fast[studies]'")

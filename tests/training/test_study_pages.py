"""docs/studies: what is measured of runs is right, and the pages say what the results say."""

import dataclasses

import make_fidelity_figure
import make_questions_figures
import numpy as np
import pytest
import torch
from studies import bands, clips, pages, parting, periods, probes, results, runs
from torch.nn.utils import spectral_norm, weight_norm

from hifigan_fast import extras, reference
from hifigan_fast.training import step


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
    discriminator = reference.DiscriminatorP(1)  # whose gradients are 0 elsewhere, not nearly
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
    assert primes["pairs"][:2] == pytest.approx([1 / 2, 1 / 2], abs=0.01), (
        "of the multiples of 3, and of 5, half are even"
    )
    others = periods.overlap((2, 4, 6, 8, 10), np.array(even))
    assert others["pairs"][:4] == [1, 1, 1, 1]
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


def test_differences_are_those_of_a_seed():
    """Which vary less than the seeds do, and are not hidden by them."""
    random = np.random.default_rng(0)
    standard = {seed: float(value) for seed, value in enumerate(random.standard_normal(3))}
    far = {seed: value + 0.1 + 0.001 * seed for seed, value in standard.items()}
    assert bands.difference(far, standard) == "+0.101 ± 0.002"
    assert bands.difference({1: 0.0}, standard) == "too few seeds"
    held = []
    for _ in range(2000):
        pairs = dict(enumerate(random.standard_normal(3)))
        mean, half = map(float, bands.difference(pairs, {0: 0.0, 1: 0.0, 2: 0.0}).split(" ± "))
        held.append(abs(mean) <= half)
    assert np.mean(held) == pytest.approx(bands.CONFIDENCE, abs=0.015)


def test_what_is_compared_is_a_run_s_second_half():
    random, steps = np.random.default_rng(0), [500, 1000, 1500]
    own = {seed: made_up(random, False) for seed in runs.SEEDS}
    for seed, result in own.items():
        result["probes"] = [{"step": step, "mel_error": error} for step, error in zip(steps, (9, 2, seed))]
        result["curve"] = {"step": steps, "mel_error": [9, 4, 2 * seed]}
    assert pages.settled(own[1], "held-out") == 1.5 and pages.settled(own[1], "training") == 3
    assert pages.less(own, own) == ["", ""] and pages.less(dict(own), own) == ["+0.000 ± 0.000"] * 2


def test_a_page_names_all_machines():
    own = [results.conditions() | {"date": f"2026-01-0{day}T00:00:00"} for day in (3, 1)]
    said = pages.where([*own, own[0] | {"processor": "another", "device": "another"}])
    assert said.startswith(own[0]["processor"]) and "; another, " in said and said.endswith("2026-01-01 to 2026-01-03")
    assert pages.where(own[:1]).endswith(", 2026-01-03")


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
        [ratio] = parting.ratios({"plain-1": found}, part, "autocast", "plain-autocast")
        assert ratio == pytest.approx(rivals["autocast"][1] / rivals["plain-autocast"][1])


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
    section = make_fidelity_figure.section(parted, *results.fullest(runs.OF_FIDELITY, runs.FIDELITY))
    assert text == pages.with_section(text, section)
    short, folds = results.of_plan(runs.SHORT, make_questions_figures.SHORT), results.read(make_questions_figures.FOLDS)
    text = make_questions_figures.PAGE.read_text(encoding="utf-8")
    trained = results.fullest(runs.OF_QUESTIONS, [*runs.OF_PERIODS, *runs.OF_SPECTRAL])
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
    cells = ["all scales", "1500", "1.00, 3.00", "2.00, 4.00", "8.0", "5.0e-01", "2.5e-01"]
    assert cells in [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    figure, axes = pages.canvas(1)
    make_fidelity_figure.draw_training(axes, runs.GPU, found)
    folds, short = results.read(make_questions_figures.FOLDS), results.of_plan(runs.SHORT, make_questions_figures.SHORT)
    drawn = [pages.canvas(3) for _ in range(2)]
    make_questions_figures.draw(drawn, folds, short, runs.GPU, found)
    assert len(list(tmp_path.glob("questions-*.png"))) == 2
    assert drawn[1][1][0].get_legend().get_texts()[-1].get_text() == "all scales, step 1500", (
        "of long ones, as there are"
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "plain PyTorch's 95 % band",
        *(way.title for name, way in runs.WAYS.items() if name != runs.ALIKE),
    ]


def made_up(random, far):
    """A result whose curves are noise, far from all others' if `far`."""
    plan = runs.GPU
    points = plan.steps // plan.mean
    curve = {loss: (random.standard_normal(points) + 1e3 * far).tolist() for loss in runs.LOSSES}
    own = {
        "mel_error": 1.0,
        "stft": 2.0,
        "pesq": None,
        "layers": {"mpd.0.0": [9, 9], "msd.0.0": [1, 2], "msd.0.1": [3, 4]},
    }
    conditions = results.conditions() | {"device": "NVIDIA H200"}
    steps = list(range(plan.mean, plan.steps + 1, plan.mean))
    return {
        "plan": dataclasses.asdict(plan),
        "data": "clips",
        "conditions": conditions,
        "curve": {"step": steps} | curve,
        "probes": [
            {"step": step, "gradients": {f"msd.{scale}": [0.5, 0.25] for scale in range(3)}} | own
            for step in plan.marks
        ],
    }


def test_a_page_has_the_plan_with_most_results(tmp_path):
    """And says which machine that was."""
    random = np.random.default_rng(0)
    plan, found = results.fullest(runs.OF_FIDELITY, runs.FIDELITY, tmp_path)
    assert plan is runs.WHOLE and not found
    for run in runs.FIDELITY[:2]:
        results.write(tmp_path / "gpu" / f"{run.name}.json", made_up(random, False))
    plan, found = results.fullest(runs.OF_FIDELITY, runs.FIDELITY, tmp_path)
    assert plan is runs.GPU and len(found) == 2
    said = pages.made(plan, found, runs.FIDELITY)
    assert said.startswith("V2, batch 2 × 4096, 1500 steps; NVIDIA H200, Triton ") and "; 2 of 12 runs; " in said
    assert said.endswith(pages.TF32)
    [short] = results.of_plan(runs.SHORT, make_questions_figures.SHORT[:1]).values()
    said = pages.made(runs.SHORT, {"step-losses-1": short}, make_questions_figures.SHORT[:1])
    assert f"{short['conditions']['processor']}, " in said and "thread" in said and "TF32" not in said


def test_a_figure_without_matplotlib_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    for script in (make_fidelity_figure, make_questions_figures):
        monkeypatch.setattr("sys.argv", [script.__name__])
        assert script.main() == 1
        assert capsys.readouterr().err.startswith("drawing needs matplotlib: pip install 'hifigan-fast[studies]'")

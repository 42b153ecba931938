"""hifigan-fast bench, part by part: ways, training steps, floors, how time grows, the gate."""

import functools
import itertools
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
import tqdm

import hifigan_fast as hf
from hifigan_fast import parity, reference
from hifigan_fast.bench import cases, command, gate, machine, memory, report, scaling, timing, workloads
from hifigan_fast.bench.steps import (
    BY_ONE_LOSS,
    DISCRIMINATOR,
    FORWARD,
    FROZEN_STEPS,
    GENERATOR,
    ORIGINAL,
    OURS,
    STEPS,
    WAYS,
    FastLosses,
)
from hifigan_fast.bench.workloads import build
from hifigan_fast.cli import main
from hifigan_fast.discriminators import stack_of
from hifigan_fast.foreign.forward import FusedForward
from hifigan_fast.foreign.report import Entry, Report

CPU = torch.device("cpu")


def test_all_ways_do_the_same_training_step(tiny, monkeypatch):
    """After two steps from equal parameters the generators' are equal; the original's loop alone leaves gradients of
    the generator's half in the discriminators."""
    from hifigan_fast.bench import training

    made, step = [], training.Trainer.train_step
    monkeypatch.setattr(training.Trainer, "train_step", lambda self, y: made.append(self) or step(self, y))
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))  # seconds else
    ways = {name: way for name, way in WAYS.items() if way.trains and way.dtype == "float32" and not way.needs_cuda}
    assert list(ways) == [ORIGINAL, "frozen", "channels_last", "compile", OURS]
    waves = parity.waveforms(2, tiny.segment_size)
    for case in training.cases(waves, list(STEPS.values())[:4], ways):
        assert (case.ensemble, case.step, list(case.calls)) == ("both", "training step V1", list(ways))
        for call in case.calls.values():
            call()
            call()
        halves = cases.forward_work([reference.MultiPeriodDiscriminator(), reference.MultiScaleDiscriminator()], *waves)
        assert case.work.flops > 4.5 * halves.flops and case.work.elements > 4.5 * halves.elements
    assert not case.calls  # nothing keeps three networks for the next case
    trainers = dict(zip(ways, made[::2]))
    for trainer in trainers.values():
        for mine, theirs in zip(trainer.generator.parameters(), trainers[ORIGINAL].generator.parameters()):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    grads = {name: torch.cat([p.grad.flatten() for p in t.mpd.parameters()]) for name, t in trainers.items()}
    same = {name: torch.allclose(grad, grads["frozen"], rtol=1e-2, atol=1e-4) for name, grad in grads.items()}
    assert same == {ORIGINAL: False, "frozen": True, "channels_last": True, "compile": True, OURS: True}
    assert compiled == ["MultiPeriodDiscriminator", "MultiScaleDiscriminator"]
    hooks = {name: len(t.mpd.discriminators[0].convs[0]._forward_pre_hooks) for name, t in trainers.items()}
    assert {name for name, count in hooks.items() if count > hooks[ORIGINAL]} == {"channels_last"}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("workload", ["hifigan", "vits", "bigvgan"])
def test_all_ways_do_the_same_step(workload):
    """The gradient of the waveform is the same by every way, but for a leaky ReLU's side that turns by rounding."""
    torch.manual_seed(0)
    y, y_hat = parity.waveforms(1, 600)
    ways = {name: way for name, way in WAYS.items() if name != "compile" and not way.needs_cuda}
    modules, grads = workloads.modules_of(workloads.WORKLOADS[workload], ways, CPU), {}
    for name, way in ways.items():
        seen = []
        leaf = y_hat.clone()
        for step in way.steps:
            for ensemble in modules[name].values():
                for module in ensemble:
                    module.eval()  # spectral norm stays where it is
                with _last_waveform(seen):
                    way.call(step, ensemble, y, leaf)()
        grads[name] = torch.cat([t.flatten() for t in seen if t is not None])
    for name, way in ways.items():
        assert len(grads[name]) == len(grads[ORIGINAL]) > 0, name
        error = (grads[name] - grads[ORIGINAL]).norm() / grads[ORIGINAL].norm()
        assert error < (1e-2 if way.dtype == "float32" else 0.3), name


class _last_waveform:
    """Within the block, gradients of detached waveforms that ask for one are collected."""

    def __init__(self, seen):
        self.seen = seen

    def __enter__(self):
        self.kept, made = torch.Tensor.requires_grad_, []
        self.made = made

        def requires_grad_(tensor, needs=True):
            if needs and tensor.dim() == 3 and tensor.shape[1] == 1 and not isinstance(tensor, torch.nn.Parameter):
                made.append(tensor)
            return self.kept(tensor, needs)

        torch.Tensor.requires_grad_ = requires_grad_

    def __exit__(self, *_):
        torch.Tensor.requires_grad_ = self.kept
        self.seen.extend(tensor.grad for tensor in self.made)


def test_networks_that_do_not_fit_are_their_ways_error(tiny, monkeypatch):
    from hifigan_fast.bench import training

    def made(config, way, y):
        if way.ours:
            raise MemoryError("no room")
        return lambda: None

    monkeypatch.setattr(training, "Step", made)
    ways = {name: WAYS[name] for name in (ORIGINAL, OURS)}
    (case,) = itertools.islice(training.cases(parity.waveforms(1, 1024), ["training step V1"], ways), 1)
    ceilings = {"gflops": {"float32": 100.0}, "gbytes": 50.0}
    original, ours = timing._measured(case, 1, tqdm.tqdm(disable=True), ceilings, CPU)
    assert original["ms"] >= 0 and ours["error"] == "MemoryError: no room"


def test_training_steps_are_hifigans(capsys):

    assert main(["bench", "--workload", "vits", "--steps", "v1"]) == 2
    assert "steps: v1 is a training of HiFi-GAN's, expected --workload hifigan" in capsys.readouterr().err
    plan = command._plan("vits", None, None, None, None, None, True, "cpu")
    assert plan.steps == [FORWARD, DISCRIMINATOR, GENERATOR]


@pytest.mark.parametrize("step", [DISCRIMINATOR, GENERATOR])
def test_a_step_by_one_loss_is_the_same_step(step):
    module, grads = hf.MultiPeriodDiscriminator((2,)), []
    y, y_hat = parity.waveforms(1, 300)
    for steps in (FROZEN_STEPS, BY_ONE_LOSS):
        module.zero_grad()
        steps[step]([module], y, y_hat, FastLosses)
        grads.append([p.grad for p in module.parameters() if p.grad is not None])
    assert len(grads[0]) == (0 if step == GENERATOR else 18)
    for apart, ours in zip(*grads, strict=True):
        torch.testing.assert_close(ours, apart, rtol=1e-4, atol=1e-7)


def test_floors_are_of_the_layers_own_work():
    modules = [module.eval() for module in build(["mpd", "msd"], plain=True)]
    y = torch.zeros(1, 1, 4096, dtype=torch.float32, device="cpu")
    flops, elements = 0, sum(p.numel() for module in modules for p in module.parameters())
    for module, lengths in zip(modules, ((4096,) * 5, (4096, 2049, 1025))):
        for discriminator, length in zip(module.discriminators, lengths):
            stack = stack_of(discriminator)
            rows = stack.rows(length)[1:]
            flops += 2 * stack.period * sum(layer.flops(n) for layer, n in zip(stack.layers, rows))
            elements += 2 * stack.period * sum(layer.out_channels * n for layer, n in zip(stack.layers, rows))
    work = cases.forward_work(modules, y, y)
    assert work == (flops, elements)
    assert cases.Work(3e9, 1e6).floor_ms(gflops=1000, gbytes=100, itemsize=4) == pytest.approx(3.0)
    assert cases.Work(3e9, 1e9).floor_ms(gflops=1000, gbytes=100, itemsize=2) == pytest.approx(20.0)


def test_a_row_says_its_fraction_of_its_arithmetics_floor():
    calls = {name: lambda: None for name in (ORIGINAL, "bf16", OURS)}
    case = cases.Case("both", DISCRIMINATOR, cases.Work(1e9, 1), calls, {})
    ceilings = {"gflops": {"float32": 100.0, "bfloat16": 200.0}, "gbytes": 50.0}
    rows = {row["way"]: row for row in timing._measured(case, 1, tqdm.tqdm(disable=True), ceilings, CPU)}
    assert [rows[way]["floor_ms"] for way in calls] == [10.0, 5.0, 10.0]
    assert all(row["of_floor"] == row["floor_ms"] / row["ms"] for row in rows.values())
    told = report.table([rows[OURS] | {"of_floor": 0.47, "peak_mib": 1336.2}])
    assert "peak MiB" in told and "peak MiB" not in report.table([rows[OURS]])  # no column that no row fills
    assert "47%" in told and "1336" in told
    without = list(timing._measured(case, 1, tqdm.tqdm(disable=True), {"gflops": {}, "gbytes": 50.0}, CPU))
    assert all(row["of_floor"] is None for row in without)
    moved = case._replace(work=cases.Work(1, 1e8))  # bytes are the floor: half as many in bfloat16
    rows = timing._measured(moved, 1, tqdm.tqdm(disable=True), ceilings, CPU)
    assert [row["floor_ms"] for row in rows] == [8.0, 4.0, 8.0]


def grown(monkeypatch, power, values, budget, fails=(), room=True, grows=True):
    """The curve of calls that take value**power seconds, ours a tenth of it."""

    def made(value):
        def fail():
            raise MemoryError

        return dict.fromkeys((ORIGINAL, OURS), fail) if value in fails else {ORIGINAL: value, OURS: value}

    def interleaved(calls, repeats, device):
        for call in calls.values():
            call()
        found = {name: value_of[name] for name in calls}
        return {name: (repeats + 1) * [v**power / (10 if name == OURS else 1)] for name, v in found.items()}

    value_of = {}

    def guarded(calls):
        value_of.update({name: call for name, call in calls.items() if not callable(call)})
        return timing.guarded({name: call if callable(call) else lambda: None for name, call in calls.items()})

    monkeypatch.setattr(scaling, "interleaved", interleaved)
    monkeypatch.setattr(scaling, "guarded", guarded)
    monkeypatch.setattr(memory, "room_for", lambda times, held: room)
    curve = {"over": "batch", "ensemble": "both", "ways": {}, "left_out": []}
    scaling.trace(scaling.Axis("batch", values, "both", made, grows), budget, CPU, curve)
    return curve


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_how_time_grows(monkeypatch, power):
    curve = grown(monkeypatch, power, [1, 2, 4, 8], budget=1e9)
    assert curve["left_out"] == [] and curve["ways"][OURS]["at"] == [1, 2, 4, 8]
    assert all(of["exponent"] == pytest.approx(power) for of in curve["ways"].values())
    assert curve["ways"][OURS]["ms"][0] == pytest.approx(100)
    said = report.growth(curve)
    assert said.startswith("both, batch 1 to 8: ") and f"{ORIGINAL} as batch^{power:.2f}, 1000 to " in said


def test_points_that_take_too_long_or_fail_are_left_out(monkeypatch):
    found = grown(monkeypatch, 1.0, [1, 2, 4, 8, 16], budget=13.3)  # 3 times 1.1 seconds a unit, foreseen in proportion
    assert found["ways"][ORIGINAL]["at"] == [1, 2, 4] and found["left_out"] == [8, 16]
    found = grown(monkeypatch, 1.0, [1, 2, 4], budget=1e9, fails=[2])
    assert found["ways"][ORIGINAL]["at"] == [1] and found["left_out"] == [2, 4]
    assert found["ways"][ORIGINAL]["exponent"] is None and "left out: 2, 4" in report.growth(found)
    assert grown(monkeypatch, 1.0, [1, 2, 4], budget=1e9, room=False)["left_out"] == [2, 4]


def test_more_threads_are_foreseen_to_take_less(monkeypatch):
    """One thread takes longer than the budget, and two would: the others are measured all the same."""
    found = grown(monkeypatch, -1.0, [1, 2, 4, 8], budget=1.0, grows=False)  # 3.3 seconds, 1.65, 0.825, 0.4125
    assert found["ways"][OURS]["at"] == [1, 4, 8] and found["left_out"] == [2]
    assert found["ways"][OURS]["exponent"] == pytest.approx(-1)
    found = grown(monkeypatch, -1.0, [1, 2, 4], budget=1.0, grows=False, fails=[4])
    assert found["ways"][OURS]["at"] == [1] and found["left_out"] == [2, 4] and found["ways"][OURS]["exponent"] is None


def test_waveforms_that_do_not_fit_are_left_out():
    def made(value):
        if value == 2:
            raise RuntimeError("CUDA out of memory")
        return dict.fromkeys((ORIGINAL, OURS), lambda: None)

    curve = {"over": "batch", "ensemble": "both", "ways": {}, "left_out": []}
    scaling.trace(scaling.Axis("batch", [1, 2, 4], "both", made), 1e9, CPU, curve)
    assert curve["left_out"] == [2, 4] and curve["ways"][OURS]["at"] == [1]


@pytest.mark.usefixtures("narrow")
def test_each_axis_is_measured(monkeypatch):
    """Real steps, few channels; the largest values are left out by the budget, Ctrl-C keeps what is there."""
    plan = command._plan("bigvgan", 1, 300, None, None, None, False, "cpu")
    monkeypatch.setattr(scaling, "_threads", lambda: [1, 2])
    set_to, curves, shown = [], [], []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)  # two would wait for each other where cores are busy
    axes = list(scaling.axes(plan))
    assert [axis.values[0] for axis in axes] == [1, 2048, 1, 1]
    few = [axis._replace(values=[300, 600] if axis.name == "segment" else axis.values[:2]) for axis in axes]
    monkeypatch.setattr(scaling, "REPEATS", 1)
    monkeypatch.setattr(scaling, "axes", lambda plan: few)
    scaling.measure(plan, 1e9, SimpleNamespace(set_description=shown.append, update=lambda n: None), curves)
    assert [curve["over"] for curve in curves] == ["batch", "segment", "periods", "threads"]
    assert all(len(of["ms"]) == 2 and min(of["ms"]) > 0 for curve in curves for of in curve["ways"].values())
    assert set_to == [1, 2, torch.get_num_threads()]

    def interrupted(value):
        raise KeyboardInterrupt

    few[1:] = [few[1]._replace(calls=interrupted)]
    curves.clear()
    with pytest.raises(KeyboardInterrupt):
        scaling.measure(plan, 1e9, SimpleNamespace(set_description=shown.append, update=lambda n: None), curves)
    assert len(curves[0]["ways"][OURS]["at"]) == 2 and curves[1]["ways"] == {}


class Accelerated(workloads.AcceleratedSet):
    """Whose scores are `factor` times what they were."""

    factor = 1.0

    def __init__(self, periods):
        super().__init__(periods)
        fused = self.forward
        assert isinstance(fused, FusedForward)

        def forward(y, y_hat):
            real, *others = fused(y, y_hat)
            return [self.factor * score for score in real], *others

        self.forward = forward


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_workloads_own_modules_are_judged(monkeypatch, factor):
    """Accelerated, as they are measured: a wrong one is red."""
    monkeypatch.setattr(workloads, "VITS_SCALE", ((1, 8, 15, 1, 7, 1), (8, 16, 41, 4, 20, 4)))
    monkeypatch.setattr(Accelerated, "factor", factor)
    ours, plain = (functools.partial(kind, (2,)) for kind in (Accelerated, workloads.OneSet))
    workload, bar = (
        workloads.WORKLOADS["vits"]._replace(judged={"vits": (ours, plain)}),
        tqdm.tqdm(disable=True, total=0),
    )
    verdicts, passed = gate.judge(workload, {OURS: WAYS[OURS]}, False, bar, CPU, False, length=300)
    assert list(verdicts["float32"]) == ["vits"] and passed is (factor == 1) and not workloads.left([ours()])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "entries, said",
    [
        ((Entry("a", "A", "accelerated", "so"), Entry("b", "B", "left as it is", "a GELU")), "left b: a GELU"),
        ((), "no discriminator of waveforms found"),
    ],
)
def test_what_accelerate_refuses_is_no_row_of_ours(monkeypatch, entries, said):
    """Also where it refuses a part; nor are there curves of it."""
    monkeypatch.setattr(workloads, "VITS_SCALE", ((1, 8, 15, 1, 7, 1), (8, 16, 41, 4, 20, 4)))
    monkeypatch.setattr(workloads, "accelerate", lambda module: Report(entries))
    monkeypatch.setattr(scaling, "measure", lambda *_: pytest.fail("was scaled"))
    plan = command._plan("vits", 1, 300, ["discriminator"], 1, None, False, "cpu")
    result, written = {"speed": [], "scaling": [], "ceilings": {"gflops": {}, "gbytes": 1.0}}, []
    with tqdm.tqdm(disable=True) as bar:
        monkeypatch.setattr(bar, "write", written.append)
        command._measure(plan, parity.waveforms(1, 300), bar, result, 1e9, lambda: None)
    errors = {row["way"]: row.get("error") for row in result["speed"]}
    assert errors == {ORIGINAL: None, OURS: f"accelerate: {said}"}
    assert written == [f"no curves of how time grows: accelerate: {said}"]


def test_every_workload_names_what_is_judged():
    assert {name: tuple(of.judged) for name, of in workloads.WORKLOADS.items()} == {
        **{"hifigan": ("mpd", "msd"), "vits": ("vits",), "rvc": ("rvc",), "bigvgan": ("mpd",)}
    }


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_the_packages(monkeypatch, tmp_path):
    """Not that of a repository that it is installed into; "-dirty" where it is not what was committed."""
    module = tmp_path / "machine.py"
    module.write_text("1")
    monkeypatch.setattr(machine, "__file__", str(module))
    assert machine._commit() is None
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "a user's")
    assert machine._commit() is None  # untracked, as in an environment's site-packages
    git(tmp_path, "add", "machine.py")
    git(tmp_path, "commit", "-m", "the package's")
    assert re.fullmatch("[0-9a-f]{7,}", machine._commit())
    module.write_text("2")
    assert re.fullmatch("[0-9a-f]{7,}-dirty", machine._commit())


def test_conditions_say_what_else_the_machine_does(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 0.5, 0.25), raising=False)
    assert machine.conditions(3)["load"] == [1.23, 0.5, 0.25]

    def none():
        raise OSError

    monkeypatch.setattr(os, "getloadavg", none, raising=False)
    assert machine.conditions(3)["load"] is None


def test_json_has_no_infinity():
    verdicts = {"maps": (float("inf"), "real 0"), "logits": (1.0, "real 0")}
    assert gate._finite(verdicts) == {"maps": (None, "real 0"), "logits": (1.0, "real 0")}

"""hifigan-fast bench, part by part: training steps, floors, memory, scaling, CUDA's ways by stand-ins, the model."""

import contextlib
import functools
import itertools
import json
import math
import mmap
import os
from types import SimpleNamespace

import pytest
import torch
import tqdm

import hifigan_fast as hf
from hifigan_fast import parity, reference
from hifigan_fast.bench import (
    cases,
    command,
    datasheets,
    gate,
    graphs,
    machine,
    memory,
    model,
    page,
    report,
    scaling,
    timing,
)
from hifigan_fast.bench.steps import (
    BY_ONE_LOSS,
    DISCRIMINATOR,
    FORWARD,
    FROZEN_STEPS,
    GENERATOR,
    ORIGINAL,
    OURS,
    RIVALS,
    STEPS,
    WAYS,
    FastLosses,
    Way,
    asked_ways,
)
from hifigan_fast.bench.workloads import build
from hifigan_fast.discriminators import stack_of
from hifigan_fast.training import config as configuration

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch, narrow, tmp_path):
    """V1 is a small network; its configuration."""
    pytest.importorskip("librosa")
    from .training.tiny import CONFIG

    built_in = json.loads(configuration.BUILT_IN["v1"].read_text())
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(built_in | CONFIG))
    monkeypatch.setitem(configuration.BUILT_IN, "v1", path)
    return configuration.load_config("v1")


def test_all_ways_do_the_same_training_step(tiny, monkeypatch):
    """After two steps from equal parameters the generators' are equal; the original's loop alone leaves gradients of
    the generator's half in the discriminators."""
    from hifigan_fast.bench import training

    made, step = [], training.Trainer.train_step
    monkeypatch.setattr(training.Trainer, "train_step", lambda self, y: made.append(self) or step(self, y))
    ways = {name: way for name, way in WAYS.items() if way.trains and way.dtype == "float32" and not way.needs_cuda}
    assert list(ways) == [ORIGINAL, "frozen", OURS]
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
    assert same == {ORIGINAL: False, "frozen": True, OURS: True}


def test_networks_that_do_not_fit_are_their_ways_error(tiny, monkeypatch):
    from hifigan_fast.bench import training

    def ready(config, way, y):
        if way.ours:
            raise MemoryError("no room")
        return lambda: None

    monkeypatch.setattr(training, "ready", ready)
    ways = {name: WAYS[name] for name in (ORIGINAL, OURS)}
    (case,) = itertools.islice(training.cases(parity.waveforms(1, 1024), ["training step V1"], ways), 1)
    ceilings = {"gflops": {"float32": 100.0}, "gbytes": 50.0}
    original, ours = timing._measured(case, 1, tqdm.tqdm(disable=True), ceilings, CPU)
    assert original["ms"] >= 0 and ours["error"] == "MemoryError: no room"


def test_the_default_is_by_the_machine(monkeypatch):
    """And says so."""
    here = command._plan("hifigan", None, None, None, None, None, False, "cpu")
    assert (here.batch, here.repeats, here.steps) == (4, 3, [DISCRIMINATOR, GENERATOR])
    assert "batch 4 × 8192, threads: " in str(here) and "it trains with batch 16" in str(here)
    monkeypatch.setattr("hifigan_fast.training.processes.pick_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    there = command._plan("hifigan", None, None, None, None, None, False, None)
    assert (there.batch, there.repeats, there.steps) == (16, 20, list(STEPS.values()))
    assert "on A GPU, batch 16 × 8192, interleaved repeats: 20" in str(there) and "graph" in there.ways
    assert report.begun(there, {}, {})["device"] == "A GPU"


def test_training_steps_are_hifigans(capsys):
    from hifigan_fast.cli import main

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
    case = cases.Case("both", DISCRIMINATOR, cases.Work(1e9, 1), calls)
    ceilings = {"gflops": {"float32": 100.0, "bfloat16": 200.0}, "gbytes": 50.0}
    rows = {row["way"]: row for row in timing._measured(case, 1, tqdm.tqdm(disable=True), ceilings, CPU)}
    assert [rows[way]["floor_ms"] for way in calls] == [10.0, 5.0, 10.0]
    assert all(row["of_floor"] == row["floor_ms"] / row["ms"] for row in rows.values())
    told = report.table([rows[OURS] | {"of_floor": 0.47, "peak_mib": 1336.2}])
    assert "47%" in told and "1336" in told
    without = timing._measured(case, 1, tqdm.tqdm(disable=True), {"gflops": {}, "gbytes": 50.0}, CPU)
    assert all(row["of_floor"] is None for row in without)
    moved = case._replace(work=cases.Work(1, 1e8))  # bytes are the floor: half as many in bfloat16
    rows = timing._measured(moved, 1, tqdm.tqdm(disable=True), ceilings, CPU)
    assert [row["floor_ms"] for row in rows] == [8.0, 4.0, 8.0]


linux = pytest.mark.skipif(not memory.CLEAR.exists(), reason="Linux's account of memory")


@linux
def test_memory_is_what_is_held_above_what_was_there():
    def touch(mebibytes):
        pages = mebibytes * 2**20 // mmap.PAGESIZE
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as fresh:  # an allocator might have such memory
            fresh[:: mmap.PAGESIZE] = pages * b"1"

    before = memory.resident_mib()
    for mebibytes in (128, 32):  # the peak of the first is not the second's
        assert memory._peak(functools.partial(touch, mebibytes), before) == pytest.approx(mebibytes, abs=4)


@linux
def test_rows_are_given_their_memory(monkeypatch):
    asked = []

    def fresh(function, workload, way, steps, *shape):
        asked.append((function.__name__, way, steps))
        if way == "frozen":
            raise RuntimeError("A process in the process pool was terminated abruptly")
        return {step: 100.0 for step in steps}

    monkeypatch.setattr(memory, "in_fresh_process", fresh)
    where = itertools.product(("mpd", "both"), (ORIGINAL, "frozen"), (DISCRIMINATOR, GENERATOR, "training step V1"))
    rows = [{"ensemble": ensemble, "step": step, "way": way, "ms": 1.0} for ensemble, way, step in where]
    rows.append({"ensemble": "both", "step": DISCRIMINATOR, "way": "compile", "error": "no"})
    memory.measure(rows, "hifigan", 1, 1024, tqdm.tqdm(disable=True))
    assert asked == [
        *(("halves", ORIGINAL, [DISCRIMINATOR, GENERATOR]), ("training", ORIGINAL, ["training step V1"])),
        *(("halves", "frozen", [DISCRIMINATOR, GENERATOR]), ("training", "frozen", ["training step V1"])),
    ]
    found = {(row["ensemble"], row["way"]): row.get("peak_mib", "no") for row in rows}
    assert found == {("mpd", ORIGINAL): "no", ("mpd", "frozen"): "no", ("both", ORIGINAL): 100.0} | {
        ("both", "frozen"): None,
        ("both", "compile"): "no",
    }


def ends(code):
    os._exit(code)


def test_a_process_that_dies_is_told():
    assert memory.in_fresh_process(math.hypot, 3, 4) == 5
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        memory.in_fresh_process(ends, 9)


def grown(monkeypatch, power, values, budget, fails=(), room=True):
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
    monkeypatch.setattr(memory, "room_for", lambda times: times == 0 or room)
    curve = {"over": "batch", "ensemble": "both", "ways": {}, "left_out": []}
    scaling.trace(scaling.Axis("batch", values, "both", made), budget, CPU, curve)
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


@linux
def test_room_is_of_the_machines_memory():
    memory.begin_peak()
    assert memory.room_for(1) and not memory.room_for(1e6)


@pytest.mark.usefixtures("narrow")
def test_each_axis_is_measured(monkeypatch):
    """Real steps, few channels; the largest values are left out by the budget, Ctrl-C keeps what is there."""
    plan = command._plan("hifigan", 1, 300, None, None, None, False, "cpu")
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


def test_cudas_ways_are_measured_where_it_is():
    quick = asked_ways(None, False, "cuda")
    assert {"no_tf32", "no_benchmark", "graph", "bf16_graph", f"{OURS} no_tf32", f"{OURS} graph"} <= set(quick)
    assert "compile" not in quick and "compile" in asked_ways(None, True, "cuda")
    assert not any(way.needs_cuda for way in asked_ways(None, True, "cpu").values())
    assert list(asked_ways(["no_tf32"], False, "cuda")) == [ORIGINAL, "no_tf32", OURS, f"{OURS} no_tf32"]
    with pytest.raises(ValueError, match="rivals: expected of original, .*bf16 on this device, got graph"):
        asked_ways(["graph"], False, "cpu")
    assert set(asked_ways(RIVALS, True, "cuda")) == set(WAYS)


def test_each_of_ours_has_a_rival_in_its_arithmetic():
    """TF32 is held against TF32, float32 against float32, bfloat16 against bfloat16."""
    times = {name: [9.0, 1.0 + index, 1.0 + index] for index, name in enumerate(WAYS)}
    rows = {row["way"]: row for row in timing.rows_of(times, {}, "cuda")}
    assert {row["dtype"] for row in rows.values()} == {"tf32", "float32", "bfloat16"}
    for name, row in rows.items():
        if WAYS[name].ours:
            assert rows[row["best_rival"]]["dtype"] == row["dtype"]
    assert rows[f"{OURS} no_tf32"]["best_rival"] == "no_tf32"
    assert {row["dtype"] for row in timing.rows_of(times, {}, "cpu")} == {"float32", "bfloat16"}


@pytest.mark.parametrize("way", [Way(), Way(tf32=False), Way(benchmark=False), Way(dtype="bfloat16")])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_ways_flags_are_set_while_it_runs(way):
    """cuDNN's flags can be seen without a device."""

    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark

    seen, before = [], flags()
    way.under_flags(lambda: seen.append(flags()), torch.device("cuda"), [])()
    way.under_flags(lambda: seen.append(flags()), CPU, [])()
    assert seen == [(way.tf32, way.benchmark), before] and flags() == before


@pytest.fixture
def streams(monkeypatch):
    """CUDA's streams and graphs by stand-ins: what was captured on which stream, and how often it was replayed."""
    seen = SimpleNamespace(current="main", captures=0, replays=0)

    @contextlib.contextmanager
    def on(stream):
        seen.current, before = stream, seen.current
        yield
        seen.current = before

    class Stream(SimpleNamespace):
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            seen.replays += 1

    main = Stream()
    seen.main = seen.current = main
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: seen.current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(seen, "current", stream))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: on("capture"))
    return seen


def test_a_graph_is_captured_once_and_replayed(streams):
    (module,) = build(["mpd"], plain=True)
    conv = module.discriminators[0].convs[0]
    module(*(torch.zeros(1, 1, 200, dtype=torch.float32, device="cpu") for _ in range(2)))
    assert conv.weight.grad_fn is not None
    ran = []
    step = graphs.captured(lambda: ran.append(streams.current), [module])
    assert not ran
    for _ in range(3):
        step()
    assert len(ran) == graphs.WARM_UP + 1 and ran[-1] == "capture"
    assert all(stream is not streams.main for stream in ran)
    assert streams.replays == 3 and conv.weight.grad_fn is None


def test_a_graph_that_fails_leaves_the_stream(streams):
    def fails():
        if streams.current == "capture":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.captured(fails, [])()
    assert streams.current is streams.main and streams.replays == 0


def test_the_models_figures_follow_the_datasheet(tiny):
    sheet = datasheets.DEVICES["H200"]
    found = model.seconds_per_step(tiny, sheet, "bfloat16")
    assert 0 < found[OURS] < found["frozen"] < found[ORIGINAL]
    with model.META:
        modules = [reference.MultiPeriodDiscriminator(), reference.MultiScaleDiscriminator()]
        waves = [
            torch.empty(tiny.batch_size, 1, tiny.segment_size, dtype=torch.float32, device="meta") for _ in range(2)
        ]
    fused = 0
    for step in (DISCRIMINATOR, GENERATOR):  # all but convolutions is done where they store
        with model.Bounds(sheet, "bfloat16") as bounds:
            FROZEN_STEPS[step](modules, *waves, reference)
        fused += bounds.all - bounds.convolutions
    assert found["frozen"] - found[OURS] == pytest.approx(fused)
    half = datasheets.Device("sm_90", 132, sheet.half / 2, sheet.tf32 / 2, sheet.float32 / 2, sheet.bandwidth / 2)
    for way, seconds in model.seconds_per_step(tiny, half, "bfloat16").items():
        assert seconds == pytest.approx(2 * found[way])


def test_the_models_convolutions_are_those_of_the_work():
    """Without a bandwidth to bound it, the arithmetic of a discriminator step is that of its floor."""
    modules = [reference.MultiPeriodDiscriminator((2, 3))]
    y = torch.zeros(1, 1, 600, dtype=torch.float32, device="cpu")
    endless = datasheets.Device("sm_90", 1, 1, 1, 1, 1e12)
    with model.Bounds(endless, "float32") as bounds:
        FROZEN_STEPS[DISCRIMINATOR](modules, y, y, reference)
    work = cases.forward_work(modules, y, y)
    assert bounds.convolutions == pytest.approx(3 * work.flops / 1e12, rel=0.01)  # but for the stems' input gradients


def test_estimate_by_a_model(tiny, capsys):
    from hifigan_fast.cli import main

    assert main(["estimate", "--device-model", "h200", "--precision", "bf16", "--steps", "3600000"]) == 0
    out = capsys.readouterr().out
    assert "a model of training steps on H200" in out and "nothing was timed" in out and "not measured" in out
    assert main(["estimate", "--device-model", "t4", "--precision", "bf16"]) == 2
    assert "precision: expected fp32 on a device of sm_75, which has no bfloat16" in capsys.readouterr().err
    with pytest.raises(ValueError, match="device_model: expected one of t4, a100, 4090.*got 'v100'"):
        datasheets.named("v100")


def test_ceilings_of_a_gpu_are_of_each_arithmetic(monkeypatch):
    seen = []

    def products(dtype, device):
        seen.append((dtype, torch.backends.cuda.matmul.allow_tf32))
        return float(len(seen))

    before = torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(machine, "_products", products)
    monkeypatch.setattr(machine, "_copied", lambda device: 9.0)
    found = machine.ceilings(torch.device("cuda"))
    assert found == {"gflops": {"bfloat16": 1.0, "tf32": 2.0, "float32": 3.0}, "gbytes": 9.0}
    assert seen[1:] == [(torch.float32, True), (torch.float32, False)]
    assert torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.parametrize("red, passes", [(None, True), ("tf32", True), ("float32", False), ("bfloat16", False)])
def test_each_arithmetic_is_judged_but_tf32_only_told(monkeypatch, red, passes):
    """TF32 by the same flag as the ways that are measured in it."""

    def found(write, verbose, after, autocast, backends, device):
        arithmetic = "bfloat16" if autocast else "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
        ratio = 2 * parity.LIMIT if arithmetic == red else 1.0
        verdicts = {"mpd": {name: parity.Verdict({"maps": (ratio, "real 0")}) for name in backends}}
        return verdicts, arithmetic != red

    monkeypatch.setattr(gate, "gate", found)
    monkeypatch.setattr(gate, "measured_backend", lambda device, autocast: "triton")
    ways = asked_ways(None, False, "cuda")
    verdicts, passed = gate.judge(ways, False, tqdm.tqdm(total=0, disable=True), torch.device("cuda"), False)
    assert passed is passes and list(verdicts) == ["tf32", "bfloat16", "float32"]
    assert all(list(of["mpd"]) == ["triton"] for of in verdicts.values())


@pytest.mark.usefixtures("narrow")
def test_cudas_ways_by_a_cpu_in_its_place():
    """Each way's steps run, without what only a device has, and are told."""
    plan = command._plan("bigvgan", 1, 1024, None, 1, None, False, "cpu")
    plan = plan._replace(ways=asked_ways(None, False, "cuda"))
    result = report.begun(plan, {}, {"gflops": {"float32": 100.0, "bfloat16": 200.0}, "gbytes": 50.0})
    command._measure(plan, parity.waveforms(1, 1024), tqdm.tqdm(disable=True), result, None)
    assert not [row for row in result["speed"] if "error" in row]
    told = {(row["step"], row["way"]) for row in result["speed"] if row["of_floor"]}
    assert told == {(step, name) for step in plan.steps for name, way in plan.ways.items() if way.does(step)}
    assert "bf16_graph" in page.page(json.loads(json.dumps(result)), "hifigan-fast bench")

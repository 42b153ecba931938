"""hifigan-fast bench on a CUDA device, by stand-ins: its ways, flags, graphs, ceilings and gate."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
import tqdm
from torch.utils.flop_counter import FlopCounterMode

from hifigan_fast import dispatch, parity, trust
from hifigan_fast.bench import cases, command, gate, graphs, machine, page, report, timing
from hifigan_fast.bench.cases import Case, Work
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS, RIVALS, STEPS, WAYS, Way, asked_ways
from hifigan_fast.bench.workloads import WORKLOADS, build

CPU = torch.device("cpu")


def test_the_default_is_by_the_machine(monkeypatch):
    """And says so."""
    here = command._plan("hifigan", None, None, None, None, None, False, "cpu")
    assert (here.batch, here.repeats, here.steps) == (4, 3, [DISCRIMINATOR, GENERATOR])
    assert "batch 4 × 8192 (trained with 16), threads: " in str(here)
    monkeypatch.setattr("hifigan_fast.training.processes.pick_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    there = command._plan("hifigan", None, None, None, None, None, False, None)
    assert (there.batch, there.repeats, there.steps) == (16, 20, list(STEPS.values()))
    assert "on A GPU, batch 16 × 8192, interleaved repeats: 20" in str(there) and "graph" in there.ways
    assert report.begun(there, "clips")["device"] == "A GPU"


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
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: seen.current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(seen, "current", stream))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    @contextlib.contextmanager
    def capturing(graph, stream):
        seen.captures += 1
        with on(stream):
            yield

    monkeypatch.setattr(torch.cuda, "graph", capturing)
    return seen


@pytest.mark.parametrize("ensemble", ["mpd", "msd"])
def test_a_graph_is_captured_once_and_replayed(ensemble, streams):
    (module,) = build([ensemble], plain=True)
    conv = module.discriminators[0].convs[0]
    module(*(torch.zeros(1, 1, 200, dtype=torch.float32, device="cpu") for _ in range(2)))
    assert conv.weight.grad_fn is not None
    ran = []
    step = graphs.captured(lambda: ran.append((streams.current, streams.captures)), [module])
    assert not ran
    for _ in range(3):
        step()
    assert [captures for _, captures in ran] == [0] * graphs.WARM_UP + [1]
    (stream,) = {id(stream) for stream, _ in ran}  # what the last warm-up leaves is tied to its stream
    assert stream != id(streams.main)
    assert streams.replays == 3 and conv.weight.grad_fn is None


def test_a_graph_that_fails_leaves_the_stream(streams):
    def fails():
        if streams.captures:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.captured(fails, [])()
    assert streams.current is streams.main and streams.replays == 0


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


def test_ceilings_are_in_their_units(monkeypatch):
    """A multiply-add is two operations, a copy reads and writes; what counts is the quickest of the repeats."""
    counted = []

    def interleaved(calls, repeats, device):
        ((name, call),) = calls.items()
        with FlopCounterMode(display=False) as flops:
            result = call()
        counted.append(flops.get_total_flops() if name == "product" else 2 * result.numel() * result.itemsize)
        return {name: [9.0, 0.5, 0.25, 4.0]}

    monkeypatch.setattr(machine, "interleaved", interleaved)
    monkeypatch.setitem(machine.SIDE, "cpu", 10)
    monkeypatch.setitem(machine.COPIED, "cpu", 1000)
    found = machine._products(torch.float32, CPU), machine._products(torch.bfloat16, CPU), machine._copied(CPU)
    assert counted == [2000, 2000, 8000] and found == pytest.approx([8e-6, 8e-6, 32e-6])


@pytest.mark.parametrize("red, passes", [(None, True), ("tf32", True), ("float32", False), ("bfloat16", False)])
def test_each_arithmetic_is_judged_and_what_fails_in_tf32_is_not_timed(monkeypatch, red, passes):
    """TF32 by the same flag as the ways that are measured in it."""

    def found(write, verbose, after, ensembles, autocast, backends, device):
        arithmetic = "bfloat16" if autocast else "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
        ratio = 2 * parity.LIMIT if arithmetic == red else 1.0
        verdicts = {"mpd": {name: parity.Verdict({"maps": (ratio, "real 0")}) for name in backends}}
        return verdicts, arithmetic != red

    monkeypatch.setattr(gate, "gate", found)
    monkeypatch.setattr(gate, "measured_backend", lambda device, arithmetic: "triton")
    ways = asked_ways(None, False, "cuda")
    bar, device = tqdm.tqdm(total=0, disable=True), torch.device("cuda")
    verdicts, passed = gate.judge(WORKLOADS["hifigan"], ways, False, bar, device, False)
    assert passed is passes and list(verdicts) == ["tf32", "bfloat16", "float32"]
    assert all(list(of["mpd"]) == ["triton"] for of in verdicts.values())
    refused = gate.refused(verdicts, ways, device)
    assert set(refused) == {name for name, way in ways.items() if way.ours and way.arithmetic("cuda") == red}
    said = f"fails the parity gate in {red} by triton: worst ratio {2 * parity.LIMIT:.2f}, limit {parity.LIMIT}"
    assert set(refused.values()) <= {said}


def test_kernels_that_failed_at_first_contact_are_not_timed(monkeypatch):
    """Plain PyTorch runs in their place, which passes the gate; where it was asked for it is timed."""
    ways, device = asked_ways(None, False, "cuda"), torch.device("cuda")
    found = {name: {"mpd": {"modules": {"maps": (1.0, "real 0")}}} for name in ("tf32", "bfloat16", "float32")}
    monkeypatch.setattr(dispatch, "refusal", lambda backend, device, dtype: None)  # as on a GPU

    def distrust(backend, device, dtype):
        return "failed" if torch.backends.cudnn.allow_tf32 and dtype == torch.float32 else None

    monkeypatch.setattr(trust, "distrust", distrust)
    refused = gate.refused(found, ways, device)
    assert set(refused) == {OURS, f"{OURS} graph"}
    assert "kernels failed their check in tf32, plain PyTorch runs: `hifigan-fast info`" in refused[OURS]
    with dispatch.use_backend("modules"):
        assert gate.refused(found, ways, device) == {}


def test_what_is_refused_is_an_error_and_is_not_run(monkeypatch):
    calls = {ORIGINAL: lambda: None, OURS: lambda: pytest.fail("was run")}
    monkeypatch.setattr(cases, "cases", lambda *_: iter([Case("mpd", DISCRIMINATOR, Work(1.0, 1.0), calls, {})]))
    plan = command._plan("bigvgan", 1, 300, None, None, None, False, "cpu")._replace(
        refused={OURS: "no", "graph": "no"}
    )
    ceilings = {"gflops": {}, "gbytes": 1.0}
    rows = timing.measure(command._cases(plan, []), 1, tqdm.tqdm(disable=True), ceilings, CPU)
    assert {row["way"]: row.get("error") for row in rows} == {ORIGINAL: None, OURS: "no"}


@pytest.mark.usefixtures("narrow")
def test_cudas_ways_by_a_cpu_in_its_place():
    """Each way's steps run, without what only a device has, and are told."""
    plan = command._plan("bigvgan", 1, 1024, None, 1, None, False, "cpu")
    plan = plan._replace(ways=asked_ways(None, False, "cuda"))
    result = report.begun(plan, "synthetic voice")
    result["ceilings"] = {"gflops": {"float32": 100.0, "bfloat16": 200.0}, "gbytes": 50.0}
    command._measure(plan, parity.waveforms(1, 1024), tqdm.tqdm(disable=True), result, None, lambda: None)
    assert not [row for row in result["speed"] if "error" in row]
    told = {(row["step"], row["way"]) for row in result["speed"] if row["of_floor"]}
    assert told == {(step, name) for step in plan.steps for name, way in plan.ways.items() if way.does(step)}
    assert "bf16_graph" in page.page(json.loads(json.dumps(result)), "hifigan-fast bench")


@pytest.fixture
def accounted(monkeypatch):
    """A device's account of memory by a stand-in: what of a module's gradients is there where it begins."""
    (module,), seen = build(["mpd"], plain=True), []

    def allocated(call):
        seen.append(sum(p.grad is not None for p in module.parameters()))
        call()
        return 12.0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timing, "allocated_mib", allocated)
    monkeypatch.setattr(timing, "measured_backend", lambda device, arithmetic: "triton")
    return module, seen


def test_no_memory_is_told_of_a_graph(accounted):
    """Its replay allocates nothing: it holds what its capture took."""
    nothing = {name: lambda: None for name in (ORIGINAL, "graph", OURS)}
    case = Case("mpd", DISCRIMINATOR, Work(1.0, 1.0), nothing, nothing)
    rows = list(timing._measured(case, 1, tqdm.tqdm(disable=True), {"gflops": {}, "gbytes": 1.0}, torch.device("cuda")))
    assert [row["peak_mib"] for row in rows] == [12.0, None, 12.0]
    assert [row["backend"] for row in rows] == [None, None, "triton"]


def test_gradients_count_in_a_steps_memory(accounted, monkeypatch):
    """Those of the timed calls would be in what was there before."""
    module, seen = accounted
    one = WORKLOADS["bigvgan"]._replace(build=lambda plain, device: {"mpd": [module]})
    waves = [torch.zeros(1, 1, 300, dtype=torch.float32, device="cpu") for _ in range(2)]
    monkeypatch.setattr("hifigan_fast.bench.cases.forward_work", lambda *_: Work(1.0, 1.0))
    (case,) = cases.cases(one, waves, [DISCRIMINATOR], {ORIGINAL: WAYS[ORIGINAL]})
    list(timing._measured(case, 1, tqdm.tqdm(disable=True), {"gflops": {}, "gbytes": 1.0}, torch.device("cuda")))
    assert seen == [0] and all(p.grad is not None for p in module.parameters())


def test_optimizers_states_count_in_a_training_steps_memory(tiny):
    from hifigan_fast.bench import training

    step = training.Step(tiny, WAYS[OURS], parity.waveforms(2, tiny.segment_size)[0].squeeze(1))
    step()
    assert all(optimizer.state for optimizer in step.trainer.optimizers)
    step.forget()
    assert not any(optimizer.state for optimizer in step.trainer.optimizers)
    assert all(p.grad is None for net in (step.trainer.mpd, step.trainer.generator) for p in net.parameters())
    step()
    assert all(optimizer.state for optimizer in step.trainer.optimizers)

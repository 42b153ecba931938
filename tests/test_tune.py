"""The choice of configurations, with the clock replaced: in Triton's interpreter, on small operands."""

import json
import math
import time
from dataclasses import replace

import pytest
import torch

from hifigan_fast import cli, dispatch
from hifigan_fast.backends.gpu import compilers
from hifigan_fast.backends.triton import configs
from hifigan_fast.backends.triton.kernels import stretch
from hifigan_fast.geometry import Ensemble, Layer, Stack
from hifigan_fast.tuning import candidates, cases, command, search

BACKEND = dispatch.BACKENDS["triton"]
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    BACKEND.cannot_run(CPU, torch.float32) is not None, reason=str(BACKEND.cannot_run(CPU, torch.float32))
)

SMALL = (
    Layer(1, 16, 5, 3, 2),
    Layer(16, 32, 5, 2, 2, 2),
    Layer(32, 32, 3, 1, 1, 2),
    Layer(32, 1, 3, 1, 1, slope=1.0),
)
BEFORE = configs.Config(64, 16, 16, 4, 2)
SHARED = 227 << 10


class Said(list):
    def __str__(self):
        return "\n".join(self)


def small(periods=(2, 3), length=100):
    stacks = tuple(Stack(SMALL, period, True) for period in periods)
    yield Ensemble(stacks, (0,) * len(stacks), (length,), 1, 2, tuple((i, i) for i in range(len(stacks))))


def entry(name, direction):
    return search.Entry(direction, "float32", name, cases.places(small())[name], BEFORE)


def in_use(direction="forward", name="narrow"):
    return configs.config("interpreter", direction, "float32", name)


def decided(bench, entry):
    ((_, found),) = search.decide(bench, [entry])
    return found


@pytest.mark.parametrize(
    "name, library, by", [("narrow", 1.0, "library"), ("narrow", 1.99, "triton"), ("stem", 1.0, "triton")]
)
def test_others_are_taken_where_they_are_clearly_faster(name, library, by):
    bench = search.Bench(CPU, lambda call: library if in_use(name=name).by == "library" else 2.0, lambda text: None)
    found, layers = decided(bench, entry(name, "forward")), {"stem": 1, "narrow": 2}[name]
    assert found.config == replace(BEFORE, by=by)
    assert found.ms == {"triton": 2.0 * layers} | ({"library": library * layers} if name == "narrow" else {})


@pytest.mark.parametrize("direction, name", [("forward", "stem"), ("input_grad", "narrow"), ("weight_grad", "narrow")])
def test_the_fastest_neighbour_of_the_fastest_tile_is_kept(direction, name):
    own = entry(name, direction)
    tile = candidates.first(*own.what, SHARED)[-1]
    wanted = next(config for config in candidates.neighbours(tile, *own.what, SHARED) if config.num_stages == 3)
    times = {BEFORE: 4.0, tile: 3.0, wanted: 2.0}
    bench = search.Bench(CPU, lambda call: times.get(in_use(direction, name), 5.0), lambda text: None)
    search.explore(bench, [own])
    assert own.fastest(2) == [wanted, tile] and {BEFORE, tile, wanted} < own.tried.keys()
    assert decided(bench, own).config == wanted


@pytest.mark.parametrize("direction", configs.DIRECTIONS)
def test_it_is_all_layers_that_decide(direction):
    """One that is faster on the first layer alone is not kept."""
    own, other, calls = entry("narrow", direction), replace(BEFORE, num_stages=3), []
    own.tried = {BEFORE: 2.0, other: 1.0}

    def clock(call):
        calls.append(call)
        return 2.0 if in_use(direction) != other else 1.0 if len(calls) <= 3 else 5.0

    found = decided(search.Bench(CPU, clock, lambda text: None), own)
    assert found.config == BEFORE and found.ms == {"triton": 4.0, "library": 4.0} and len(calls) == 6


@pytest.mark.parametrize("direction", configs.DIRECTIONS)
@pytest.mark.parametrize("fault", ["wrong results", "RuntimeError"])
def test_a_wrong_configuration_is_never_kept(direction, fault, monkeypatch):
    own, said = entry("narrow", direction), Said()
    own.tried = {BEFORE: 2.0, replace(BEFORE, num_warps=8): 1.0}
    bench = search.Bench(CPU, lambda call: 1.0 if in_use(direction).num_warps == 8 else 2.0, said.append)
    right = getattr(BACKEND, direction)

    def wrong_with_eight_warps(*args):
        found = right(*args)
        if in_use(direction).num_warps == 8:
            if fault == "RuntimeError":
                raise RuntimeError("out of resources")
            (found.bias if direction == "weight_grad" else args[-1])[0] += 1e3
        return found

    monkeypatch.setattr(bench.backend, direction, wrong_with_eight_warps)
    assert decided(bench, own).config == BEFORE
    assert f"{direction}, float32, narrow: triton, 64×16×16, 8 warps, 2 stages: {fault}" in str(said)


@pytest.mark.parametrize("direction", ["forward", "input_grad"])
def test_what_another_has_written_is_not_taken_for_a_result(direction, monkeypatch):
    own = entry("narrow", direction)
    own.tried = {BEFORE: 2.0, replace(BEFORE, num_warps=8): 1.0}
    bench = search.Bench(CPU, lambda call: 1.0 if in_use(direction).num_warps == 8 else 2.0, lambda text: None)
    right = getattr(BACKEND, direction)
    monkeypatch.setattr(
        bench.backend, direction, lambda *args: None if in_use(direction).num_warps == 8 else right(*args)
    )
    assert decided(bench, own).config == BEFORE


def test_what_was_compared_is_gone():
    """So that sums that another allocates, and does not write, are not right."""
    case = cases.Case(entry("narrow", "weight_grad").places[0], "weight_grad", torch.float32, CPU)
    with configs.trying(BEFORE):
        sums, right = case.call(BACKEND)(), case.right()
    assert cases.agrees(sums, right) and sums.partial.isnan().all() and sums.bias.isnan().all()
    assert not cases.agrees(sums, right)


def test_a_lost_device_ends_it(monkeypatch):
    own = entry("stem", "forward")
    bench = search.Bench(CPU, lambda call: 1 / 0, lambda text: None)
    bench.device = torch.device("cuda")

    def lost(device):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(OSError, match="device: lost after forward, float32, stem: triton, 64×16×16.*ZeroDivisionError"):
        bench._time(own, lambda: [], BEFORE, [])


def test_the_places_are_hifigans():
    found = cases.places(cases.ensembles())
    counts = {"stem": 2, "dense": 5, "head": 2, "middle": 2, "grouped": 2, "narrow": 1}
    assert {name: len(own) for name, own in found.items()} == counts
    assert [place.flops for place in found["dense"]] == sorted((p.flops for p in found["dense"]), reverse=True)
    scale = found["narrow"][0].ensemble
    assert scale.lengths == (8192, 4097, 2049) and scale.set_count == 4


@pytest.mark.parametrize("arithmetic", cases.DTYPES)
@pytest.mark.parametrize("direction", configs.DIRECTIONS)
def test_candidates_fit_and_are_few(direction, arithmetic):
    for name, own in cases.places(cases.ensembles()).items():
        what = direction, arithmetic, own[0].layer
        found = candidates.first(*what, SHARED)
        near = {config for tile in found for config in candidates.neighbours(tile, *what, SHARED)}
        assert 3 < len(set(found)) == len(found) < 34, name
        assert max(len(list(candidates.neighbours(tile, *what, SHARED))) for tile in found) <= 9
        for config in near | set(found):
            assert 128 * 32 * config.num_warps >= config.BM * config.BN
            size = 2 if arithmetic == "half" else 4
            assert config.num_stages * (config.BM + config.BN) * config.BK * size <= SHARED
            if direction == "forward" and own[0].role == "conv":  # no wider than a stretch, but for its last columns
                layer = own[0].layer
                columns = stretch(direction, layer, config.BN) * (layer.out_channels // layer.groups)
                assert columns > config.BN // 2
    assert replace(BEFORE, BM=128, BN=256, BK=64, num_warps=8, num_stages=3) in candidates.first(
        "forward", "half", cases.places(cases.ensembles())["dense"][0].layer, SHARED
    )


def test_the_table_is_written_as_it_is_read(tmp_path, monkeypatch):
    command.write(tmp_path / "configs.json", configs.table())
    assert (tmp_path / "configs.json").read_text() == configs.TABLE.read_text()
    changed = {g: {d: dict(kinds) for d, kinds in of.items()} for g, of in configs.table().items()}
    dense = replace(configs.table()["sm_90"]["forward"]["half"]["dense"], by="library")
    changed["sm_90"]["forward"]["half"] = {**changed["sm_90"]["forward"]["half"], "dense": dense}
    monkeypatch.setattr(configs, "TABLE", tmp_path / "configs.json")
    command.write(configs.TABLE, changed)
    assert configs.table.__wrapped__() == changed


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The interpreter as a device of its own, with two classes, and a cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(configs, "contact", lambda device: {"device": "a planted device", "version": "1.0"})
    monkeypatch.setattr(configs, "devices", lambda: [CPU])
    monkeypatch.setattr(configs, "CLASSES", ("stem", "narrow"))
    monkeypatch.setattr(configs, "LIBRARY_CLASSES", ("narrow",))
    monkeypatch.setattr(cases, "ensembles", lambda: small((2,)))
    monkeypatch.setitem(cases.DTYPES, "half", torch.float16)
    configs.forget_measured()
    yield CPU
    configs.forget_measured()


FORWARD = "interpreter", "forward", "half", "narrow"


def faster_by_library(call):
    """Milliseconds of a case: forward passes are faster by the library."""
    return 1.0 if "forward" in call.__qualname__ and configs.config(*FORWARD).by == "library" else 2.0


def test_what_was_measured_is_taken_and_kept_for_the_device(device, monkeypatch):
    before, shipped, said = configs.digest(), configs.config(*FORWARD), Said()
    assert not configs.measurements(device) and shipped.by == "triton"
    assert command.run(quick=True, device=device, timed=faster_by_library, say=said.append) == 0
    assert configs.config(*FORWARD) == replace(shipped, by="library") and configs.digest() != before
    assert configs.config("interpreter", "weight_grad", "half", "narrow").by == "triton"
    assert len(configs.measurements(device)) == 6  # two arithmetics, three directions
    assert configs.measurements(device)["forward, half, narrow"]["ms"] == {"triton": 4.0, "library": 2.0}
    assert "forward, half, narrow: triton 4.000 ms, library 2.000 ms: library, 64×16×512, 4 warps" in str(said)
    assert said[0].startswith("  forward, half") and "kept for a planted device in " in said[-1]
    monkeypatch.setattr(configs, "contact", lambda device: {"device": "a planted device", "version": "1.1"})
    configs.forget_measured()
    assert configs.config(*FORWARD) == shipped and not configs.measurements(device)


def test_a_minute_is_kept_to_and_the_next_one_goes_on(device, monkeypatch):
    for count, left in ((3, True), (6, False)):
        ticks = iter([0, 10, 20, *([61] if left else [30] * 9)])
        monkeypatch.setattr(command.time, "monotonic", lambda ticks=ticks: next(ticks))
        said = Said()
        command.run(quick=True, device=device, timed=faster_by_library, say=said.append)
        assert len(configs.measurements(device)) == count
        assert ("3 of 6 are left: another run begins with them" in str(said)) is left


def test_one_arithmetic_and_the_whole_table(device, tmp_path, monkeypatch):
    file = tmp_path / "new" / "configs.json"
    command.run(file, arithmetics=["half"], device=device, timed=faster_by_library, say=print)
    assert set(configs.measurements(device)) == {
        *(f"{direction}, half, narrow" for direction in configs.DIRECTIONS),
        "forward, half, stem",
        "weight_grad, half, stem",
    }
    expected = configs.in_use()
    assert expected["interpreter"]["forward"]["half"]["narrow"].by == "library"
    monkeypatch.setattr(configs, "TABLE", file)
    assert configs.table.__wrapped__() == expected
    with pytest.raises(OSError, match="configs.json"):  # at once, nothing is measured
        command.run(file / "configs.json", device=device, timed=None)


def test_what_was_found_before_it_is_interrupted_is_kept(device):
    def clock(call):
        if configs._tried.get().by == "library" and in_use("input_grad").by == "library" and clock.left == 0:
            raise KeyboardInterrupt
        clock.left -= configs._tried.get().by == "library"
        return 1.0

    clock.left = 3  # layers by the library: a forward pass's two, and one
    with pytest.raises(KeyboardInterrupt):
        command.run(arithmetics=["half"], quick=True, device=device, timed=clock, say=lambda text: None)
    assert set(configs.measurements(device)) == {"forward, half, narrow"}


def test_interrupted_nothing_more_is_compiled():
    with pytest.raises(KeyboardInterrupt), compilers.Compilers() as threads:
        for _ in range(20 * threads._max_workers):
            threads.submit(time.sleep, 0.05)
        raise KeyboardInterrupt
    assert sum(future.cancelled() for future in threads.asked) >= 10 * threads._max_workers


def test_a_parser_that_another_thread_confused_is_asked_again():
    came = [SystemError("AST constructor recursion depth mismatch"), ValueError("again")]

    def confused():
        raise came.pop(0)

    with compilers.Compilers() as threads:
        found = threads.submit(confused)
    assert str(found.exception()) == "again" and not came


@pytest.mark.parametrize("said", ["", "0", "1", "two"])
def test_every_core_compiles_where_no_other_process_is_said_to(said, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with compilers.Compilers() as alone:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
        with compilers.Compilers() as threads:
            assert threads._max_workers == alone._max_workers


@pytest.mark.parametrize(
    "entry", ["3", "{}", '{"config": [1, 2]}', '{"config": "12345"}', '{"config": [1, 2, 3, 4, 5, true]}']
)
def test_broken_measurements_are_none(entry, device, tmp_path):
    file = tmp_path / "hifigan_fast" / configs.MEASURED
    file.parent.mkdir()
    file.write_text(f'{{"{configs.place(device)}": {{"forward, half, narrow": {entry}}}}}')
    assert configs.measurements(device) == {} == configs.measured()


def test_what_never_ran_is_no_time(device):
    found = search._found(BEFORE, {BEFORE: math.inf, replace(BEFORE, by="library"): 1.0})
    assert found.config.by == "library" and json.dumps(found.ms) == '{"library": 1.0}'
    assert search._found(BEFORE, {BEFORE: math.inf}) == search.Found(BEFORE, {})


def test_until_it_has_run_the_backend_says_so(device, monkeypatch):
    cuda = torch.device("cuda")
    assert "guesses until `hifigan-fast tune --quick` has run" in BACKEND.advice(cuda)
    monkeypatch.setattr(configs, "measurements", lambda device: {"forward, half, dense": {}})
    assert BACKEND.advice(cuda) is None and BACKEND.advice(CPU) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to tune for")
@pytest.mark.parametrize("flags", [[], ["--quick"], ["--arithmetic", "half", "tf32"]])
def test_without_a_gpu_it_says_so(flags, capsys):
    assert cli.main(["tune", *flags]) == 2
    assert "cannot tune here: no GPU" in capsys.readouterr().err

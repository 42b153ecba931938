"""The choice of configurations, with the clock replaced: in Triton's interpreter, on small operands."""

from dataclasses import replace

import pytest
import torch

from hifigan_fast import cli, dispatch
from hifigan_fast.backends.triton import configs
from hifigan_fast.geometry import Layer

BACKEND = dispatch.BACKENDS["triton"]
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    BACKEND.cannot_run(CPU, torch.float32) is not None, reason=str(BACKEND.cannot_run(CPU, torch.float32))
)


SMALL = {"stem": Layer(1, 24, 5, 3, 2), "narrow": Layer(16, 32, 5, 2, 2, 2)}


@pytest.fixture
def case_of(monkeypatch):
    from hifigan_fast.backends.triton import tune

    monkeypatch.setattr(tune, "LAYERS", SMALL)
    monkeypatch.setattr(tune, "PERIODS", (2, 3))
    return lambda name, direction: tune.Case(name, direction, torch.float32, CPU, batch=1, length=200)


@pytest.mark.parametrize(
    "name, faster, kept", [("narrow", True, True), ("narrow", False, False), ("stem", True, False)]
)
def test_the_library_is_kept_where_it_is_faster(name, faster, kept, case_of):
    from hifigan_fast.backends.triton import tune

    before = configs.Config(64, 64, 64, 4, 2)

    def clock(call):
        library = configs.config("interpreter", "forward", "float32", name).by == "library"
        return 1.0 if library and faster else 2.0

    found = tune.best(BACKEND, case_of(name, "forward"), before, time=clock, say=lambda text: None)
    assert found.config == replace(before, by="library" if kept else "triton")
    assert (found.ours, found.library) == (2.0, None if name == "stem" else 1.0 if faster else 2.0)


@pytest.mark.parametrize("direction, name", [("forward", "stem"), ("input_grad", "narrow"), ("weight_grad", "narrow")])
def test_the_fastest_neighbour_is_kept(direction, name, case_of):
    from hifigan_fast.backends.triton import tune

    before = configs.Config(64, 64, 64, 4, 2)
    wanted = replace(before, BN=32, num_stages=3)
    times = {before: 4.0, replace(before, BN=32): 3.0, wanted: 2.0}

    def clock(call):
        return times.get(configs.config("interpreter", direction, "float32", name), 5.0)

    found = tune.best(BACKEND, case_of(name, direction), before, time=clock, say=lambda text: None)
    assert found.config == wanted


def test_a_wrong_configuration_is_never_kept(monkeypatch, case_of):
    from hifigan_fast.backends.triton import tune

    before = configs.Config(64, 64, 64, 4, 2)
    right = BACKEND.forward

    def wrong_with_eight_warps(role, layer, runs, x, weights, out):
        right(role, layer, runs, x, weights, out)
        if configs.config("interpreter", "forward", "float32", "stem").num_warps == 8:
            out[len(out) // 2 :] = 0

    monkeypatch.setattr(BACKEND, "forward", wrong_with_eight_warps)

    def clock(call):
        return 1.0 if configs.config("interpreter", "forward", "float32", "stem").num_warps == 8 else 2.0

    found = tune.best(BACKEND, case_of("stem", "forward"), before, time=clock, say=lambda text: None)
    assert found.config == before


def test_the_table_is_written_as_it_is_read(tmp_path, monkeypatch):
    from hifigan_fast.backends.triton import tune

    tune.write(tmp_path / "configs.json", configs.table())
    assert (tmp_path / "configs.json").read_text() == configs.TABLE.read_text()
    changed = {g: {d: dict(kinds) for d, kinds in of.items()} for g, of in configs.table().items()}
    dense = replace(configs.table()["sm_90"]["forward"]["half"]["dense"], by="library")
    changed["sm_90"]["forward"]["half"] = {**changed["sm_90"]["forward"]["half"], "dense": dense}
    monkeypatch.setattr(configs, "TABLE", tmp_path / "configs.json")
    tune.write(configs.TABLE, changed)
    assert configs.table.__wrapped__() == changed


class Said(list):
    def __str__(self):
        return "\n".join(self)


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The interpreter as a device of its own, with two classes, and a cache folder."""
    from hifigan_fast.backends.triton import tune

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(configs, "contact", lambda device: {"device": "a planted device", "version": "1.0"})
    monkeypatch.setattr(configs, "devices", lambda: [CPU])
    monkeypatch.setattr(configs, "CLASSES", ("stem", "narrow"))
    monkeypatch.setattr(configs, "LIBRARY_CLASSES", ("narrow",))
    for name, value in {"LAYERS": SMALL, "PERIODS": (2,), "BATCH": 1, "LENGTH": 100, "ROUNDS": 0}.items():
        monkeypatch.setattr(tune, name, value)
    monkeypatch.setitem(tune.DTYPES, "half", torch.float16)
    configs.forget_measured()
    yield CPU
    configs.forget_measured()


def faster_by_library(call):
    """Milliseconds of a case: forward passes are faster by the library."""
    return 1.0 if "forward" in call.__qualname__ and configs.config(*FORWARD).by == "library" else 2.0


FORWARD = "interpreter", "forward", "half", "narrow"


def test_what_was_measured_is_taken_and_kept_for_the_device(device, monkeypatch):
    from hifigan_fast.backends.triton import tune

    before, shipped, said = configs.digest(), configs.config(*FORWARD), Said()
    assert not configs.measurements(device) and shipped.by == "triton"
    assert tune.run(quick=True, device=device, timed=faster_by_library, say=said.append) == 0
    assert configs.config(*FORWARD) == replace(shipped, by="library") and configs.digest() != before
    assert configs.config("interpreter", "weight_grad", "half", "narrow").by == "triton"
    assert len(configs.measurements(device)) == 6  # two arithmetics, three directions
    assert "forward, half, narrow: ours 2.000 ms, PyTorch's own 1.000 ms: the library" in str(said)
    assert said[0].startswith("  forward, half") and "kept for a planted device in " in said[-1]
    monkeypatch.setattr(configs, "contact", lambda device: {"device": "a planted device", "version": "1.1"})
    configs.forget_measured()
    assert configs.config(*FORWARD) == shipped and not configs.measurements(device)


def test_a_minute_is_kept_to_and_the_next_one_goes_on(device, monkeypatch):
    from hifigan_fast.backends.triton import tune

    for count, left in ((3, True), (6, False)):
        ticks = iter([0, 10, 20, 30, *([61] if left else [30] * 9)])
        monkeypatch.setattr(tune.time, "monotonic", lambda ticks=ticks: next(ticks))
        said = Said()
        tune.run(quick=True, device=device, timed=faster_by_library, say=said.append)
        assert len(configs.measurements(device)) == count
        assert ("3 of 6 are left: another run begins with them" in str(said)) is left


def test_the_whole_table_is_written_where_it_is_asked_for(device, tmp_path, monkeypatch):
    from hifigan_fast.backends.triton import tune

    tune.run(tmp_path / "configs.json", device=device, timed=faster_by_library, say=lambda text: None)
    assert set(configs.measurements(device)) > {"forward, half, stem", "weight_grad, float32, narrow"}
    expected = configs.in_use()
    monkeypatch.setattr(configs, "TABLE", tmp_path / "configs.json")
    assert configs.table.__wrapped__() == expected


@pytest.mark.parametrize(
    "entry", ["3", "{}", '{"config": [1, 2]}', '{"config": "12345"}', '{"config": [1, 2, 3, 4, 5, true]}']
)
def test_broken_measurements_are_none(entry, device, tmp_path):
    file = tmp_path / "hifigan_fast" / configs.MEASURED
    file.parent.mkdir()
    file.write_text(f'{{"{configs.place(device)}": {{"forward, half, narrow": {entry}}}}}')
    assert configs.measurements(device) == {} == configs.measured()


def test_until_it_has_run_the_backend_says_so(device, monkeypatch):
    cuda = torch.device("cuda")
    assert "guesses until `hifigan-fast tune --quick` has run" in BACKEND.advice(cuda)
    monkeypatch.setattr(configs, "measurements", lambda device: {"forward, half, dense": {}})
    assert BACKEND.advice(cuda) is None and BACKEND.advice(CPU) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to tune for")
@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_without_a_gpu_it_says_so(flags, capsys):
    assert cli.main(["tune", *flags]) == 2
    assert "cannot tune here: no GPU" in capsys.readouterr().err

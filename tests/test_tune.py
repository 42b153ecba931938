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
        library = configs.config("interpreter", "forward", "float32", name).library
        return 1.0 if library and faster else 2.0

    found = tune.best(BACKEND, case_of(name, "forward"), before, clock, say=lambda text: None)
    assert found == replace(before, library=kept)


@pytest.mark.parametrize("direction, name", [("forward", "stem"), ("input_grad", "narrow"), ("weight_grad", "narrow")])
def test_the_fastest_neighbour_is_kept(direction, name, case_of):
    from hifigan_fast.backends.triton import tune

    before = configs.Config(64, 64, 64, 4, 2)
    wanted = replace(before, BN=32, num_stages=3)
    times = {before: 4.0, replace(before, BN=32): 3.0, wanted: 2.0}

    def clock(call):
        return times.get(configs.config("interpreter", direction, "float32", name), 5.0)

    assert tune.best(BACKEND, case_of(name, direction), before, clock, say=lambda text: None) == wanted


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

    assert tune.best(BACKEND, case_of("stem", "forward"), before, clock, say=lambda text: None) == before


def test_the_table_is_written_as_it_is_read(tmp_path, monkeypatch):
    from hifigan_fast.backends.triton import tune

    tune.write(tmp_path / "configs.json", configs.table())
    assert (tmp_path / "configs.json").read_text() == configs.TABLE.read_text()
    changed = {g: {d: dict(kinds) for d, kinds in of.items()} for g, of in configs.table().items()}
    dense = replace(configs.table()["sm_90"]["forward"]["half"]["dense"], library=True)
    changed["sm_90"]["forward"]["half"] = {**changed["sm_90"]["forward"]["half"], "dense": dense}
    monkeypatch.setattr(configs, "TABLE", tmp_path / "configs.json")
    tune.write(configs.TABLE, changed)
    assert configs.table.__wrapped__() == changed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to tune for")
def test_without_a_gpu_it_says_so(capsys):
    assert cli.main(["tune"]) == 2
    assert "cannot tune here: no GPU" in capsys.readouterr().err

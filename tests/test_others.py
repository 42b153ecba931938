"""Who runs a layer of the Triton backend, by its table and by what there is: nothing is compiled, nothing runs."""

from dataclasses import replace

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, info
from hifigan_fast.backends.cuda import compiler
from hifigan_fast.backends.gpu.devices import Absent, standing_for
from hifigan_fast.backends.triton import TritonBackend, configs, library, others
from hifigan_fast.geometry import Layer

from . import ways

CPU = torch.device("cpu")
LAYERS = {"narrow": Layer(32, 64, 41, 2, 20, 4), "middle": Layer(64, 64, 5, 1, 2, 2), "dense": Layer(65, 8, 5, 1, 2)}
nvrtc = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))


@pytest.fixture
def hopper():
    """CPU tensors stand for those of a device of compute capability 9.0."""
    with standing_for(Absent("sm_90")):
        yield


def found(role="conv", layer=LAYERS["narrow"], direction="forward", dtype=torch.float16):
    return others.stand_in(direction, role, layer, torch.empty(0, dtype=dtype, device=CPU))


@pytest.mark.parametrize("widest, name", [(1, "narrow"), (16, "narrow"), (17, "middle"), (32, "middle")])
def test_a_class_goes_by_the_wider_side_of_a_group(widest, name):
    for ins, outs in ((widest, 1), (1, widest)):
        assert configs.layer_class("conv", Layer(4 * ins, 4 * outs, 5, 1, 2, 4)) == name
    grouped, dense = Layer(33, 8, 5, 1, 2), Layer(8, 65, 5, 1, 2)
    assert [configs.layer_class("conv", layer) for layer in (grouped, dense)] == ["grouped", "dense"]
    assert configs.layer_class("head", dense) == "head"


@nvrtc
@pytest.mark.parametrize("direction", configs.DIRECTIONS)
def test_the_table_says_who(direction, hopper):
    with ways.by("cuda"):
        assert found(direction=direction).func.__module__ == "hifigan_fast.backends.cuda.windows"
        assert found(role="head") is None and found(role="stem") is None
    with ways.by("library"):
        assert found(direction=direction) is getattr(library, direction) and found(role="head") is None
    with ways.by("triton"):
        assert found(direction=direction) is None


@nvrtc
def test_where_cuda_kernels_cannot_run_tritons_do(hopper, monkeypatch):
    with ways.by("cuda"):
        assert found() and found(layer=Layer(64, 64, 9001, 1, 0)) is None  # no window has so many taps
        for target in ("gfx942", "sm_314"):
            with standing_for(Absent(target)):
                assert found() is None
        with standing_for(None):  # in Triton's interpreter
            assert found() is None
        monkeypatch.setattr(compiler, "missing", lambda: "no NVRTC")
        assert found() is None


@pytest.fixture
def mixed(hopper, monkeypatch):
    """The Triton backend as if on a GPU: CUDA kernels run narrow layers, and middle ones' forward pass."""
    said = configs.config

    def config(*where):
        _, direction, _, name = where
        chosen = name == "narrow" or (name, direction) == ("middle", "forward")
        return replace(said(*where), by="cuda" if chosen else "triton")

    monkeypatch.setattr(configs, "config", config)
    monkeypatch.setattr(TritonBackend, "only_on_request", lambda self, device: None)
    if dispatch.BACKENDS["triton"].cannot_run(CPU, torch.float32):
        pytest.skip("no Triton")


@nvrtc
def test_explain_and_info_say_it(mixed, monkeypatch):
    said = "middle layers by cuda (forward); narrow layers by cuda"
    with hf.use_backend("triton"):
        both = [
            hf.explain(made()).splitlines()[2] for made in (hf.MultiScaleDiscriminator, hf.MultiPeriodDiscriminator)
        ]
    assert both[0].endswith(f"requested; {said}") and both[1].endswith("requested")  # this one's are dense
    assert dict(info.rows())["within triton, float32"] == said
    monkeypatch.setattr(compiler, "missing", lambda: "no NVRTC")
    with hf.use_backend("triton"):
        assert "cuda" not in hf.explain(hf.MultiScaleDiscriminator())
    assert not [what for what, _ in info.rows() if what.startswith("within")]

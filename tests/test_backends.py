"""Random geometries through every backend, against plain PyTorch in float64, with poisoned allocations."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hifigan_fast import parity
from hifigan_fast.backends import cpu
from hifigan_fast.dispatch import BACKENDS
from hifigan_fast.geometry import Layer

from .small import SmallEnsemble

pytestmark = pytest.mark.usefixtures("poisoned")
RELAXED = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def stacks(draw):
    """Layers of random channels, groups, taps, strides and padding, from one waveform channel to one logit channel."""
    layers = [Layer(1, draw(st.integers(1, 40)), draw(st.integers(1, 15)), draw(st.integers(1, 4)), 0)]
    layers[0] = Layer(1, layers[0].out_channels, layers[0].taps, layers[0].stride, layers[0].taps // 2)
    for _ in range(draw(st.integers(0, 3))):
        channels = layers[-1].out_channels
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        out = groups * draw(st.integers(1, max(1, 70 // groups)))
        taps = draw(st.sampled_from([1, 2, 3, 5, 7, 15, 41]))
        padding = draw(st.integers(taps // 2, taps))
        layers.append(Layer(channels, out, taps, draw(st.integers(1, 5)), padding, groups))
    return (*layers, Layer(layers[-1].out_channels, 1, 3, draw(st.integers(1, 2)), 1, slope=1.0))


@st.composite
def ensembles(draw):
    folded = draw(st.booleans())
    periods = tuple(draw(st.lists(st.integers(1, 13), min_size=1, max_size=3)))
    norm = draw(st.sampled_from(["weight", "spectral", "mixed", "none"]))
    return {
        "layers": draw(stacks()),
        "periods": periods,
        "folded": folded,
        "sides": draw(st.integers(1, 2)),
        "samples": draw(st.integers(1, 3)),
        "length": draw(st.integers(8, 700)),
        "norm": norm,
        "sigmas": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 9)),
    }


def able(name, dtype=torch.float32):
    """A backend, or a skip where it cannot run here."""
    reason = BACKENDS[name].cannot_run(torch.device("cpu"), dtype)
    if reason:
        pytest.skip(reason)
    return BACKENDS[name]


@given(case=ensembles())
@RELAXED
def test_any_geometry_on_the_cpu_backend(case):
    assert SmallEnsemble(**case).worst_ratio(able("cpu")) <= parity.LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(case=ensembles())
@settings(RELAXED, max_examples=40)
def test_any_geometry_on_the_reference_backend(dtype, case):
    assert SmallEnsemble(**case).worst_ratio(BACKENDS["reference"], dtype) <= parity.LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(case=ensembles())
@settings(RELAXED, max_examples=12)
def test_any_geometry_on_the_triton_backend(dtype, case):
    assert SmallEnsemble(**case).worst_ratio(able("triton", dtype), dtype) <= parity.LIMIT


@pytest.mark.skipif(cpu.extension()[0] is None, reason=str(cpu.extension()[1]))
@pytest.mark.parametrize("isa", cpu.extension()[0].instruction_sets() if cpu.extension()[0] else [])
@given(case=ensembles())
@settings(RELAXED, max_examples=40)
def test_any_geometry_on_every_instruction_set(isa, case):
    library = cpu.extension()[0]
    before = library.instruction_set()
    library.use_instruction_set(isa)
    try:
        assert SmallEnsemble(**case).worst_ratio(BACKENDS["cpu"]) <= parity.LIMIT
    finally:
        library.use_instruction_set(before)


@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize(
    "case",
    [
        {"periods": (23, 37), "samples": 3, "length": 150},  # many sequences of a row or two
        {"norm": "mixed", "sigmas": 2},
        {"periods": (1,), "folded": False, "samples": 1, "length": 3000},
        {
            "layers": (Layer(1, 100, 15, 1, 7), Layer(100, 300, 3, 1, 1), Layer(300, 1, 3, 1, 1, slope=1.0)),
            "length": 60,
        },
    ],
    ids=["short sequences", "mixed norms", "a long sequence", "wide layers"],
)
def test_particular_geometries(name, case):
    assert SmallEnsemble(**case).worst_ratio(able(name)) <= parity.LIMIT


@pytest.mark.parametrize("name", list(BACKENDS))
def test_an_output_of_exactly_zero_is_on_the_lower_side(name):
    """leaky ReLU's gradient at 0 is the slope, in PyTorch as here: silence under zero biases shows it."""
    backend = able(name)
    small = SmallEnsemble(length=64)
    for side in small.waves:
        side[0].zero_()
    for own in small.parameters:
        for p in own:
            p.bias.zero_()
    (_, ours), (_, plain) = small.on(backend), small.plain(torch.float32)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

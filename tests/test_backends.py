"""Random geometries through every backend, against plain PyTorch in float64, with poisoned allocations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hifigan_fast import parity
from hifigan_fast.backends import cpu
from hifigan_fast.dispatch import BACKENDS
from hifigan_fast.geometry import Layer

from .generated import cases
from .needs import needs_extension
from .small import SmallEnsemble

pytestmark = pytest.mark.usefixtures("poisoned")


@st.composite
def stacks(draw, channels=70, most_groups=70):
    """Layers of random channels, groups, taps, strides and padding, from one waveform channel to one logit channel."""
    layers = [Layer(1, draw(st.integers(1, min(40, channels))), draw(st.integers(1, 15)), draw(st.integers(1, 4)), 0)]
    layers[0] = Layer(1, layers[0].out_channels, layers[0].taps, layers[0].stride, layers[0].taps // 2)
    for _ in range(draw(st.integers(0, 3))):
        ins = layers[-1].out_channels
        groups = draw(st.sampled_from([g for g in range(1, min(ins, most_groups) + 1) if ins % g == 0]))
        out = groups * draw(st.integers(1, max(1, channels // groups)))
        taps = draw(st.sampled_from([1, 2, 3, 5, 7, 15, 41]))
        padding = draw(st.integers(taps // 2, taps))
        layers.append(Layer(ins, out, taps, draw(st.integers(1, 5)), padding, groups))
    return (*layers, Layer(layers[-1].out_channels, 1, 3, draw(st.integers(1, 2)), 1, slope=1.0))


@st.composite
def ensembles(draw, members=3, longest=700, **limits):
    folded = draw(st.booleans())
    periods = tuple(draw(st.lists(st.integers(1, 13), min_size=1, max_size=members)))
    norm = draw(st.sampled_from(["weight", "spectral", "mixed", "none"]))
    return {
        "layers": draw(stacks(**limits)),
        "periods": periods,
        "folded": folded,
        "sides": draw(st.integers(1, 2)),
        "samples": draw(st.integers(1, 3)),
        "length": draw(st.integers(8, longest)),
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


def by_every_kernel(small, dtype):
    """The C++ backend's worst ratio over instruction sets, on one thread and on three."""
    library, threads = cpu.extension()[0], torch.get_num_threads()
    before = library.instruction_set()
    try:
        for isa in library.instruction_sets():
            library.use_instruction_set(isa)
            for count in (1, 3):
                torch.set_num_threads(count)
                yield small.worst_ratio(BACKENDS["cpu"], dtype)
    finally:
        library.use_instruction_set(before)
        torch.set_num_threads(threads)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@cases(40, 300)
def test_any_geometry_on_the_cpu_backend(dtype, generated):
    @generated
    @given(case=ensembles())
    def check(case):
        assert max(by_every_kernel(SmallEnsemble(**case), dtype)) <= parity.LIMIT

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@cases(20, 80)
def test_any_geometry_on_the_reference_backend(dtype, generated):
    @generated
    @given(case=ensembles())
    def check(case):
        assert SmallEnsemble(**case).worst_ratio(BACKENDS["reference"], dtype) <= parity.LIMIT

    check()


# Its time in the interpreter goes by programs: one a group and tile of rows. tests/test_triton.py has many groups.
FEW_PROGRAMS = {"members": 2, "longest": 120, "channels": 24, "most_groups": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@cases(5, 100)
def test_any_geometry_on_the_triton_backend(dtype, generated):
    @generated
    @given(case=ensembles(**FEW_PROGRAMS))
    def check(case):
        assert SmallEnsemble(**case).worst_ratio(able("triton", dtype), dtype) <= parity.LIMIT

    check()


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@cases(5, 40)
def test_any_large_geometry_on_the_triton_backend(dtype, generated):
    @generated
    @given(case=ensembles())
    def check(case):
        assert SmallEnsemble(**case).worst_ratio(able("triton", dtype), dtype) <= parity.LIMIT

    check()


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

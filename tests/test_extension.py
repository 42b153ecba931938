"""The extension raises on a wrong call and never crashes; 64-bit offsets."""

import numpy as np
import pytest
import torch

from hifigan_fast.backends import cpu
from hifigan_fast.geometry import Ensemble, Layer, Stack, run_table

lib, reason = cpu.extension()
pytestmark = pytest.mark.skipif(lib is None, reason=str(reason))

LAYER = Layer(4, 6, 5, 2, 2, 2)
RUN = {
    "weights": 0,
    "samples": 2,
    "period": 3,
    "in_rows": 20,
    "out_rows": 10,
    "in_offset": 0,
    "out_offset": 0,
    "grad_in_offset": 0,
    "grad_out_offset": 0,
}


def conv(layer=LAYER):
    return lib.Conv(
        layer.in_channels, layer.out_channels, layer.taps, layer.stride, layer.padding, layer.groups, layer.slope
    )


def span(tensor):
    return tensor.data_ptr(), tensor.numel()


def forward(**changes):
    """A right call but for `changes` of the run or of an argument."""
    run = {**RUN, **{k: v for k, v in changes.items() if k in RUN}}
    out = torch.zeros(6 * 10 * 6)
    arguments = {
        "role": lib.Role.conv,
        "conv": conv(),
        "runs": np.array([list(run.values())], dtype=np.int64),
        "sets": 1,
        "x": span(x := torch.randn(6 * 20 * 4)),
        "packed": span(packed := torch.randn(lib.packed_floats(conv(), lib.Pass.forward))),
        "bias": span(bias := torch.zeros(6)),
        "out": span(out),
        "threads": 1,
        **{k: v for k, v in changes.items() if k not in RUN},
    }
    lib.forward(*arguments.values())
    return out, x, packed, bias  # alive until here: only addresses cross


def test_the_right_call_works():
    assert forward()[0].abs().sum() > 0


WRONG = {
    "x too small": ({"x": (8, 6 * 20 * 4 - 1)}, "x: holds 479 floats, the call needs 480"),
    "null": ({"x": (0, 6 * 20 * 4)}, "x: null pointer"),
    "misaligned": ({"x": (3, 6 * 20 * 4)}, "x: misaligned"),
    "out too small": ({"out": (8, 5)}, "out: holds 5"),
    "packed too small": ({"packed": (8, 5)}, "weights: holds 5"),
    "bias too small": ({"bias": (8, 5)}, "bias: holds 5"),
    "negative size": ({"x": (8, -1)}, "x: holds -1"),
    "negative samples": ({"samples": -1}, "negative field"),
    "negative offset": ({"in_offset": -1}, "negative field"),
    "no such set": ({"weights": 1}, "no such set"),
    "no sets": ({"sets": 0}, "sets: must be"),
    "wrong out_rows": ({"out_rows": 11}, "out_rows does not follow"),
    "period 0": ({"period": 0}, "empty sequence"),
    "offset past the end": ({"in_offset": 1}, "x: holds 480 floats, the call needs 484"),
    "more samples than there are": ({"samples": 3}, "holds"),
    "huge": ({"samples": 2**40}, "x: holds"),
    "overflowing": ({"samples": 2**62}, "runs: too large"),
    "overflowing offset": ({"out_offset": 2**62}, "runs: too large"),
    "overflowing sets": ({"sets": 2**62}, "sets: too large"),
    "wrong table": ({"runs": np.zeros((1, 3), dtype=np.int64)}, "runs: expected an array"),
    "not a stem": ({"role": lib.Role.stem} if lib else {}, "stem: expected one input channel"),
    "not a head": ({"role": lib.Role.head} if lib else {}, "head: expected one output channel"),
}


@pytest.mark.parametrize("changes, message", WRONG.values(), ids=WRONG)
def test_a_wrong_call_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        forward(**changes)


@pytest.mark.parametrize("arguments", [(0, 1, 1, 1, 0, 1), (4, 6, 5, 1, -1, 1), (4, 6, 5, 1, 2, 4), (4, 6, 0, 1, 2, 2)])
def test_a_wrong_convolution_raises(arguments):
    with pytest.raises(ValueError, match="Conv: "):
        lib.Conv(*arguments, 0.1)


def test_wrong_types_raise():
    with pytest.raises(TypeError):
        forward(x="nothing")
    with pytest.raises(TypeError):
        forward(conv=None)


def test_other_entry_points_check_their_sizes():
    t = torch.zeros(4)
    with pytest.raises(ValueError, match="raw: holds 4"):
        lib.row_norms(span(t), 3, 2, span(t), 1)
    with pytest.raises(ValueError, match="negative"):
        lib.row_norms(span(t), -1, 2, span(t), 1)
    with pytest.raises(ValueError, match="too large"):
        lib.row_norms(span(t), 2**32, 2**32, span(t), 1)
    with pytest.raises(ValueError, match="Conv: too large"):
        lib.Conv(2**31, 2**31, 4, 1, 1, 1, 0.1)
    with pytest.raises(ValueError, match="raw: holds 4"):
        lib.pack(conv(), lib.Pass.forward, span(t), span(t), span(t), 1)
    with pytest.raises(ValueError, match="packed: holds 4"):
        lib.unpack_grad(conv(), span(t), span(t), span(t), None, span(t), span(t), 1)
    with pytest.raises(ValueError, match="differ in size"):
        lib.feature_l1([(span(t), (t.data_ptr(), 3))], span(t), 1)
    with pytest.raises(ValueError, match="one gradient of each kind"):
        lib.feature_l1_grad([(span(t), span(t))], span(t), [], [None], 1)
    with pytest.raises(ValueError, match="map_grads: expected one entry a run"):
        table = np.array([list(RUN.values())], dtype=np.int64)
        lib.input_grad(lib.Role.conv, conv(), 0.1, table, 1, *[(8, 10**6)] * 3, [], (8, 10**6), 1)


def test_two_runs_of_one_waveform_must_agree_on_its_size():
    stem = Layer(1, 4, 3, 1, 1)
    runs = np.array([[0, n, 1, 10, 10, 0, 0, 0, 0] for n in (1, 2)], dtype=np.int64)
    grads, waves = torch.zeros(2 * 10 * 4), torch.zeros(20)
    packed = torch.zeros(lib.packed_floats(conv(stem), lib.Pass.stem_input_grad))
    with pytest.raises(ValueError, match="one waveform with two sizes"):
        lib.stem_input_grad(conv(stem), runs, 1, span(grads), span(packed), span(waves), 1)


@pytest.mark.parametrize("purpose", ["forward", "input_grad", "stem_input_grad"])
@pytest.mark.parametrize(
    "layer", [LAYER, Layer(1, 37, 15, 3, 7), Layer(6, 9, 2, 5, 1, 3), Layer(8, 4, 41, 4, 20, 4), Layer(70, 70, 1, 1, 0)]
)
def test_packing_writes_every_element(layer, purpose):
    if purpose == "stem_input_grad" and layer.in_channels > 1:
        return
    purpose = getattr(lib.Pass, purpose)
    raw = torch.ones(layer.out_channels, layer.in_channels // layer.groups, layer.taps)
    packed = torch.full((lib.packed_floats(conv(layer), purpose),), float("nan"))
    lib.pack(conv(layer), purpose, span(raw), span(scale := torch.ones(layer.out_channels)), span(packed), 1)
    assert packed.isfinite().all() and scale.all()


def test_offsets_are_64_bit():
    """A buffer of more than 2³¹ elements is addressed right: on the geometry, nothing is allocated."""
    layers = (Layer(1, 1024, 5, 1, 2), Layer(1024, 1024, 5, 1, 2), Layer(1024, 1, 3, 1, 1, slope=1.0))
    ensemble = Ensemble((Stack(layers, 2, True),), (0,), (4_000_000,), 2, 2, ((0, 0),))
    runs = ensemble.runs(1, tuple(ensemble.members))
    assert runs[1].in_offset * 1024 > 2**31
    table = run_table(runs)
    assert table.dtype == np.int64 and table[1, 5] == 8_000_000
    out = 16_000_000 * 1024  # rows · channels of both sides
    with pytest.raises(ValueError, match=f"x: holds 8 floats, the call needs {out}"):
        lib.forward(lib.Role.conv, conv(layers[1]), table, 1, *[(8, 8)] * 4, 1)

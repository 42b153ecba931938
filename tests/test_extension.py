"""The extension raises on a wrong call and never crashes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hifigan_fast.backends import cpu
from hifigan_fast.geometry import run_table

from .extension_calls import DTYPES, RIGHT, Call, lib, reason, span, spans

pytestmark = pytest.mark.skipif(lib is None, reason=str(reason))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role, entry", RIGHT)
def test_the_right_call_works(role, entry, dtype):
    for result in Call(role, dtype=dtype).run(entry):
        assert result.isfinite().all() and result.abs().sum() > 0


@pytest.mark.parametrize("gaps", [torch.zeros(480, 2)[:, 0], torch.zeros(1).expand(480)], ids=["apart", "expanded"])
def test_no_address_of_elements_that_do_not_lie_side_by_side(gaps):
    with pytest.raises(ValueError, match=r"expected elements side by side, got shape \[480\], strides"):
        cpu.span(gaps)
    assert cpu.span(torch.zeros(4, 5).t())


# Address 8 is never read: the size is refused first. The right call has 480 floats (120 rows of 4 channels) on the
# input's side, 360 (60 rows of 6) on the output's, and filters of 60.
RAW, SCALE = (8, 60), (8, 6)
HALF = lib and lib.Span(8, 480, lib.Dtype.bfloat16)
WRONG = {
    "x of another dtype": ("forward", {"x": HALF}, "x: expected float32, got bfloat16"),
    "out of another dtype": ("forward", {"out": HALF}, "out: expected float32, got bfloat16"),
    "bias of another dtype": ("forward", {"bias": HALF}, "bias: expected float32, got bfloat16"),
    "scale of another dtype": ("forward", {"weights": [(RAW, HALF)]}, "scale: expected float32, got bfloat16"),
    "a map_grad of another dtype": ("input_grad", {"map_grads": [HALF]}, "map_grads: expected float32, got bfloat16"),
    "grad_bias of another dtype": ("weight_grad", {"grad_bias": HALF}, "grad_bias: expected float32, got bfloat16"),
    "x too small": ("forward", {"x": (8, 479)}, "x: holds 479 elements, the call needs 480"),
    "x null": ("forward", {"x": (0, 480)}, "x: null pointer"),
    "x misaligned": ("forward", {"x": (3, 480)}, "x: misaligned"),
    "x negative": ("forward", {"x": (8, -1)}, "x: holds -1"),
    "out too small": ("forward", {"out": (8, 359)}, "out: holds 359 elements, the call needs 360"),
    "out null": ("forward", {"out": (0, 360)}, "out: null pointer"),
    "bias too small": ("forward", {"bias": (8, 5)}, "bias: holds 5 elements, the call needs 6"),
    "bias of one of two sets": ("forward", {"weights": [(RAW, SCALE)] * 2, "bias": (8, 11)}, "bias: holds 11 elements"),
    "raw too small": ("forward", {"weights": [((8, 59), SCALE)]}, "raw: holds 59 elements, the call needs 60"),
    "raw null": ("forward", {"weights": [((0, 60), SCALE)]}, "raw: null pointer"),
    "raw misaligned": ("forward", {"weights": [((5, 60), SCALE)]}, "raw: misaligned"),
    "raw of a set without runs": ("forward", {"weights": [(RAW, SCALE), ((8, 1), SCALE)]}, "raw: holds 1"),
    "scale too small": ("forward", {"weights": [(RAW, (8, 5))]}, "scale: holds 5 elements, the call needs 6"),
    "scale null": ("forward", {"weights": [(RAW, (0, 6))]}, "scale: null pointer"),
    "no sets": ("forward", {"weights": []}, "sets: must be"),
    "no such set": ("forward", {"run": {"weights": 1}}, "no such set"),
    "negative samples": ("forward", {"run": {"samples": -1}}, "negative field"),
    "negative offset": ("forward", {"run": {"in_offset": -1}}, "negative field"),
    "wrong out_rows": ("forward", {"run": {"out_rows": 11}}, "out_rows does not follow"),
    "shorter than the taps": ("forward", {"run": {"in_rows": 0, "out_rows": 1}}, "empty sequence"),
    "no output": ("forward", {"run": {"out_rows": 0}}, "empty sequence"),
    "period 0": ("forward", {"run": {"period": 0}}, "empty sequence"),
    "offset past the end": ("forward", {"run": {"in_offset": 1}}, "x: holds 480 elements, the call needs 484"),
    "out_offset past the end": ("forward", {"run": {"out_offset": 1}}, "out: holds 360 elements, the call needs 366"),
    "more samples than there are": ("forward", {"run": {"samples": 3}}, "x: holds 480 elements, the call needs 720"),
    "huge": ("forward", {"run": {"samples": 2**40}}, "x: holds"),
    "overflowing samples": ("forward", {"run": {"samples": 2**62}}, "runs: too large"),
    "overflowing rows": ("forward", {"run": {"in_rows": 2**62, "out_rows": 2**61}}, "runs: too large"),
    "overflowing rows of no samples": (
        "forward",
        {"run": {"samples": 0, "in_rows": 2**62, "out_rows": 2**61}},
        "runs: too large",
    ),
    "overflowing period of no samples": ("forward", {"run": {"samples": 0, "period": 2**62}}, "runs: too large"),
    "overflowing offset": ("forward", {"run": {"out_offset": 2**62}}, "runs: too large"),
    "wrong table": ("forward", {"runs": np.zeros((1, 3), dtype=np.int64)}, "runs: expected an array"),
    "flat table": ("forward", {"runs": np.zeros(9, dtype=np.int64)}, "runs: expected an array"),
    "not a stem": ("forward", {"role": "stem"}, "stem: expected one input channel"),
    "not a head": ("forward", {"role": "head"}, "head: expected one output channel"),
    "grad_out too small": ("input_grad", {"grad_out": (8, 359)}, "grad_out: holds 359 elements, the call needs 360"),
    "saved too small": ("input_grad", {"saved": (8, 479)}, "saved: holds 479 elements, the call needs 480"),
    "grad_in too small": ("input_grad", {"grad_in": (8, 479)}, "grad_in: holds 479 elements, the call needs 480"),
    "grad_in null": ("input_grad", {"grad_in": (0, 480)}, "grad_in: null pointer"),
    "grad_in past the end": (
        "input_grad",
        {"run": {"grad_in_offset": 1}},
        "grad_in: holds 480 elements, the call needs 484",
    ),
    "raw too small for an input gradient": ("input_grad", {"weights": [((8, 59), SCALE)]}, "raw: holds 59"),
    "no map_grads": ("input_grad", {"map_grads": []}, "map_grads: expected one entry a run"),
    "a map_grad too small": (
        "input_grad",
        {"map_grads": [(8, 479)]},
        "map_grads: holds 479 elements, the call needs 480",
    ),
    "a map_grad null": ("input_grad", {"map_grads": [(0, 480)]}, "map_grads: null pointer"),
    "input gradient of no head": ("input_grad", {"role": "head"}, "head: expected one output channel"),
    "input gradient of no sets": ("input_grad", {"weights": []}, "sets: must be"),
    "weight gradient of no stem": ("weight_grad", {"role": "stem"}, "stem: expected one input channel"),
    "weight gradient of a small x": ("weight_grad", {"x": (8, 479)}, "x: holds 479 elements, the call needs 480"),
    "weight gradient of a small grad_out": ("weight_grad", {"grad_out": (8, 359)}, "grad_out: holds 359 elements"),
    "weight gradient of a small raw": ("weight_grad", {"weights": [((8, 59), SCALE)]}, "raw: holds 59 elements"),
    "grad_bias too small": ("weight_grad", {"grad_bias": (8, 5)}, "grad_bias: holds 5 elements, the call needs 6"),
    "no grad_weights": ("weight_grad", {"grad_weights": []}, "grad_weights: expected one entry a set"),
    "grad_weights of two sets": (
        "weight_grad",
        {"grad_weights": [(None, RAW, SCALE)] * 2},
        "grad_weights: expected one entry a set",
    ),
    "norms too small": (
        "weight_grad",
        {"grad_weights": [((8, 5), RAW, SCALE)]},
        "norms: holds 5 elements, the call needs 6",
    ),
    "grad_raw too small": (
        "weight_grad",
        {"grad_weights": [(None, (8, 59), SCALE)]},
        "grad_raw: holds 59 elements, the call needs 60",
    ),
    "grad_raw null": ("weight_grad", {"grad_weights": [(None, (0, 60), SCALE)]}, "grad_raw: null pointer"),
    "inner too small": (
        "weight_grad",
        {"grad_weights": [(None, RAW, (8, 5))]},
        "inner: holds 5 elements, the call needs 6",
    ),
    "inner misaligned": ("weight_grad", {"grad_weights": [(None, RAW, (2, 6))]}, "inner: misaligned"),
}


@pytest.mark.parametrize("entry, changes, message", WRONG.values(), ids=WRONG)
def test_a_wrong_call_raises(entry, changes, message):
    call = Call()
    changes = dict(changes)
    if "role" in changes:
        changes["role"] = getattr(lib.Role, changes["role"])
    with pytest.raises(ValueError, match=message):
        call.run(entry, **changes)
    results = [call.out, call.grad_in, call.grad_bias, *call.grad_raw, *call.inner]
    assert all(result.isnan().all() for result in results), "refused, but something was written"


@pytest.mark.parametrize("arguments", [(0, 1, 1, 1, 0, 1), (4, 6, 5, 1, -1, 1), (4, 6, 5, 1, 2, 4), (4, 6, 0, 1, 2, 2)])
def test_a_wrong_convolution_raises(arguments):
    with pytest.raises(ValueError, match="Conv: "):
        lib.Conv(*arguments, 0.1)


@pytest.mark.parametrize(
    "arguments",
    [(2**31, 2**31, 4, 1, 1, 1), (1, 1, 2**62, 1, 2**62, 1), (1, 1, 1, 2, 2**63 - 1, 1), (1, 1, 1, 2**62, 0, 1)],
    ids=["channels", "taps and padding", "padding", "stride"],
)
def test_an_overflowing_convolution_raises(arguments):
    with pytest.raises(ValueError, match="Conv: too large"):
        lib.Conv(*arguments, 0.1)


def test_more_sets_than_can_be_raise():
    with pytest.raises(ValueError, match="sets: too large"):
        Call().run("forward", conv=lib.Conv(4, 6, 5, 10**12, 2, 2, 0.1), weights=[(RAW, SCALE)] * 50)


def test_wrong_types_raise():
    for changes in ({"x": "nothing"}, {"conv": None}, {"runs": None}, {"weights": None}, {"weights": [(8, 60)]}):
        with pytest.raises(TypeError):
            Call().run("forward", **changes)
    for changes in ({"map_grads": None}, {"slope": "steep"}):
        with pytest.raises(TypeError):
            Call().run("input_grad", **changes)
    with pytest.raises(TypeError):
        Call().run("weight_grad", grad_weights=[(None, None, None)])


def test_the_stem_has_an_input_gradient_of_its_own():
    """`input_grad` reads a waveform as rows of sequences, of which it has fewer."""
    with pytest.raises(ValueError, match="stem"):
        Call("stem", sizes=((0, 1, 1, 20),)).run("input_grad")
    with pytest.raises(ValueError, match="stem: expected one input channel"):
        Call("conv").run("stem_input_grad")


@pytest.mark.parametrize(
    "changes, message", [({"grad_waves": (8, 39)}, "grad_waves: holds 39 elements, the call needs 40")]
)
def test_a_wrong_stem_input_gradient_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        Call("stem").run("stem_input_grad", **changes)


def test_a_pad_as_long_as_the_waveform_raises():
    """Reflect padding mirrors what is there: 4 samples at period 9 would need 5 more."""
    for entry in ("forward", "stem_input_grad", "weight_grad"):
        with pytest.raises(ValueError, match="the reflect pad is not shorter"):
            Call("stem", sizes=((0, 1, 9, 4),)).run(entry)


def test_two_runs_of_one_waveform_must_agree_on_its_size():
    call = Call("stem", sizes=((0, 1, 1, 20), (0, 2, 1, 10)))
    with pytest.raises(ValueError, match="one waveform with two sizes"):
        call.run("stem_input_grad", runs=run_table([replace(run, in_offset=0) for run in call.runs]))


def test_other_entry_points_check_their_sizes():
    t = torch.zeros(4)
    with pytest.raises(ValueError, match="raw: holds 4 elements, the call needs 6"):
        lib.row_norms(span(t), 3, 2, span(t), 1)
    with pytest.raises(ValueError, match="norms: holds 1 elements, the call needs 2"):
        lib.row_norms(span(t), 2, 2, spans((8, 1)), 1)
    with pytest.raises(ValueError, match="row_norms: negative"):
        lib.row_norms(span(t), -1, 2, span(t), 1)
    with pytest.raises(ValueError, match="row_norms: too large"):
        lib.row_norms(span(t), 2**32, 2**32, span(t), 1)
    with pytest.raises(ValueError, match="maps: the two of a pair differ in size"):
        lib.feature_l1(lib.Dtype.float32, [(span(t), lib.Span(t.data_ptr(), 3, lib.Dtype.float32))], span(t), 1)
    with pytest.raises(ValueError, match="maps: null pointer"):
        lib.feature_l1(lib.Dtype.float32, [(span(t), spans((0, 4)))], span(t), 1)
    with pytest.raises(ValueError, match="means: holds 4 elements, the call needs 5"):
        lib.feature_l1(lib.Dtype.float32, [(span(t), span(t))] * 5, span(t), 1)
    with pytest.raises(ValueError, match="one gradient of each kind"):
        lib.feature_l1_grad(lib.Dtype.float32, [(span(t), span(t))], span(t), [], [None], 1)
    with pytest.raises(ValueError, match="grads_real: holds 3 elements, the call needs 4"):
        lib.feature_l1_grad(lib.Dtype.float32, [(span(t), span(t))], span(t), [spans((8, 3))], [None], 1)
    with pytest.raises(ValueError, match="prefer_huge_pages: negative size"):
        lib.prefer_huge_pages(8, -1)
    with pytest.raises(ValueError, match="threads: must be from 1 to 1024"):
        lib.peak(0)
    with pytest.raises(ValueError, match="instruction set vax: not on this machine"):
        lib.use_instruction_set("vax")


def test_feature_maps_of_negative_size_raise():
    t = torch.zeros(1)
    with pytest.raises(ValueError, match="maps: "):
        lib.feature_l1(lib.Dtype.float32, [spans(((8, -1), (8, -1)))], span(t), 1)
    with pytest.raises(ValueError, match="maps: "):
        lib.feature_l1_grad(lib.Dtype.float32, [spans(((8, -1), (8, -1)))], span(t), [None], [None], 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_an_element_type_without_kernels_raises(dtype):
    with pytest.raises(TypeError, match=f"dtype: expected one of torch.float32, torch.bfloat16, got {dtype}"):
        span(torch.zeros(3, dtype=dtype))

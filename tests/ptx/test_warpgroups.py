"""The window kernels by Hopper's `wgmma`, executed: right by the ratio rule, no bank conflicts, no spills; planted."""

import pytest
import torch

from hifigan_fast.backends.cuda import blocks, compiler, kernels
from hifigan_fast.geometry import Layer

from . import count_windows, windows
from .counters import Counters
from .parse import parse
from .test_windows import JUDGED, case_of, executed, judge

HALVES, WHAT = ("bfloat16", "float16"), ("forward", "input_grad", "matching", "weight_grad")
LAYERS = {
    "P4": Layer(128, 128, 5, 1, 2),
    "P3": Layer(128, 192, 5, 3, 2),
    "groups": Layer(256, 256, 3, 2, 1, 2),
    "one part": Layer(64, 128, 3, 1, 1),
    "one tap": Layer(64, 128, 1, 1, 0),
    "far apart": Layer(192, 136, 7, 5, 3),
}
# By warps: what has 64 columns or is summed over 136 channels; a weight gradient of one tap.
BY_WARPS = {"input_grad": {"one part", "one tap", "far apart"}, "weight_grad": {"one tap"}, "forward": set()}
BY_WARPS["matching"] = BY_WARPS["input_grad"]
OURS, WINDOW = "convolution_warpgroup.cuh", "convolution_window.cuh"


def assert_right(name, what, kind):
    session = executed(LAYERS[name], what, kind, 90)
    assert ("wgmma.mma_async" in session.texts[0]) == (name not in BY_WARPS[what])


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", ["P4", "P3"])
def test_executed(name, what, poisoned):
    assert_right(name, what, "bfloat16")


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, what, kind, poisoned):
    assert_right(name, what, kind)


@pytest.mark.parametrize(
    "what, name, kinds, file, right, wrong",
    [
        ("forward", "P4", {"unfenced"}, WINDOW, "if constexpr (ON_WAY) show_copies();", ""),
        ("forward", "P4", {"unfenced"}, OURS, "show_registers();\n#pragma", "\n#pragma"),
        ("forward", "P4", {"in flight"}, OURS, "wait_for_products<IN_FLIGHT - 1>();", ""),
        ("forward", "P4", {"in flight"}, OURS, "wait_for_products<IN_FLIGHT - 1>", "wait_for_products<IN_FLIGHT>"),
        ("forward", "P4", {"in flight"}, WINDOW, "STAGES - 1 - ON_WAY", "STAGES - 1"),
        ("forward", "P4", {"in flight"}, WINDOW, "wait_for_copies<AHEAD - 1>();", ""),
        ("forward", "P4", {"race"}, WINDOW, "__syncthreads();", ""),
        ("input_grad", "P3", {"in flight"}, OURS, "if (depth <= 0) return product.wait();", "if (depth <= 0) return;"),
        ("input_grad", "P4", set(), OURS, "    wait();\n    Base::template each", "    Base::template each"),
        ("forward", "P3", set(), OURS, "^ 16 * chunk", "+ 16 * chunk"),
        ("forward", "P4", set(), WINDOW, "swizzled<PITCH, WIDE>(16 * (row", "swizzled<1>(16 * (row"),
        ("input_grad", "P4", set(), WINDOW, "return swizzled<8>(16", "return swizzled<4>(16"),
        ("input_grad", "P4", set(), WINDOW, "description<128, 128 * ROWS, 1024>", "description<128, 1024, 128 * ROWS>"),
        ("forward", "P3", set(), WINDOW, "SPAN == 64 ? 2 : 3", "SPAN == 64 ? 1 : 3"),
        ("weight_grad", "P4", {"unfenced"}, WINDOW, "if constexpr (ON_WAY) show_copies();", ""),
        ("weight_grad", "P4", {"in flight"}, WINDOW, "STAGES - 1 - ON_WAY", "STAGES - 1"),
        (
            "weight_grad",
            "P3",
            set(),
            "convolution_weight_grad.cu",
            "first + chunk / 2 * CHUNKS + chunk % 2",
            "first + chunk",
        ),
    ],
)
def test_planted(what, name, kinds, file, right, wrong):
    """Reported by the machine, or seen in the result."""
    with windows.planted(file, right, wrong):
        session, judged = JUDGED[what](case_of(LAYERS[name], "bfloat16"), target=90)
    assert kinds <= session.faults.kinds()
    with pytest.raises(AssertionError):
        judge(session, judged, torch.float32 if what == "weight_grad" else torch.bfloat16)


@pytest.mark.parametrize("name, direction", [("P3", "forward"), ("P4", "input_grad"), ("P3", "weight_grad")])
def test_no_bank_conflicts(name, direction):
    counters = Counters()
    session = executed(LAYERS[name], direction, "bfloat16", 90, sequences=((1, 70), (3, 7)), counters=counters)
    shared, copied = counters.total(counters.shared), counters.total(counters.global_, "cp")
    assert shared.taken == shared.least > 0 and copied.taken == copied.least > 0
    instructions = counters.instructions(parse(session.texts[0]))
    assert instructions["ldmatrix"] == instructions["mma"] > 0  # of both kinds


def test_only_hopper_and_halves():
    for name, direction in [("P4", "forward"), ("P3", "input_grad"), ("P2", "weight_grad")]:
        for target, kind in [(80, "bfloat16"), (100, "bfloat16"), (120, "float16"), (90, "tf32"), (90, "float32")]:
            assert not blocks.blocks_of(direction, count_windows.LAYERS[name], kind, target).warpgroups
        for kind in HALVES:
            assert blocks.blocks_of(direction, count_windows.LAYERS[name], kind, 90).warpgroups


def test_code_is_of_this_device_only():
    case = case_of(LAYERS["P4"], "bfloat16", ((1, 7),))
    table, args = torch.empty(0, dtype=torch.int64), [case.x[0], case.weight, case.bias, case.grad[0]]
    args, entry = (*args, table, table, table, 0.1), windows.KERNELS.window_forward
    for target, ending in ((80, "sm_80-"), (90, "sm_90a-"), (100, "sm_100-")):
        _, constants = windows.found(case.layer, "forward", "bfloat16", target)
        what = kernels._as_asked(entry, *kernels.arguments(entry, args, constants), divmod(target, 10), "cubin")
        assert compiler.place(*what).name.startswith(f"convolution_forward-{ending}")


@pytest.mark.parametrize(
    "name, direction, kind",
    [
        ("P4", "forward", "bfloat16"),
        *(
            pytest.param(name, direction, kind, marks=pytest.mark.exhaustive)
            for name in ("P2", "P3", "P4")
            for direction in ("forward", "input_grad", "weight_grad")
            for kind in HALVES
        ),
    ],
)
def test_no_spills_and_no_waits_between(name, direction, kind):
    registers, stack = windows.registers(count_windows.LAYERS[name], direction, kind, 90)
    assert registers <= 255 and stack == 0

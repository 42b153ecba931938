"""Every configuration of the Triton backend compiles for devices that are not there, and fits them.

Every day for Hopper, in each kind of arithmetic; for all targets and dtypes where tests are exhaustive.
"""

import json
import os
import subprocess
import sys
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
from packaging.version import Version

from benchmarks.ahead import CUDA_TARGETS, DTYPES, TARGETS
from hifigan_fast.backends.cuda import blocks
from hifigan_fast.backends.triton import configs
from hifigan_fast.discriminators import MultiPeriodDiscriminator, stack_of

pytest.importorskip("triton", minversion="3.6", reason="Triton 3.6 compiles the kernels")

from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.gpu.weights import SPECTRAL_PROGRAMS

ROOT = Path(__file__).resolve().parent.parent
# KiB that one block may have; 8.6 and 8.9, which take sm_80's configurations, have less than 8.0's 163.
SHARED = {"sm_80": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}
MATRIX = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05", "sm_120": "mma.sync", "gfx942": "v_mfma"}
EARLY = Version(metadata.version("triton")) < Version("3.9")  # spills up to 40 bytes on sm_90 too
REGISTERS = 255  # of a thread, at most; AMD's vector registers of one wave: 512
CONVOLUTIONS = ("forward", "input_grad", "weight_grad")


# Arithmetic has three kinds: float16's configurations are bfloat16's.
EVERY_DAY = [("sm_90", "bfloat16"), ("sm_90", "tf32"), ("sm_90", "float32")]
OTHERS = [case for case in product(TARGETS, DTYPES) if case not in EVERY_DAY and case != ("gfx942", "tf32")]


def compiled(target, dtype, out, backend="triton"):
    """The launches of a step that meets every configuration."""
    command = [sys.executable, "-m", "benchmarks.ahead", "--target", target, "--dtype", dtype, "--out", out]
    command += ["--backend", backend]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())["launches"]


@pytest.mark.parametrize(
    "target, dtype", [*EVERY_DAY, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in OTHERS)]
)
def test_every_configuration(target, dtype, tmp_path):
    launches = compiled(target, dtype, tmp_path / "launches.json")
    for launch in launches:
        assert_fits(launch, target)
    if target.startswith("sm_"):
        assert_operands_come_by_many_elements_a_load(launches, dtype)
    assert_programs_that_wait_for_one_another_all_run_at_once(launches, target)
    if (target, dtype) == ("sm_90", "bfloat16"):
        assert_two_programs_of_a_dense_layer_fit_a_multiprocessor(launches)
    if dtype != "float32" or target == "gfx942":  # AMD has matrix units for float32
        assert_every_convolution_runs_on_matrix_units(launches, target, "tf32" if dtype == "tf32" else "half")


CUDA_EVERY_DAY = [("sm_80", "bfloat16")]
CUDA_CASES = [case for case in product(CUDA_TARGETS, DTYPES) if case not in CUDA_EVERY_DAY]
CUDA_OTHERS = [case for case in CUDA_CASES if case[0] != "sm_75" or case[1] in ("float32", "float16")]


@pytest.mark.parametrize(
    "target, dtype", [*CUDA_EVERY_DAY, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in CUDA_OTHERS)]
)
def test_every_cuda_kernel(target, dtype, tmp_path):
    pytest.importorskip("cuda.bindings", reason="NVRTC compiles the kernels")
    launches = compiled(target, dtype, tmp_path / "launches.json", "cuda")
    for launch in launches:
        what = f"{launch['kernel']}, {launch['layer_class']}"
        assert launch["spills"] == 0 and launch["registers"] <= REGISTERS, what
        assert launch["shared"] <= 1024 * blocks.SHARED[int(target[3:])], what
        if launch["kernel"].startswith("convolution"):
            assert str(launch["matrix"]) == cuda_matrix(target, dtype, launch), what
    found = [launch for launch in launches if launch["kernel"] == "iterate"]
    for launch in found:
        assert SPECTRAL_PROGRAMS * 32 * launch["warps"] * launch["registers"] <= 65536
    met = {launch["kernel"] for launch in launches}
    assert found and {f"convolution_{name}" for name in CONVOLUTIONS} < met and {"pack", "finish", "l1_means"} < met


def cuda_matrix(target, dtype, launch):
    """The instruction of the matrix units that a window kernel has."""
    if (target, launch["layer_class"]) == ("sm_90", "dense") and dtype in ("bfloat16", "float16"):
        return "wgmma.mma_async"
    return "None" if dtype == "float32" else "mma.sync"


def assert_fits(launch, target):
    what = f"{launch['kernel']}, {launch['layer_class']}"
    assert launch["shared"] <= 1024 * SHARED[target], what
    assert launch["registers"] <= (REGISTERS if target.startswith("sm_") else 512), what
    assert launch["spills"] <= (0 if target == "sm_90" and not EARLY else 64), what


def assert_operands_come_by_many_elements_a_load(launches, dtype):
    """Triton can lose sight of what lies side by side: it then loads element by element, and does not pipeline."""
    # Matrix units take float32 with the sum's dimension side by side: gradients' operands are turned as they come.
    kernels = CONVOLUTIONS if dtype in ("bfloat16", "float16") else ("forward",)
    for launch in launches:
        if launch["kernel"] in kernels and launch["layer_class"] in ("narrow", "grouped", "dense"):
            assert launch["singles"] <= 1, f"{launch['kernel']}, {launch['layer_class']}"  # matching's number


def assert_programs_that_wait_for_one_another_all_run_at_once(launches, target):
    found = [launch for launch in launches if launch["kernel"] == "iterate"]
    lanes, registers = (32, 65536) if target.startswith("sm_") else (64, 131072)
    for launch in found:
        assert launch["grid"] == [SPECTRAL_PROGRAMS * Absent.multiprocessors]
        assert SPECTRAL_PROGRAMS * launch["warps"] * lanes <= 1024
        assert SPECTRAL_PROGRAMS * launch["warps"] * lanes * launch["registers"] <= registers
        assert SPECTRAL_PROGRAMS * launch["shared"] <= 1024 * SHARED[target]
    assert len(found) == 4


def assert_two_programs_of_a_dense_layer_fit_a_multiprocessor(launches):
    """On Hopper, in bfloat16: one stores while the other multiplies. Forward one of wider blocks is faster."""
    found = [launch for launch in launches if launch["layer_class"] == "dense" and launch["kernel"] != "forward"]
    assert len(found) == 4
    for launch in found:
        assert 2 * 32 * launch["warps"] * launch["registers"] <= 65536, launch["kernel"]
        assert 2 * (launch["shared"] + 1024) <= 1024 * 228, launch["kernel"]


def assert_every_convolution_runs_on_matrix_units(launches, target, arithmetic):
    exact = {"stem", "head"} if arithmetic == "tf32" else set()
    found = [launch for launch in launches if launch["kernel"] in CONVOLUTIONS and launch["layer_class"] not in exact]
    for launch in found:
        turned = (target, arithmetic) == ("sm_90", "tf32") and launch["kernel"] != "forward"  # wgmma's would be stored
        expected = "mma.sync" if turned else MATRIX[target]
        assert str(launch["matrix"]).startswith(expected), f"{launch['kernel']}, {launch['layer_class']}"
    met = {(launch["kernel"], launch["layer_class"]) for launch in found}
    table = configs.table()[target]
    assert met == {(direction, name) for direction in table for name in table[direction][arithmetic]}


def test_the_table_names_every_class_for_every_generation():
    for generation, directions in configs.table().items():
        assert set(directions) == set(configs.DIRECTIONS), generation
        kinds = {"half", "tf32", "float32"} if generation.startswith("sm_") else {"half", "float32"}
        for direction, found in directions.items():
            expected = set(configs.CLASSES) - ({"stem"} if direction == "input_grad" else set())
            classes = dict.fromkeys(kinds, expected)
            if "tf32" in kinds:
                classes["tf32"] = expected - {"stem", "head"}
            assert {kind: set(of) for kind, of in found.items()} == classes, direction


@pytest.mark.parametrize(
    "capability, generation",
    [((8, 0), "sm_80"), ((8, 6), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90"), ((10, 0), "sm_100")]
    + [((10, 3), "sm_100"), ((12, 0), "sm_120"), ((13, 0), "sm_120"), ("gfx950", "gfx942"), (None, "interpreter")],
)
def test_a_device_takes_the_configurations_of_the_generation_before_it(capability, generation):
    assert configs.generation_of(capability) == generation


def test_the_model_counts_what_the_layers_cost(tmp_path):
    """MPD's forward pass: as many operations as its layers' definition has, and 7 launches."""
    out = tmp_path / "cost.json"
    command = [sys.executable, "-m", "benchmarks.static_cost", "--batch", "1", "--ensemble", "mpd", "--step", "forward"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([*command, "--out", out], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    launches = json.loads(out.read_text())["launches"]
    expected = 0
    for discriminator in MultiPeriodDiscriminator().discriminators:
        stack = stack_of(discriminator)
        rows = stack.rows(8192)[1:]
        expected += 2 * stack.period * sum(layer.flops(n) for layer, n in zip(stack.layers, rows))
    assert len(launches) == 7
    assert sum(launch["GFLOP"] for launch in launches) == pytest.approx(expected / 1e9)
    assert "not measured" in done.stdout

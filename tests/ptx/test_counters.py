"""What is counted of a launch, where it is known."""

import pytest
import torch
import triton
import triton.language as tl

from benchmarks import counters, static_cost
from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.triton import ahead

from .test_machine import BK, DEPTH, M, N, product

BLOCK, PROGRAMS = 128, 40


@triton.jit
def copied(x, out, STEP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at * STEP))


def counted(target, kernel, grid, args, **meta):
    with ahead.pretending(Absent(f"sm_{target}")):
        return counters.count(kernel, grid, args, meta)


@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_product(target, dtype):
    a, b, c, bias = (
        torch.zeros(M, DEPTH, dtype=dtype),
        torch.zeros(DEPTH, N, dtype=dtype),
        torch.zeros(M, N),
        torch.zeros(M),
    )
    sizes = {"M": M, "N": N, "BK": BK, "TURNED": False, "SUM": False}
    found = counted(target, product, (1,), (a, b, c, bias, DEPTH), **sizes)
    assert found.flops == 2 * M * N * DEPTH
    assert found.instructions["mma"] > 0
    # A wgmma reads both operands itself, each of its steps along the sum once.
    assert found.operands == (DEPTH * (M + N) * dtype.itemsize if target == 90 else 0)
    assert found.phases[0] >= found.phases[1] > 0


@pytest.mark.parametrize("step", [1, 2, 8])
def test_sectors(step):
    x, out = torch.zeros(step * PROGRAMS * BLOCK), torch.zeros(PROGRAMS * BLOCK)
    taken, least = counted(80, copied, (PROGRAMS,), (x, out), STEP=step, BLOCK=BLOCK).sectors
    assert least == 2 * 4 * PROGRAMS * BLOCK / 32 and taken == least / 2 * (1 + step)


def test_programs_are_of_the_whole_grid():
    assert counters.spread(1, 12) == [0] and counters.spread(4, 12) == [0, 1, 2, 3]
    assert counters.spread(100, 4) == [12, 37, 62, 87]


@pytest.mark.exhaustive
def test_the_model_of_a_forward_pass(capsys):
    assert static_cost.main(["--executed", "--batch", "1", "--ensemble", "mpd", "--step", "forward"]) == 0
    assert "Sum of the busiest parts" in capsys.readouterr().out


def test_a_device_whose_code_is_not_executed(capsys):
    assert static_cost.main(["--executed", "--device", "B200"]) == 2
    assert "--device" in capsys.readouterr().err

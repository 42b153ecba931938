"""Programs of one launch at one place of global memory are seen; and no instruction passes that is not known."""

import pytest
import torch
import triton
import triton.language as tl

from hifigan_fast import dispatch
from hifigan_fast.backends.gpu import losses

from .faults import Unsupported
from .launch import executing
from .test_machine import without

BLOCK = 128


@triton.jit
def doubled(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at))


@triton.jit
def passed_on(x, BLOCK: tl.constexpr):
    """x[program + 1] = x[program], of blocks: what programs read others write."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + BLOCK + at, tl.load(x + at))


def run(kernel, *args, edit=None, programs=5, target=80):
    with executing(target, edit) as session:
        session.launch(kernel, (programs,), args, {"BLOCK": BLOCK})
    return session


def test_programs_that_write_apart():
    x, out = torch.randn(5 * BLOCK), torch.empty(5 * BLOCK)
    assert not run(doubled, x, out).faults
    assert torch.equal(out, 2 * x)


@pytest.mark.parametrize("pattern, replacement", [(r"%ctaid\.x", "0"), (r"(shl\.b32\s+%r\d+, %r\d+, )7;", r"\1 6;")])
def test_programs_that_write_one_place(pattern, replacement):
    session = run(doubled, torch.randn(5 * BLOCK), torch.empty(5 * BLOCK), edit=without(pattern, replacement))
    assert session.faults.kinds() == {"two programs write"}


def test_a_program_that_reads_what_another_wrote():
    """Programs of one chunk run side by side: the next chunk's see it."""
    assert "unordered" in run(passed_on, torch.randn(201 * BLOCK), programs=200).faults.kinds()


def sums(edit=None, target=90):
    """A loss whose last program adds what all have left: (its session, whether it is right)."""
    random = torch.Generator().manual_seed(0)
    real, generated = ([torch.randn(3 * losses.MAP_CHUNK - 5, generator=random)] for _ in range(2))
    with executing(target, edit) as session:
        (found,) = dispatch.BACKENDS["triton"].feature_l1(real, generated)
    right = (real[0].double() - generated[0].double()).abs().mean()
    return session, bool((found - right).abs() < 1e-5)


@pytest.mark.parametrize(
    "edit",
    [
        without(r"\.acq_rel\.", ".relaxed."),
        without(r"\.acq_rel\.", ".acquire."),
        without(r"bar\.sync\s+0;"),
        without(r"(mov\.u32 (%r\d+), 0x0;\s+)@%p\d+ atom\.[^;]*;", r"\1 mov.u32 \2, 2;"),
    ],
    ids=["relaxed", "nothing released", "no barriers", "no atomics"],
)
def test_a_sum_of_programs_that_do_not_wait(edit, poisoned):
    session, right = sums()
    assert right and not session.faults, str(session.faults)
    session, _ = sums(edit)
    assert "unordered" in session.faults.kinds()


@pytest.mark.parametrize(
    "pattern, replacement",
    [
        (r"(add|mul)\.f32", r"\1.sat.f32"),
        (r"(add|mul)\.f32", r"\1.rz.f32"),
        (r"ld\.global", "ld.volatile.global"),
        (r"ret;", "trap;"),
    ],
)
def test_what_is_not_known_is_refused(pattern, replacement):
    x = torch.randn(5 * BLOCK)
    with pytest.raises(Unsupported):
        run(doubled, x, torch.empty(5 * BLOCK), edit=without(pattern, replacement))

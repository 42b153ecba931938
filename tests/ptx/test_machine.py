"""The machine against float64 by a tiny product; and that it sees faults that are planted."""

import re

import pytest
import torch
import triton
import triton.language as tl

from .launch import executing

M, N, BK, DEPTH = 64, 32, 32, 128


@triton.jit
def product(
    a, b, c, bias, K, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, TURNED: tl.constexpr, SUM: tl.constexpr
):
    m, n = tl.arange(0, M), tl.arange(0, N)
    sums, total = tl.zeros([M, N], tl.float32), tl.zeros([M], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        right = tl.load(b + k[:, None] * N + n[None, :])
        if TURNED:
            left = tl.load(a + k[:, None] * M + m[None, :])
            sums = tl.dot(tl.trans(left), right, sums)
        else:
            left = tl.load(a + m[:, None] * K + k[None, :])
            sums = tl.dot(left, right, sums)
        if SUM:
            total += tl.sum(left.to(tl.float32), 0 if TURNED else 1)
    tl.store(c + m[:, None] * N + n[None, :], sums)
    tl.store(bias + m, total)


def multiplied(target, dtype=torch.float16, turned=False, summed=False, edit=None, rows=M):
    """(the session, the product, what it should be); c has too few rows where `rows` is less than M."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=random).to(dtype) for shape in ((M, DEPTH), (DEPTH, N)))
    c, bias = torch.full((rows, N), float("nan")), torch.empty(M)
    given = a.t().contiguous() if turned else a
    with executing(target, edit) as session:
        meta = {"M": M, "N": N, "BK": BK, "TURNED": turned, "SUM": summed, "num_stages": 3}
        session.launch(product, (1,), (given, b, c, bias, DEPTH), meta)
    return session, c, a.double() @ b.double()


@pytest.mark.parametrize("target, instruction", [(80, "mma.sync"), (90, "wgmma.mma_async")])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_product(target, instruction, turned, dtype):
    session, found, right = multiplied(target, dtype, turned)
    assert not session.faults, str(session.faults)
    assert instruction in session.texts[0] and "cp.async.wait_group" in session.texts[0]
    torch.testing.assert_close(found.double(), right, atol=0.05 if dtype == torch.float32 else 1e-4, rtol=0)


def test_an_operand_that_registers_read_too_is_overwritten():
    """Triton's own fault, 3.6 and 3.9: one buffer, whose next copy begins while the product may still read it."""
    session, found, right = multiplied(90, turned=True, summed=True)
    wrong = not torch.allclose(found.double(), right, atol=1e-4)
    assert wrong == ("in flight" in session.faults.kinds())
    if triton.__version__.startswith(("3.6", "3.9")):
        assert wrong


def without(pattern, replacement=""):
    def edit(text):
        changed, count = re.subn(pattern, replacement, text)
        assert count
        return changed

    return edit


@pytest.mark.parametrize(
    "what, kind, target, edit",
    [
        ("no barriers", "race", 80, without(r"bar\.sync\s+0;")),
        ("no waits for copies", "in flight", 80, without(r"cp\.async\.wait_group\s+\d+;")),
        ("too few copies waited for", "in flight", 80, without(r"(cp\.async\.wait_group\s+)\d+;", r"\1 7;")),
        ("no copies", "uninitialised", 80, without(r"cp\.async\.c[ag]\.shared\.global [^;]*;")),
        ("no fences", "unfenced", 90, without(r"fence\.proxy\.async[^;]*;")),
        ("shifted pointers", "out of bounds", 80, without(r"(st\.global[^\[]*\[ *%rd\d+ *\+ *)\d+", r"\g<1>65536")),
        ("crooked pointers", "misaligned", 90, without(r"(st\.global\.v\d[^\[]*\[ *%rd\d+ *\+ *)\d+", r"\g<1>4")),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_planted(what, kind, target, edit):
    session, *_ = multiplied(target, edit=edit)
    assert kind in session.faults.kinds()


def test_a_wgmma_that_is_not_waited_for():
    session, found, right = multiplied(90, edit=without(r"(wgmma\.wait_group\.sync\.aligned\s+)\d+", r"\1 7"))
    assert (found - right).abs().max() > 1  # nothing was ever done


def test_a_result_beyond_its_tensor():
    session, *_ = multiplied(80, rows=M - 1)
    assert session.faults.kinds() == {"out of bounds"}
    assert "behind the start of c" in str(session.faults)


@triton.jit
def added(a, b, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at) + tl.load(b + at))


def test_a_nan_has_no_payload():
    """Lanes that add the same numbers in another order have the same bits."""
    a, b, out = (torch.zeros(128, dtype=torch.float32, device="cpu") for _ in range(3))
    a.view(torch.int32)[:], b.view(torch.int32)[:] = 0x7FC00001, 0x7FC00002
    with executing(80) as session:
        session.launch(added, (1,), (a, b, out), {"BLOCK": 128})
    assert not session.faults and (out.view(torch.int32) == 0x7FFFFFFF).all()

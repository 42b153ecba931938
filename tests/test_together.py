"""Programs of one grid that wait for one another, all running at once: each in a process, in Triton's interpreter."""

import multiprocessing
import os
import time

import pytest
import torch

from benchmarks.ahead import tensors
from hifigan_fast import dispatch
from hifigan_fast.backends.gpu import counters, devices, losses, weights

BACKEND = dispatch.BACKENDS["triton"]
REASON = BACKEND.cannot_run(torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
SECONDS = 1200  # ends programs that wait for ever, on the slowest machine too


def run_program(program, grid, kernel, args, meta):
    """One program of the grid, as the interpreter would run it in turn."""
    from triton.runtime import interpreter

    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    set_dim, set_index = builder.set_grid_dim, builder.set_grid_idx
    builder.set_grid_dim = lambda *one: set_dim(*grid, *[1] * (3 - len(grid)))
    builder.set_grid_idx = lambda *first: set_index(program, 0, 0)
    executor._restore_args_dev = lambda *unused: None  # they are where they were, and others still write there
    kernel[(1,)](*args, **meta)
    os._exit(0)


def launch_at_once(device, kernel, grid, *args, **meta):
    for tensor in tensors(args):
        tensor.share_memory_()
    context = multiprocessing.get_context("fork")
    programs = [context.Process(target=run_program, args=(i, grid, kernel, args, meta)) for i in range(grid[0])]
    for program in programs:
        program.start()
    until = time.monotonic() + SECONDS
    for program in programs:
        program.join(max(0, until - time.monotonic()))
    ended = [program.exitcode for program in programs]
    for program in programs:
        program.kill()
    assert ended == [0] * grid[0], f"exit codes, None for those that wait: {ended}"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(BACKEND.kernels, "launch", launch_at_once)
    monkeypatch.setattr(devices, "multiprocessors", lambda device: 2)
    kept = torch.zeros(9, dtype=torch.int32)
    for module in (losses, weights):
        monkeypatch.setattr(module, "counters", lambda device, count: kept)
    yield monkeypatch
    assert not kept[1:].any(), "the next launch would wait for fewer"


def iterated(backend, dtype, iterations, calls):
    random = torch.Generator().manual_seed(0)
    shapes = [(1, 7), (300, 1100), (64, 2500)]
    matrices = [tuple(torch.randn(n, generator=random).to(dtype) for n in (s, s[0], s[1])) for s in shapes]
    found = backend.power_iterations(matrices, 1e-12, iterations, calls)
    return [t.double() for t in (*found, *(vector for _, *own in matrices for vector in own))]


@pytest.mark.parametrize("iterations, calls", [(0, 1), (1, 2), (3, 2)])
def test_power_iterations(iterations, calls, at_once, poisoned):
    expected = iterated(dispatch.BACKENDS["reference"], torch.float64, iterations, calls)
    for _ in range(2):  # the second with the counters that the first has left
        for found, right in zip(iterated(BACKEND, torch.float32, iterations, calls), expected):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


def test_feature_l1(at_once, poisoned):
    """The last program of a pair, whichever it is, finds the sums of all."""
    at_once.setattr(losses, "MAP_CHUNK", 1024)
    random = torch.Generator().manual_seed(0)
    real, generated = ([torch.randn(n, generator=random) for n in (1, 1024, 3000, 5)] for _ in range(2))
    expected = torch.stack([(r - g).double().abs().mean() for r, g in zip(real, generated)])
    for _ in range(2):
        torch.testing.assert_close(BACKEND.feature_l1(real, generated).double(), expected, rtol=1e-6, atol=0)


def test_the_counters_of_every_stream_are_aligned():
    """Triton compiles for the alignment of a pointer: another stream shall not compile anew, perhaps in a capture."""
    rows, _ = counters._kept(torch.device("cpu"))
    assert len(rows) == counters.STREAMS and all(row.data_ptr() % 16 == 0 for row in rows)


def test_programs_that_do_not_wait_are_noticed(at_once, poisoned):
    from hifigan_fast.backends.triton import together

    at_once.setattr(together, "meet", lambda counters: None)
    with pytest.raises(AssertionError, match="not close"):
        test_power_iterations(1, 2, at_once, poisoned)

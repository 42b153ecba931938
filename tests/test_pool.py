"""The pool of large buffers: reuse only of what nothing uses, at sizes that fit."""

import gc
import threading

import pytest
import torch

from hifigan_fast import MultiScaleDiscriminator
from hifigan_fast.backends import memory
from hifigan_fast.dispatch import BACKENDS

from .needs import needs_extension

COUNT = memory.LEAST  # floats: four times the least that is kept


@pytest.fixture
def pool():
    prepared = []
    pool = memory.Pool(lambda address, size: prepared.append((address, size)))
    pool.prepared = prepared
    return pool


def test_a_freed_buffer_is_taken_again(pool):
    first = pool.empty(COUNT, torch.float32)
    address = first.data_ptr()
    del first
    again = pool.empty(COUNT - 5, torch.float32)
    assert again.data_ptr() == address
    assert again.shape == (COUNT - 5,)
    assert again.is_contiguous()
    assert pool.prepared == [(address, 4 * COUNT)]


@pytest.mark.parametrize(
    "keep",
    [
        lambda t: t[5:7],
        lambda t: t.view(-1, 4).t()[1],
        lambda t: t.detach(),
        lambda t: t.untyped_storage(),
        lambda t: t.numpy(),
        lambda t: t.view(torch.bfloat16)[:1],
    ],
    ids=["slice", "transpose", "detached", "storage", "numpy", "other dtype"],
)
def test_a_buffer_in_use_is_not(pool, keep):
    first = pool.empty(COUNT, torch.float32)
    address, kept = first.data_ptr(), keep(first)
    del first
    gc.collect()
    assert pool.empty(COUNT, torch.float32).data_ptr() != address
    del kept
    gc.collect()
    assert pool.empty(COUNT, torch.float32).data_ptr() in {address, pool.prepared[-1][0]}
    assert len(pool.prepared) == 2


def test_what_autograd_saved_is_in_use(pool):
    x = pool.empty(COUNT, torch.float32).fill_(2)
    y = (x.requires_grad_() ** 2).sum()
    address = x.data_ptr()
    del x
    other = pool.empty(COUNT, torch.float32)
    assert other.data_ptr() != address
    y.backward()


@pytest.mark.parametrize("count", [COUNT + 1, int(COUNT / memory.SLACK) - 1])
def test_a_buffer_of_another_size_is_not_taken(pool, count):
    address = pool.empty(COUNT, torch.float32).data_ptr()
    assert pool.empty(count, torch.float32).data_ptr() != address


def test_the_tightest_buffer_is_taken(pool):
    counts = [int(COUNT * by) for by in (1.2, 1.0, 1.1)]
    held = [pool.empty(count, torch.float32) for count in counts]
    addresses = [t.data_ptr() for t in held]
    held.clear()
    assert pool.empty(COUNT, torch.float32).data_ptr() == addresses[1]


def test_small_buffers_are_malloc_s(pool):
    assert pool.empty(memory.LEAST // 4 - 1, torch.float32).shape == (memory.LEAST // 4 - 1,)
    assert pool.empty(0, torch.float32).shape == (0,)
    assert not pool.prepared


def test_elements_of_any_type(pool):
    for dtype in (torch.bfloat16, torch.float32):
        tensor = pool.empty(COUNT + 3, dtype)
        assert (tensor.dtype, tensor.shape) == (dtype, (COUNT + 3,))
        assert tensor.data_ptr() % 64 == 0  # vectors do not straddle lines of the cache
        assert not tensor._is_view()


def test_what_is_no_longer_asked_for_is_given_back(pool):
    pool.empty(COUNT, torch.float32)
    for _ in range(memory.PATIENCE + 1):
        pool.empty(2 * COUNT, torch.float32)
    assert len(pool.prepared) == 2
    pool.empty(COUNT, torch.float32)
    assert len(pool.prepared) == 3


def test_two_threads_never_get_the_same(pool):
    clashes = []

    def work(mark):
        for _ in range(200):
            tensor = pool.empty(COUNT, torch.float32)
            tensor[:8] = mark
            if not (tensor[:8] == mark).all():
                clashes.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert len(pool._blocks) <= 8  # a thread asks for the next before it drops the last


@needs_extension
def test_a_step_takes_no_fresh_memory_after_the_first():
    net = MultiScaleDiscriminator()
    real, generated = torch.randn(2, 1, 1, 8192)
    fresh = []
    for _ in range(3):
        net.zero_grad()
        before = len(BACKENDS["cpu"]._memory._blocks)
        logits, _, _, _ = net(real, generated)
        sum(x.square().mean() for x in logits).backward()
        del logits
        fresh.append(len(BACKENDS["cpu"]._memory._blocks) - before)
    assert fresh[2] <= 0

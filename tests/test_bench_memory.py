"""hifigan-fast bench: peak memory, a step's in a process of its own, and what a machine has room for."""

import functools
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import time

import pytest
import torch
import tqdm

from hifigan_fast import dispatch
from hifigan_fast.bench import memory
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not memory.CLEAR.exists(), reason="Linux's account of memory")


@linux
def test_memory_is_what_is_held_above_what_was_there():
    def touch(mebibytes):
        pages = mebibytes * 2**20 // mmap.PAGESIZE
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as fresh:  # an allocator might have such memory
            fresh[:: mmap.PAGESIZE] = pages * b"1"

    before = memory.resident_mib()
    for mebibytes in (128, 32):  # the peak of the first is not the second's
        assert memory._peak(functools.partial(touch, mebibytes), before) == pytest.approx(mebibytes, abs=4)


@linux
def test_what_is_kept_for_another_step_is_let_go():
    backend = dispatch.BACKENDS["cpu"]
    if backend.cannot_run(CPU, torch.float32):
        pytest.skip(backend.cannot_run(CPU, torch.float32))
    backend.empty(2**24, torch.float32, "cpu").fill_(1)  # 64 MiB, which nobody holds
    before = memory.resident_mib()
    memory.let_go()
    assert memory.resident_mib() < before - 60


@linux
def test_rows_are_given_their_memory(monkeypatch):
    asked = []

    def fresh(function, workload, way, steps, *shape):
        asked.append((function.__name__, way, steps))
        if way == "frozen":
            raise RuntimeError("A process in the process pool was terminated abruptly")
        return {step: 100.0 for step in steps}

    monkeypatch.setattr(memory, "in_fresh_process", fresh)
    where = itertools.product(("mpd", "both"), (ORIGINAL, "frozen"), (DISCRIMINATOR, GENERATOR, "training step V1"))
    rows = [{"ensemble": ensemble, "step": step, "way": way, "ms": 1.0} for ensemble, way, step in where]
    rows.append({"ensemble": "both", "step": DISCRIMINATOR, "way": "compile", "error": "no"})
    memory.measure(rows, "hifigan", 1, 1024, tqdm.tqdm(disable=True))
    assert asked == [
        *(("halves", ORIGINAL, [DISCRIMINATOR, GENERATOR]), ("training", ORIGINAL, ["training step V1"])),
        *(("halves", "frozen", [DISCRIMINATOR, GENERATOR]), ("training", "frozen", ["training step V1"])),
    ]
    found = {(row["ensemble"], row["way"]): row.get("peak_mib", "no") for row in rows}
    assert found == {("mpd", ORIGINAL): "no", ("mpd", "frozen"): "no", ("both", ORIGINAL): 100.0} | {
        ("both", "frozen"): None,
        ("both", "compile"): "no",
    }


def test_a_process_that_dies_is_told():
    assert memory.in_fresh_process(math.hypot, 3, 4) == 5
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        memory.in_fresh_process(os._exit, 9)
    with pytest.raises(ValueError, match="math domain error|nonnegative"):
        memory.in_fresh_process(math.sqrt, -1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer of signals here")
def test_an_interrupt_ends_the_process_that_is_waited_for():
    """Not after it: it may take minutes."""

    def interrupted(*_):
        raise KeyboardInterrupt

    before, begun = signal.signal(signal.SIGALRM, interrupted), time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            memory.in_fresh_process(time.sleep, 20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 15 and not multiprocessing.active_children()


@pytest.mark.parametrize("limit, room", [("max", True), ("1048576", False)])
def test_a_containers_memory_is_all_there_is(tmp_path, monkeypatch, limit, room):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(memory, "resident_mib", lambda what: 2.0)
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert memory.room_for(1) is room


@linux
def test_room_is_of_the_machines_memory():
    held = memory.begin_peak()
    assert memory.room_for(1) and not memory.room_for(1e6)
    assert held > 0 and memory.room_for(1e6, memory.resident_mib("VmHWM"))  # what was held before does not grow

"""What a step holds at most, above the networks that it is done with.

On a CPU it is the process's resident memory by Linux's account, each way in a process of its own, since allocators keep
what they had; on a CUDA device PyTorch's account.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import signal
from pathlib import Path

import torch

from .. import dispatch, parity
from ..backends.memory import LEAST, PATIENCE
from .steps import TRAINING, WAYS
from .workloads import WORKLOADS, modules_of

CALLS = 2  # of a step: what the first keeps for the next counts
ROOM = 0.8  # of the machine's memory
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# A container's, by either version of control groups: in bytes, or no number where there is none.
LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def resident_mib(what="VmRSS"):
    """MiB that this process holds now, or by "VmHWM" has held at most, by Linux's account."""
    return int(re.search(rf"{what}:\s+(\d+)", STATUS.read_text())[1]) / 1024


def begin_peak():
    """Let "VmHWM" begin anew -> MiB that it begins at; OSError where the system has no such thing."""
    CLEAR.write_text("5")
    return resident_mib()


def _whole_mib():
    """MiB that this process may hold at most: the machine's, or its container's."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(limit.read_text()))
    return min(sizes) / 2**20


def room_for(times, held=0.0):
    """Whether this machine holds `times` what the process has taken at most above `held` MiB since `begin_peak`, beside
    those; True where nothing tells.
    """
    try:
        return held + times * (resident_mib("VmHWM") - held) < ROOM * _whole_mib()
    except (AttributeError, OSError, ValueError):
        return True


def _send(sender, function, args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is its parent's, which ends it
    try:
        sender.send((function(*args), None))
    except Exception as error:
        sender.send((None, error))


def in_fresh_process(function, *args):
    """What `function(*args)` returns, or raises, in a process of its own; RuntimeError where that ends before it does.
    It is ended where this one is interrupted.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, args), daemon=True)  # does not outlive this one
    with receiver:
        with sender:  # then the process's own end alone is open, and closed with it
            process.start()
        try:
            found, error = receiver.recv()
        except EOFError:
            raise RuntimeError("the process was terminated abruptly") from None
        except BaseException:
            process.kill()
            raise
        finally:
            process.join()
    if error is not None:
        raise error
    return found


def _peak(call, before):
    """MiB above `before` while `call` runs, on a CPU."""
    begin_peak()
    for _ in range(CALLS):
        call()
    return resident_mib("VmHWM") - before


def let_go():
    """Give back what was left with allocators, and modules that nobody has: a step would take it, and seem to need
    nothing.
    """
    gc.collect()  # legacy norms' hooks make cycles of a module
    backend = dispatch.BACKENDS["cpu"]
    if backend.cannot_run(torch.device("cpu"), torch.float32) is None:
        for _ in range(PATIENCE + 1):  # requests, after which it keeps no buffer that none has taken
            backend.empty(LEAST // 4, torch.float32, "cpu")
    with contextlib.suppress(AttributeError, OSError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)


def halves(workload, way, steps, batch, length, threads):
    """{step: MiB} of a workload's last ensemble by the way of this name, on the CPU."""
    torch.set_num_threads(threads)
    chosen, how, waves = WORKLOADS[workload], WAYS[way], parity.waveforms(batch, length)
    modules = modules_of(chosen, {way: how}, torch.device("cpu"))[way][chosen.ensembles[-1]]
    found = {}
    for step in steps:
        for module in modules:
            module.zero_grad(set_to_none=True)  # the last step's
        let_go()
        found[step] = _peak(how.call(step, modules, *waves), resident_mib())
    return found


def training(_, way, steps, batch, length, threads):
    """{step: MiB} of one whole training step on the CPU, gradients and the optimizers' states with it."""
    from . import training

    torch.set_num_threads(threads)
    (step,), y = steps, parity.waveforms(batch, length)[0].squeeze(1)
    run = training.Step(training.config_of(step, batch, length), WAYS[way], y)
    let_go()
    return {step: _peak(run, resident_mib())}


def allocated_mib(call):
    """MiB that a call allocates at most above what is allocated before it, by PyTorch's account of the CUDA device."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(rows, workload, batch, length, bar):
    """Give the rows of a workload's last ensemble that were timed on this CPU their `peak_mib`; None where the system
    does not tell, or the process ended.
    """
    last = WORKLOADS[workload].ensembles[-1]
    timed = [row for row in rows if row["ensemble"] == last and "ms" in row]
    jobs = {}
    for row in timed:
        whole = row["step"] in TRAINING
        jobs.setdefault((row["way"], row["step"] if whole else None), []).append(row["step"])
    for (way, whole), steps in jobs.items():
        bar.set_description(f"memory, {way}")
        how = workload, way, steps, batch, length, torch.get_num_threads()
        try:
            found = in_fresh_process(training if whole else halves, *how)
        except (OSError, RuntimeError):  # no such account here, or no memory for it
            found = {}
        for row in timed:
            if row["way"] == way and row["step"] in steps:
                row["peak_mib"] = found.get(row["step"])
        bar.update(0)

"""Kernels compiled before they are launched: those of a pass side by side, also for a device that is not there.

A step of both ensembles needs 69 kernels, about half a second each. Threads compile them: Triton leaves Python but for
a tenth of the time.
"""

import contextlib
import contextvars
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ..gpu.devices import standing_for
from ..gpu.kernels import instead, instead_of_launching

PATIENCE = 2.0  # seconds until it is said what takes so long

_whole = contextvars.ContextVar("hifigan_fast_triton_whole", default=False)


def interpreting():
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _target(device):
    """An `Absent` device as Triton's compiler takes it."""
    from triton.backends.compiler import GPUTarget

    amd = device.name.startswith("gfx")
    return GPUTarget("hip", device.name, 64) if amd else GPUTarget("cuda", int(device.name[3:]), 32)


class Driver:
    """Stands for Triton's driver of a device that is not there."""

    def __init__(self, target):
        self._target = target

    def get_current_target(self):
        return self._target

    def get_current_device(self):
        return self._target.arch  # kernels are kept by device: not one target's for another

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


@contextlib.contextmanager
def pretending(device):
    """Within the block the Triton backend takes CPU tensors for those of `device`: all may be done but launch.

    The whole process's Triton takes it for the device: not where kernels run meanwhile.
    """
    if interpreting():
        raise ValueError("TRITON_INTERPRET: got 1, expected it unset: kernels are compiled, not interpreted")
    from triton.runtime import driver

    driver.set_active(Driver(_target(device)))
    try:
        with standing_for(device):
            yield
    finally:
        with contextlib.suppress(RuntimeError):  # no device at all
            driver.reset_active()


def compile_only(kernel, grid, args, meta):
    """The kernel that a launch would run, or will have been when an `AsyncCompileMode` ends."""
    return kernel.warmup(*args, grid=grid, **meta)


class _Compilers(ThreadPoolExecutor):
    """Threads, one a core that this process may use, and all that they were asked for."""

    def __init__(self):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes of one training run on this machine
        super().__init__(max(1, cores // local))
        self.asked = []

    def submit(self, *work):
        self.asked.append(super().submit(*work))
        return self.asked[-1]

    def tell(self, over):
        """Say how far they are, from time to time until it is `over`: on a terminal, else once."""
        while not over.wait(PATIENCE):
            done, terminal = sum(future.done() for future in self.asked), sys.stderr.isatty()
            print(
                f"hifigan_fast: compiling kernels, {done} of {len(self.asked)}; they are kept for the next time",
                file=sys.stderr,
                end="\r" if terminal else "\n",
                flush=True,
            )
            if not terminal:
                return


@contextlib.contextmanager
def side_by_side():
    """Within the block nothing is launched, and all that would be is compiled, by the time that it ends.

    Yields a list of futures of the compilations: of those that failed `result()` says why.
    """
    from triton import AsyncCompileMode

    with _Compilers() as compilers:
        over = threading.Event()
        threading.Thread(target=compilers.tell, args=[over], daemon=True).start()
        try:
            with AsyncCompileMode(compilers, ignore_errors=True), instead_of_launching(compile_only):
                yield compilers.asked
        finally:
            over.set()


class _NotCompiled(Exception):
    """A launch within `whole` that Triton has no kernel for yet."""


def watch():
    """Have Triton ask before it compiles: within `whole` nothing is."""
    from triton import knobs

    before = knobs.runtime.jit_cache_hook

    def ask(*args, **what):
        if _whole.get():
            raise _NotCompiled
        return before(*args, **what) if before else None

    knobs.runtime.jit_cache_hook = ask


def whole(run):
    """What `run()` returns, which may be begun again: where Triton has no kernel for a launch yet, all that `run`
    would launch are compiled first, side by side."""
    if instead() is not None:
        return run()
    token = _whole.set(True)
    try:
        return run()
    except _NotCompiled:
        pass
    finally:
        _whole.reset(token)
    with side_by_side():
        run()
    return run()

"""Kernels compiled before they are launched: those of a pass side by side, also for a device that is not there.

Of a pass that CUDA C++ kernels have a part in (`others`) theirs too.

A step of both ensembles needs 69 kernels, about half a second each. Threads compile them: Triton leaves Python but for
a tenth of the time.
"""

import contextlib
import os

import torch

from ..cuda.kernel import Kernel
from ..cuda.kernels import compiled_by
from ..gpu import compilers
from ..gpu.devices import standing_for
from ..gpu.kernels import instead_of_launching


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


@contextlib.contextmanager
def side_by_side():
    """Within the block nothing is launched, and all that would be is compiled, by the time that it ends.

    Yields a list of futures of the compilations: of those that failed `result()` says why.
    """
    from triton import AsyncCompileMode

    with compilers.Compilers() as threads, threads.telling(), AsyncCompileMode(threads, ignore_errors=True):
        by_nvrtc = compiled_by(threads)

        def compile_either(kernel, *launch):
            (by_nvrtc if isinstance(kernel, Kernel) else compile_only)(kernel, *launch)

        with instead_of_launching(compile_either):
            yield threads.asked


def watch():
    """Have Triton ask before it compiles: within `whole` nothing is."""
    from triton import knobs

    before = knobs.runtime.jit_cache_hook

    def ask(*args, **what):
        compilers.ask()
        return before(*args, **what) if before else None

    knobs.runtime.jit_cache_hook = ask


def whole(run):
    """What `run()` returns, which may be begun again: see `compilers.whole`."""
    return compilers.whole(run, side_by_side)

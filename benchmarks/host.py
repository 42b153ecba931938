"""What a training step costs on the host of a GPU, where there is none: launches of a backend against a stub driver.

python -m benchmarks.host --backend cuda

CPU tensors pass as the device's, and nothing is computed. Both ensembles, under autocast to bfloat16. Needs gcc; the
first run compiles the kernels, later ones find them in Triton's cache.
"""

import collections
import contextlib
import ctypes
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from tabulate import tabulate

import hifigan_fast
from hifigan_fast import dispatch
from hifigan_fast.bench import machine
from hifigan_fast.bench.workloads import ENSEMBLES, build

from . import report

CAPABILITY, MULTIPROCESSORS = (9, 0), 132  # an H200's
WARM_UP = 3
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt


@functools.lru_cache(maxsize=1)
def stub_driver():
    """The stub as a library, which Triton then takes for the driver's."""
    import triton

    folder = tempfile.TemporaryDirectory(prefix="stub-driver-")
    include = Path(triton.__file__).parent / "backends/nvidia/include"
    source, library = Path(__file__).with_name("stub_driver.c"), Path(folder.name) / "libcuda.so.1"
    options = ["-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-I", include]
    subprocess.run(["gcc", *options, source, "-o", library], check=True)
    os.environ["TRITON_LIBCUDA_PATH"] = folder.name
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    loaded.folder = folder  # as long as the process
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    class Stub(CudaDriver):
        def __init__(self):
            super().__init__()
            self.get_current_stream = lambda device: 0
            self.get_current_device = lambda: 0
            self.get_device_capability = lambda device=None: CAPABILITY

        def get_active_torch_device(self):
            return torch.device("cpu")

    loaded.active = Stub()
    driver.set_active(loaded.active)
    return loaded


def reuse_memory():
    """Have malloc keep what is freed, as PyTorch's allocator of a device does: no system call for a buffer."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def as_a_device(backend="triton"):
    """Within the block CPU tensors run on a backend as an H200's would, in bfloat16 autocast.

    Triton's compiles; of CUDA's kernels the stub takes anything for code.
    """
    from triton.runtime import driver

    driver.set_active(stub_driver().active)  # who pretends a device has another one, and takes it away
    from hifigan_fast.backends.cuda import kernels
    from hifigan_fast.backends.gpu import devices

    with (
        mock.patch.object(kernels, "compiled", lambda *_: b""),
        mock.patch.object(devices, "capability", lambda device: CAPABILITY),
        mock.patch.object(devices, "tf32", lambda device: False),
        mock.patch.object(devices, "multiprocessors", lambda device: MULTIPROCESSORS),
        mock.patch.object(type(dispatch.BACKENDS[backend]), "cannot_run", lambda self, device, dtype: None),
        dispatch.use_backend(backend),
        torch.autocast("cpu", torch.bfloat16),
    ):
        yield


class Steps:
    """The halves of a training step by parts, each a generator that yields the name of the part behind it."""

    def __init__(self):
        self.modules = build(ENSEMBLES["both"], plain=False)
        self.optimizer = torch.optim.SGD([p for module in self.modules for p in module.parameters()])
        self.y, self.y_hat = (torch.randn(1, 1, report.SEGMENT, dtype=torch.float32, device="cpu") for _ in range(2))

    def discriminator(self):
        self.optimizer.zero_grad()
        yield "zero_grad"
        found = [module(self.y, self.y_hat) for module in self.modules]
        yield "forward"
        loss = sum(hifigan_fast.discriminator_loss(real, fake)[0] for real, fake, _, _ in found)
        yield "losses"
        loss.backward()
        yield "backward"

    def generator(self):
        y_hat = self.y_hat.detach().requires_grad_()
        with hifigan_fast.frozen(*self.modules):
            yield "freeze"
            found = [module(self.y, y_hat) for module in self.modules]
            yield "forward"
            loss = 0
            for _, fake, real_maps, fake_maps in found:
                loss = loss + hifigan_fast.generator_loss(fake)[0] + hifigan_fast.feature_loss(real_maps, fake_maps)
            yield "losses"
            loss.backward()
            yield "backward"
        yield "freeze"

    def discriminator_by_step_losses(self):
        self.optimizer.zero_grad()
        yield "zero_grad"
        loss = hifigan_fast.discriminator_step_loss(self.modules, self.y, self.y_hat).adversarial
        yield "forward"
        loss.backward()
        yield "backward"

    def generator_by_step_losses(self):
        y_hat = self.y_hat.detach().requires_grad_()
        with hifigan_fast.frozen(*self.modules):
            yield "freeze"
            found = hifigan_fast.generator_step_loss(self.modules, self.y, y_hat)
            yield "forward"
            (found.adversarial + found.features).backward()
            yield "backward"
        yield "freeze"


HALVES = ("discriminator", "generator", "discriminator_by_step_losses", "generator_by_step_losses")
PYTHON = ("call", "c_call")


class Part(NamedTuple):
    """One part of a half: launches, PyTorch's operators, Python's calls (functions of Python and of C), CPU time."""

    launches: int
    operators: int
    calls: int
    microseconds: float


def by_part(half, meter):
    """{part: what `meter()` has grown by in it}, of one run."""
    found, before = collections.Counter(), meter()
    for part in half():
        after = meter()
        found[part] += after - before
        before = meter()
    return found


def operators_by_part(half):
    found, parts = collections.Counter(), half()
    while True:
        with torch.autograd.profiler.profile() as profile:
            part = next(parts, None)
        if part is None:
            return found
        found[part] += len(profile.function_events)


def calls_by_part(half):
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in PYTHON

    sys.setprofile(count)
    try:
        return by_part(half, lambda: made)
    finally:
        sys.setprofile(None)


def measured(half, repeats):
    """{part: `Part`}; the median of CPU time."""
    driver = ctypes.c_long.in_dll(stub_driver(), "launches")
    for _ in range(WARM_UP):
        collections.deque(half(), maxlen=0)
    launches = by_part(half, lambda: driver.value)
    operators, calls = operators_by_part(half), calls_by_part(half)
    taken = [by_part(half, lambda: time.thread_time_ns()) for _ in range(repeats)]
    return {
        part: Part(launches[part], operators[part], calls[part], statistics.median(t[part] for t in taken) / 1e3)
        for part in launches
    }


def command(args):
    torch.set_num_threads(1)
    reuse_memory()
    steps, rows = Steps(), []
    with as_a_device(args.backend):
        for name in HALVES:
            parts = measured(getattr(steps, name), args.repeats)
            total = Part(*(sum(values) for values in zip(*parts.values())))
            rows += [{"half": name, "part": part, **own._asdict()} for part, own in {**parts, "all": total}.items()]
    print(tabulate(rows, headers="keys", floatfmt=".0f"))
    if args.out:
        report.write(args.out, {**machine.conditions(args.repeats), "host": rows})


def main(argv=None):
    parser = report.parser("host", __doc__.splitlines()[0], repeats=30)
    parser.add_argument("--backend", choices=("triton", "cuda"), default="triton", help="whose launches")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

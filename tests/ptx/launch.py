"""Kernels compiled for a GPU that is not there, Triton's and CUDA's, and run here on CPU tensors."""

import contextlib
import functools
from dataclasses import dataclass, field
from unittest import mock

import torch
from triton import knobs

from hifigan_fast.backends.cuda import kernels as cuda
from hifigan_fast.backends.cuda.kernel import Kernel
from hifigan_fast.backends.gpu.devices import Absent, absent, standing_for
from hifigan_fast.backends.gpu.kernels import instead_of_launching
from hifigan_fast.backends.triton import ahead

from .. import ways
from .faults import Faults, Unsupported
from .global_memory import Global
from .machine import Machine, pack_params
from .parse import parse

MULTIPROCESSORS = 2  # of the device that is not there: a grid that must run at once has some programs of each

_parsed = functools.lru_cache(parse)


def _flat(kind, value):
    """What the compiled kernel takes for one parameter: of a tuple several values, of a constant none."""
    if isinstance(kind, tuple):
        return [own for pair in zip(kind, value, strict=True) for own in _flat(*pair)]
    if kind == "constexpr":
        return []
    return [float(value) if kind.startswith("fp") else value]


@dataclass
class Made:
    """A compiled kernel with what it is launched with: arguments (name, value) one by one, and as the PTX has them."""

    text: str
    arguments: list
    values: list
    threads: int
    shared: int


@dataclass
class Session:
    """What launches did wrong, and their code.

    Attributes:
        edit: a function of PTX -> PTX, to plant a fault.
        kernels: full names of all that ran.
        counters: `Counters` that launches add to, if they are wanted.
        programs: numbers of the only CTAs that are run, one after another.
    """

    edit: object = None
    faults: Faults = field(default_factory=Faults)
    texts: list = field(default_factory=list)
    kernels: set = field(default_factory=set)
    counters: object = None
    programs: list | None = None

    def launch(self, kernel, grid, args, meta):
        """Compile `kernel` for these arguments as the JIT would, and run it on the tensors' own memory."""
        made = self.make(kernel, grid, args, meta)
        text = self.edit(made.text) if self.edit else made.text
        parsed, tensors = _parsed(text), [(name, v) for name, v in made.arguments if isinstance(v, torch.Tensor)]
        values = [*made.values, *[0] * (len(parsed.params) - len(made.values))]  # scratch memory: none
        memory, params = Global(tensors), pack_params(parsed, values)
        own = made.threads, made.shared, self.faults, self.counters, self.programs
        machine = Machine(parsed, grid, params, memory, *own)
        if meta.get("launch_cooperative_grid") and machine.total > machine.lanes.ctas and not self.programs:
            raise Unsupported(f"{machine.total} programs at once")
        machine.run()
        self.texts.append(text)
        self.kernels.add(f"{kernel.__module__}.{kernel.__name__}")

    def make(self, kernel, grid, args, meta):
        """-> `Made`, of either kind."""
        return _by_nvrtc(kernel, args, meta) if isinstance(kernel, Kernel) else _by_triton(kernel, grid, args, meta)


def _by_triton(kernel, grid, args, meta):
    made = ahead.compile_only(kernel, grid, args, meta)
    if made.metadata.global_scratch_size or made.metadata.num_ctas != 1:
        raise Unsupported("scratch memory, clusters")
    arguments = dict(zip(kernel.arg_names, args)) | meta
    found = [(name, v) for name, kind in made.src.signature.items() for v in _flat(kind, arguments[name])]
    values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for _, v in found]
    return Made(made.asm["ptx"], found, values, 32 * made.metadata.num_warps, made.metadata.shared)


def _by_nvrtc(kernel, args, meta):
    args, constants = cuda.arguments(kernel, args, meta)
    text = cuda.compiled(kernel, args, constants, absent().capability, "ptx").decode()
    named = zip(kernel.parameters, args, strict=True)
    found = [(name, own) for name, v in named for own in (v if isinstance(v, tuple) else (v,))]
    values = [_no_address_is_0(value) for value in cuda.values(args)]
    return Made(text, found, values, constants["THREADS"], constants.get("SHARED", 0))


def _no_address_is_0(value):
    return tuple(map(_no_address_is_0, value)) if isinstance(value, tuple) else 0 if value is None else value


def _not_assembled(*compilation):
    """A hook of Triton's: kernels are compiled to PTX, and no further. Without arguments: what sets them apart."""
    if not compilation:
        return "PTX only", "PTX only"
    compilation[1]["cubin"] = lambda text, metadata: b""


@contextlib.contextmanager
def executing(target, edit=None, tf32=False, way="triton"):
    """Within the block the `Session` that it yields runs kernels, compiled for compute capability `target` (90).

    `way`: of `configs.WAYS`, who runs the layer classes that others than Triton's kernels may run.
    """
    session, device = Session(edit), Absent(f"sm_{target}", tf32, MULTIPROCESSORS)
    hook = mock.patch.object(knobs.runtime, "add_stages_inspection_hook", _not_assembled)
    with hook, ways.by(way), ahead.pretending(device), instead_of_launching(session.launch):
        yield session


@contextlib.contextmanager
def executing_cuda(target, edit=None, tf32=False):
    """As `executing`, of kernels in CUDA C++; compute capability 75 (7.5) or later."""
    device = Absent(f"sm_{target}", tf32, MULTIPROCESSORS)
    session = Session(edit)
    with standing_for(device), instead_of_launching(session.launch):
        yield session

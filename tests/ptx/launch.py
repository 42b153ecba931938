"""Triton kernels compiled for a GPU that is not there, and run here on CPU tensors."""

import contextlib
import functools
from dataclasses import dataclass, field
from unittest import mock

import torch
from triton import knobs

from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.gpu.kernels import instead_of_launching
from hifigan_fast.backends.triton import ahead

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
class Session:
    """What launches did wrong, and their code.

    Attributes:
        edit: a function of PTX -> PTX, to plant a fault.
        kernels: full names of all that ran.
    """

    edit: object = None
    faults: Faults = field(default_factory=Faults)
    texts: list = field(default_factory=list)
    kernels: set = field(default_factory=set)

    def launch(self, kernel, grid, args, meta):
        """Compile `kernel` for these arguments as the JIT would, and run it on the tensors' own memory.

        One whose programs meet between stages is run a stage at a time: the meeting is not executed.
        """
        made = ahead.compile_only(kernel, grid, args, meta)
        if made.metadata.global_scratch_size or made.metadata.num_ctas != 1:
            raise Unsupported("scratch memory, clusters")
        text = self.edit(made.asm["ptx"]) if self.edit else made.asm["ptx"]
        arguments, stages = dict(zip(kernel.arg_names, args)) | meta, [{}]
        if meta.get("launch_cooperative_grid"):
            stages = [{"first_stage": n, "stages": n + 1} for n in range(meta["first_stage"], meta["stages"])]
        for stage in stages:
            self._run(_parsed(text), grid, made, arguments | stage)
        self.texts.append(text)
        self.kernels.add(f"{kernel.__module__}.{kernel.__name__}")

    def _run(self, parsed, grid, made, arguments):
        found = [(name, v) for name, kind in made.src.signature.items() for v in _flat(kind, arguments[name])]
        values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for _, v in found]
        values += [0] * (len(parsed.params) - len(values))  # scratch memory: none
        memory = Global([(name, v) for name, v in found if isinstance(v, torch.Tensor)])
        threads, shared = 32 * made.metadata.num_warps, made.metadata.shared
        Machine(parsed, grid, pack_params(parsed, values), memory, threads, shared, self.faults).run()


def _not_assembled(*compilation):
    """A hook of Triton's: kernels are compiled to PTX, and no further. Without arguments: what sets them apart."""
    if not compilation:
        return "PTX only", "PTX only"
    compilation[1]["cubin"] = lambda text, metadata: b""


@contextlib.contextmanager
def executing(target, edit=None, tf32=False):
    """Within the block the `Session` that it yields runs kernels, compiled for compute capability `target` (90)."""
    session, device = Session(edit), Absent(f"sm_{target}", tf32, MULTIPROCESSORS)
    hook = mock.patch.object(knobs.runtime, "add_stages_inspection_hook", _not_assembled)
    with hook, ahead.pretending(device), instead_of_launching(session.launch):
        yield session

"""Triton kernels compiled for a GPU that is not there, and run here on CPU tensors."""

import contextlib
import functools
from dataclasses import dataclass, field

import torch

from hifigan_fast.backends.triton import ahead

from .faults import Faults
from .global_memory import Global
from .machine import Machine, pack_params
from .parse import parse

_parsed = functools.lru_cache(parse)


@dataclass
class Session:
    """What launches did wrong, and their code.

    Attributes:
        edit: a function of PTX -> PTX, to plant a fault.
    """

    edit: object = None
    faults: Faults = field(default_factory=Faults)
    texts: list = field(default_factory=list)

    def launch(self, kernel, grid, args, meta):
        """Compile `kernel` for these arguments as the JIT would, and run it on the tensors' own memory."""
        made = ahead.compile_only(kernel, grid, args, meta)
        if made.metadata.global_scratch_size or made.metadata.num_ctas != 1 or meta.get("launch_cooperative_grid"):
            raise NotImplementedError("scratch memory, clusters, programs that wait for one another")
        text = self.edit(made.asm["ptx"]) if self.edit else made.asm["ptx"]
        parsed, arguments = _parsed(text), dict(zip(kernel.arg_names, args)) | meta
        kinds = {name: kind for name, kind in made.src.signature.items() if kind != "constexpr"}
        values = [v.data_ptr() if isinstance(v := arguments[name], torch.Tensor) else v for name in kinds]
        values += [0] * (len(parsed.params) - len(values))  # scratch memory: none
        memory = Global({name: arguments[name] for name in kinds if isinstance(arguments[name], torch.Tensor)})
        threads, shared = 32 * made.metadata.num_warps, made.metadata.shared
        Machine(parsed, grid, pack_params(parsed, values), memory, threads, shared, self.faults).run()
        self.texts.append(text)


@contextlib.contextmanager
def executing(target, edit=None, tf32=False):
    """Within the block the `Session` that it yields runs kernels, compiled for compute capability `target` (90)."""
    session = Session(edit)
    with ahead.pretending(ahead.Absent(f"sm_{target}", tf32)), ahead.instead_of_launching(session.launch):
        yield session

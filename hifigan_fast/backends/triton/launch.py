"""How kernels are launched.

Triton's own way binds, specialises and looks up all arguments anew: 16 to 56 µs a launch, which a step has 50 of. So
compiled kernels are kept by what they were compiled for, and launched with addresses.
"""

import contextlib
import ctypes
import functools

import numpy as np
import torch
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ..contract import ALIGNED
from ..gpu import driver as driver_api
from ..gpu.driver import Function
from . import ahead

if not ahead.interpreting():
    ahead.watch()

_compiled = {}


def run(device, kernel, grid, args, meta):
    """As `gpu.kernels.Kernels.run`."""
    return (_launch if isinstance(kernel, JITFunction) else _interpret)(device, kernel, grid, args, meta)


def _launch(device, kernel, grid, args, meta):
    with on_device(device) as (index, stream):
        values, kinds = _described(args)
        key = (index, id(kernel), *meta.values(), *kinds)  # a kernel's keywords have one order
        found = _compiled.get(key)
        if found is not None and not watched():
            found(grid, stream, values)
            return found
        compiled = kernel[grid](*args, **meta)
        found = _compiled[key] = Compiled(kernel, compiled, len(args), meta)
        return found


def _interpret(_, kernel, grid, args, meta):
    if not meta.get("launch_cooperative_grid"):
        kernel[grid](*args, **meta)
        return functools.partial(_interpret_again, kernel, list(map(_dtypes, args)), meta)
    # Its programs meet between stages, and the interpreter runs one after another: a launch a stage.
    meta = {name: value for name, value in meta.items() if name != "launch_cooperative_grid"}
    for stage in range(meta.pop("first_stage"), meta.pop("stages")):
        kernel[grid](*args, first_stage=stage, stages=stage + 1, **meta)
    return None  # of no pass


def _dtypes(argument):
    """Of a pointer, or of each of a tuple; None of anything else."""
    return tuple(map(_dtypes, argument)) if isinstance(argument, tuple) else getattr(argument, "dtype", None)


def _interpret_again(kernel, dtypes, meta, grid, _, values):
    kernel[grid](*map(_tensors, values, dtypes), **meta)


def _tensors(value, dtype):
    """Addresses as Triton's interpreter takes them."""
    if isinstance(value, tuple):
        return tuple(map(_tensors, value, dtype))
    if dtype is None:
        return value
    memory = (ctypes.c_char * dtype.itemsize).from_address(value)
    return torch.from_numpy(np.frombuffer(memory, str(dtype).removeprefix("torch.")))


@contextlib.contextmanager
def _switched(device):
    with torch.cuda.device(device):
        yield device.index, driver.active.get_current_stream(device.index)


def on_device(device):
    """Within the block `device` is the current one; gives its number and current stream."""
    if device.type == "cpu":
        return contextlib.nullcontext((0, 0))
    index = driver.active.get_current_device()
    if device.index != index:
        return _switched(device)
    return contextlib.nullcontext((index, driver.active.get_current_stream(index)))


def _described(args):
    """What a compiled kernel takes for `args`, and what it is compiled for."""
    values, kinds = [], []
    for argument in args:
        if isinstance(argument, torch.Tensor):
            value = argument.data_ptr()
            kinds += argument.dtype, value % ALIGNED == 0
        elif type(argument) is tuple:  # of tensors, or None
            value = tuple([None if t is None else t.data_ptr() for t in argument])
            kinds += len(value), *[None if t is None else t.dtype for t in argument]
            kinds += [address is not None and address % ALIGNED == 0 for address in value]
        else:
            value = argument
            kinds.append(_kind(argument))
        values.append(value)
    return values, kinds


def _kind(number):
    """What Triton compiles for of a number: of an integer its width, and whether it is 1 or goes with vectors."""
    if type(number) is not int:
        return type(number)
    return number if number == 1 else (number % ALIGNED == 0, number.bit_length() > 31)


class Compiled:
    """A compiled kernel as it is launched: its handles, and its arguments after the first `given`."""

    def __init__(self, kernel, compiled, given, meta):
        self._run, self._handles = compiled.run, (compiled.function, compiled.packed_metadata, None, None, None)
        self._rest = [meta.get(name) for name in kernel.arg_names[given:]]
        self._kinds, self._metadata = tuple(compiled.src.signature.values()), compiled.metadata

    def __call__(self, grid, stream, values):
        self._run(*grid, *(1, 1, 1)[len(grid) :], stream, *self._handles, *values, *self._rest)

    def driven(self, values):
        """As `gpu.program.Launch` says: what Triton's own launcher gives to the driver."""
        m = self._metadata
        plain = m.num_ctas == 1 and not m.launch_cooperative_grid and not m.launch_pdl
        if m.target.backend != "cuda" or not plain or m.global_scratch_size or m.profile_scratch_size:
            return None
        parameters = _parameters(self._kinds, (*values, *self._rest))
        if any(kind not in driver_api.FORMATS for kind, _ in parameters):
            return None
        scratch = [("pointer", 0)] * 2
        return Function(self._handles[0], 32 * m.num_warps, m.shared), [*parameters, *scratch]


def _parameters(kinds, values):
    """(kind of `driver_api.FORMATS`, value) of each parameter of a kernel: what it was compiled for is none."""
    found = []
    for kind, value in zip(kinds, values, strict=True):
        if isinstance(kind, tuple):
            found += _parameters(kind, value)
        elif kind != "constexpr":
            found.append(("pointer" if kind[0] == "*" else "integer" if kind[0] in "iu" else kind, value))
    return found


def watched():
    """Whether a profiler of Triton's wants to hear of launches."""
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)

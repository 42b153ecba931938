"""The one place where kernels are launched.

Triton's own way binds, specialises and looks up all arguments anew: 16 to 56 µs a launch, which a step has 50 of. So
compiled kernels are kept by what they were compiled for, and launched with addresses.
"""

import torch
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

ALIGNED = 16  # bytes: an address that is a multiple lets Triton load whole vectors, and makes another kernel

_compiled = {}


def launch(device, kernel, grid, *args, **meta):
    """Run `kernel` on `device`, on its current stream; nothing where the grid is empty."""
    if 0 in grid:
        return
    if not isinstance(kernel, JITFunction):
        return _interpreted(kernel, grid, args, meta)
    current = driver.active.get_current_device()
    if device.index is None or device.index == current:
        return _launch(current, kernel, grid, args, meta)
    with torch.cuda.device(device):
        return _launch(device.index, kernel, grid, args, meta)


def _interpreted(kernel, grid, args, meta):
    if not meta.pop("launch_cooperative_grid", False):
        kernel[grid](*args, **meta)
        return
    # Its programs meet between stages, and the interpreter runs one after another: a launch a stage.
    for stage in range(meta.pop("first_stage"), meta.pop("stages")):
        kernel[grid](*args, first_stage=stage, stages=stage + 1, **meta)


def _launch(index, kernel, grid, args, meta):
    values, kinds = _described(args)
    key = (index, id(kernel), *meta.values(), *kinds)  # a kernel's keywords have one order
    found = _compiled.get(key)
    if found is None or _watched():
        _compiled[key] = _Compiled(kernel, kernel[grid](*args, **meta), len(args), meta)
        return
    x, y, z = (*grid, 1, 1)[:3]
    found.run(x, y, z, driver.active.get_current_stream(index), *found.handles, None, None, None, *values, *found.rest)


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


class _Compiled:
    """A compiled kernel as it is launched: its handles, and its arguments after the first `given`."""

    def __init__(self, kernel, compiled, given, meta):
        self.run, self.handles = compiled.run, (compiled.function, compiled.packed_metadata)
        self.rest = [meta.get(name) for name in kernel.arg_names[given:]]


def _watched():
    """Whether a profiler of Triton's wants to hear of launches."""
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)

"""CUDA's driver: code loaded on the current device, and launched. As little as can be, since tests have none."""

import ctypes
import functools
import struct

from ..gpu.driver import Function, have_context
from . import compiler
from .kernel import kind

FORMATS = {int: "q", float: "f"}
NUMBERS = {int: "integer", float: "fp32"}  # as `gpu.driver` has them
STATIC_SHARED = 48 * 1024  # bytes: for more a kernel must ask


def _checked(result):
    return compiler.checked(result, "CUDA's driver")


@functools.lru_cache(maxsize=1)
def missing():
    """Why nothing can be launched, in words; None if it can."""
    try:
        from cuda.bindings import driver

        _checked(driver.cuInit(0))
        known = _checked(driver.cuDriverGetVersion())  # 13050 of 13.5
    except (ImportError, RuntimeError) as error:
        return f"CUDA's driver does not answer: {error}".splitlines()[0]
    if known // 1000 < compiler.version()[0]:  # its code would not load
        major, made = known // 1000, ".".join(map(str, compiler.version()))
        found = f"{major}.{known % 1000 // 10}"
        return f"the driver is CUDA {found}'s, NVRTC is of {made}: a newer driver, or cuda-bindings and NVRTC {major}.x"
    return None


class Layout:
    """Parameters in one buffer, naturally aligned: an address, each of a tuple, a 64-bit integer, or a float."""

    def __init__(self, args):
        formats = [f"{k[0]}P" if isinstance(k, tuple) else FORMATS.get(k, "P") for k in map(kind, args)]
        self._struct = struct.Struct("@" + "".join(formats))
        # Where each begins: behind those before it, and aligned for itself.
        self._places = [struct.calcsize("@" + "".join(formats[:n]) + f"0{f[-1]}") for n, f in enumerate(formats)]

    def __call__(self, values):
        """(the buffer, pointers to its parameters)"""
        data = ctypes.create_string_buffer(self._struct.pack(*_flat(values)), self._struct.size)
        begin = ctypes.addressof(data)
        return data, (ctypes.c_void_p * len(self._places))(*[begin + place for place in self._places])


def _without_none(value):
    """0 is the address of what is not there."""
    return tuple([own or 0 for own in value]) if type(value) is tuple else 0 if value is None else value


def _flat(values):
    """Addresses and numbers one behind the other."""
    for value in map(_without_none, values):
        yield from value if type(value) is tuple else (value,)


class Loaded:
    """A kernel on the current device, as it is launched.

    Args:
        code: of `compiler.compiled`, a cubin.
        args: that it is specialised for.
        constants: THREADS of a block, SHARED bytes that a launch adds to it, launch_cooperative_grid.
        index: the device's number.
    """

    def __init__(self, code, name, args, constants, index):
        from cuda.bindings import driver

        have_context(index)
        self._layout, self._index = Layout(args), index
        self._kinds = [NUMBERS.get(kind(argument), "pointer") for argument in args]
        self._threads, self._shared = constants["THREADS"], constants.get("SHARED", 0)
        self._library = _checked(driver.cuLibraryLoadData(code, [], [], 0, [], [], 0))
        kernel = _checked(driver.cuLibraryGetKernel(self._library, name.encode()))
        self._function = _checked(driver.cuKernelGetFunction(kernel))
        if self._shared > STATIC_SHARED:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(self._function, attribute, self._shared))
        if constants.get("launch_cooperative_grid"):  # all programs at once
            self._launch, self._rest = driver.cuLaunchCooperativeKernel, ()
        else:
            self._launch, self._rest = driver.cuLaunchKernel, (0,)

    def driven(self, values):
        """As `gpu.program.Launch` says."""
        if not self._rest:
            return None
        function = Function(int(self._function), self._threads, self._shared)
        return function, [(own, _without_none(value)) for own, value in zip(self._kinds, values, strict=True)]

    def __call__(self, grid, stream, values):
        have_context(self._index)
        data, pointers = self._layout(values)  # the driver copies both
        blocks = (*grid, *(1, 1, 1)[len(grid) :], self._threads, 1, 1)
        _checked(self._launch(self._function, *blocks, self._shared, stream, ctypes.addressof(pointers), *self._rest))
        del data

"""Launches by NVIDIA's driver itself: those of a recorded pass, from one block of parameters that is filled in at once.

A launch through Triton's launcher takes 5 µs of the host, of which the driver's own part is the smaller one.
"""

import ctypes
import functools
import os
import struct
import threading
from typing import NamedTuple

import numpy as np

WORD = 8  # bytes that each parameter has here: the driver reads as many as the kernel's has
FORMATS = {"pointer": "<Q", "integer": "<q", "fp32": "<f4x", "fp64": "<d"}
_own = threading.local()


class Function(NamedTuple):
    """A compiled kernel as the driver takes it: its handle, threads of a block, bytes of shared memory."""

    handle: int
    threads: int
    shared: int


class Place(NamedTuple):
    """An address that is known when launches are made: `offset` bytes behind where a slot's memory begins."""

    slot: int
    offset: int


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    ]


@functools.lru_cache(maxsize=1)
def _library():
    library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    library.cuLaunchKernelEx.argtypes = [ctypes.c_void_p] * 4
    return library


def _checked(result):
    if result:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"CUDA: {(text.value or b'an unknown error').decode()} ({result})")


def have_context(device):
    """Make that device this thread's if it has none: as one that only ever took memory from PyTorch's cache."""
    if getattr(_own, "ready", False):
        return
    library, context = _library(), ctypes.c_void_p()
    _checked(library.cuCtxGetCurrent(ctypes.byref(context)))
    if not context:
        _checked(library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        _checked(library.cuCtxSetCurrent(context))
    _own.ready = True


class Launches:
    """Launches that are made again and again, with other addresses each time.

    Args:
        launches: [(`Function`, grid, parameters)], of each parameter its kind of `FORMATS`, and a number, a `Place`, or
            a tuple of these, which is one parameter for the driver.
    """

    def __init__(self, launches):
        words, begins = [], []  # of all parameters; where each parameter begins, in words
        for _, _, parameters in launches:
            for kind, value in parameters:
                begins.append(len(words))
                words += [(kind, own) for own in value] if _is_several(value) else [(kind, value)]
        places = [(at, value) for at, (_, value) in enumerate(words) if isinstance(value, Place)]
        self._at = np.array([at for at, _ in places], np.intp)
        self._slots = np.array([place.slot for _, place in places], np.intp)
        self._offsets = np.array([place.offset for _, place in places], np.int64).view(np.uint64)  # may be negative
        self._words = np.array([0 if isinstance(v, Place) else _word(kind, v) for kind, v in words], np.uint64)
        # What the driver takes for parameters: where each one is.
        self._pointers = np.array(begins, np.uint64) * WORD + self._words.ctypes.data
        self._configs, self._launches, first = (Config * len(launches))(), [], self._pointers.ctypes.data
        for config, (function, grid, parameters) in zip(self._configs, launches):
            config.grid[:], config.block[:] = (*grid, 1, 1)[:3], (function.threads, 1, 1)
            config.shared = function.shared
            self._launches.append((ctypes.addressof(config), function.handle, first, None))
            first += WORD * len(parameters)
        self._stream, self._lock = 0, threading.Lock()

    def __call__(self, device, stream, addresses):
        """Launch all on `stream` of the current device, of that number; addresses: where each slot's memory begins."""
        launch = _library().cuLaunchKernelEx
        have_context(device)
        with self._lock:  # the parameters are one thread's until the last launch has read them
            self._words[self._at] = np.array(addresses, np.uint64)[self._slots] + self._offsets
            if stream != self._stream:
                for config in self._configs:
                    config.stream = stream
                self._stream = stream
            for arguments in self._launches:
                result = launch(*arguments)
                if result:
                    _checked(result)


def _is_several(value):
    return isinstance(value, tuple) and not isinstance(value, Place)


def _word(kind, value):
    return int.from_bytes(struct.pack(FORMATS[kind], value), "little")

"""The CUDA kernels, the sizes that they are launched with, and their launches."""

import contextlib
from dataclasses import dataclass

import torch

from ..gpu import devices
from ..gpu.kernels import Kernels
from . import compiler, driver
from .kernel import Kernel, arguments, kind, specialisation

SPECTRAL_THREADS = 256


def _kernel(name, parameters, threads=256):
    return Kernel(name, tuple(parameters.split()), threads)


@dataclass(frozen=True)
class Config:
    """BM × BN results a program, BK of the sum at a time, as the tables need them."""

    BM: int
    BN: int
    BK: int
    THREADS: int = 256
    library: bool = False

    def arguments(self):
        return {"BM": self.BM, "BN": self.BN, "BK": self.BK, "THREADS": self.THREADS}


class CudaKernels(Kernels):
    pack = _kernel("pack", "raws magnitudes sigmas biases packed scales norms packed_biases programs jobs")
    finish = _kernel(
        "finish",
        "raws partials partial_biases scales norms inners grads magnitude_grads bias_grads programs jobs",
    )
    finish_spectral = _kernel("finish_spectral", "us vs sigmas inners grads programs jobs")
    iterate = _kernel(
        "iterate",
        "weights us vs s t u v sigmas jobs by_column by_row counters eps all_jobs all_outs all_columns column_tiles "
        "row_tiles calls iterations first_stage stages",
    )
    forward = _kernel("forward", "x weight bias out runs tiles slope")
    input_grad = _kernel("input_grad", "grad_out weight saved map_grads matching grad_in runs tiles slope")
    weight_grad = _kernel("weight_grad", "x grad_out partial partial_bias runs tiles splits")
    stem_input_grad = _kernel("stem_input_grad", "grad_out weight grad_waves runs tiles", 128)
    pooled = _kernel("pooled", "sides out tiles length length_once")
    squared_means = _kernel("squared_means", "scores sum_of_means means parts")
    squared_means_gradients = _kernel("squared_means_gradients", "scores grad_total grad_means grads parts")
    l1_means = _kernel("l1_means", "real generated partial out chunks pairs counters")
    l1_gradients = _kernel("l1_gradients", "real generated grad_means grads places chunks pairs")

    def __init__(self):
        self._loaded = {}

    def config(self, direction, role, layer, like):
        return Config(64, 32, 64) if direction == "weight_grad" else Config(64, 32, 32)

    def of_rows(self, device):
        return {"ROWS": 4, "THREADS": 128}

    def of_matrices(self, device):
        return {"ROWS": 8, "COLUMNS": 64, "THREADS": SPECTRAL_THREADS}

    def state(self, device):
        return self.launch, devices.tf32(device), device

    def on_device(self, device):
        if device.type == "cpu":
            return contextlib.nullcontext((0, 0))
        index = torch.cuda.current_device()
        if device.index != index:
            return _switched(device)
        return contextlib.nullcontext((index, torch._C._cuda_getCurrentRawStream(index)))

    def run(self, device, kernel, grid, args, meta):
        with self.on_device(device) as (index, stream):
            args, constants = arguments(kernel, args, meta)
            key = (index, kernel.name, *constants.values(), *map(kind, args))  # a kernel's keywords have one order
            loaded = self._loaded.get(key)
            if loaded is None:
                code = compiled(kernel, args, constants, devices.capability(device), "cubin")
                loaded = self._loaded[key] = driver.Loaded(code, kernel.name, driver.Layout(args), constants)
            loaded(grid, stream, values(args))
            return loaded


@contextlib.contextmanager
def _switched(device):
    with torch.cuda.device(device):
        yield device.index, torch._C._cuda_getCurrentRawStream(device.index)


def compiled(kernel, args, constants, capability, form):
    """The code of a kernel for arguments of these kinds and a device's (major, minor); see `compiler.compiled`."""
    major, minor = capability
    return compiler.compiled(kernel.name, specialisation(kernel, args, constants), 10 * major + minor, form)


def values(args):
    """Arguments as they are launched: addresses of tensors, None where there is none, and numbers."""
    return tuple(
        [
            a.data_ptr()
            if isinstance(a, torch.Tensor)
            else tuple([None if t is None else t.data_ptr() for t in a])
            if isinstance(a, tuple)
            else a
            for a in args
        ]
    )

"""The CUDA kernels, the sizes that they are launched with, and their launches."""

import contextlib
from dataclasses import dataclass

import torch

from ..contract import ALIGNED
from ..gpu import compilers, devices
from ..gpu.kernels import Kernels, instead_of_launching
from . import compiler, driver, windows
from .kernel import Kernel, arguments, kind, specialisation

THREADS = 256  # of a block, where nothing else is said
# Of kernels of layers, beside the window kernels: of any layer, of a waveform's, of scores.
KINDS = ("direct", "stem", "head")
ROWS = {"ROWS": 1, "THREADS": THREADS}  # of weights a program
MOST_TAPS = 16  # of stems and heads that have kernels of their own


def _kernel(name, parameters, threads=THREADS, source=None):
    return Kernel(name, tuple(parameters.split()), threads, source or name)


def _power_of_2(number, most):
    """The least that is not below it, up to `most`."""
    return min(most, 1 << (number - 1).bit_length())


@dataclass(frozen=True)
class Config:
    """BM × BN results a program, BK of the sum at a time, as the tables need them."""

    BM: int
    BN: int
    BK: int
    THREADS: int = THREADS
    stretch: int = 1

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
    forward, stem_forward, head_forward = (
        _kernel("forward", "x weight bias out runs tiles slope", source=f"{own}_forward") for own in KINDS
    )
    input_grad, head_input_grad = (
        _kernel(
            "input_grad",
            "grad_out weight saved map_grads matching grad_in runs tiles slope",
            source=f"{own}_input_grad",
        )
        for own in ("direct", "head")
    )
    weight_grad, stem_weight_grad, head_weight_grad = (
        _kernel("weight_grad", "x grad_out partial partial_bias runs tiles splits", source=f"{own}_weight_grad")
        for own in KINDS
    )
    window_forward = _kernel("forward", "x weight bias out runs tiles spans slope", source="convolution_forward")
    window_input_grad = _kernel(
        "input_grad",
        "grad_out weight saved map_grads matching grad_in runs tiles spans slope",
        source="convolution_input_grad",
    )
    window_weight_grad = _kernel(
        "weight_grad", "x grad_out partial partial_bias runs tiles splits", source="convolution_weight_grad"
    )
    stem_input_grad = _kernel("stem_input_grad", "grad_out weight grad_waves runs tiles", THREADS // 2)
    stem_places = 256
    pooled = _kernel("pooled", "sides out tiles length length_once")
    squared_means = _kernel("squared_means", "scores sum_of_means means parts")
    squared_means_gradients = _kernel("squared_means_gradients", "scores grad_total grad_means grads parts")
    l1_means = _kernel("l1_means", "real generated partial out chunks pairs counters")
    l1_gradients = _kernel("l1_gradients", "real generated grad_means grads places chunks pairs")

    def __init__(self):
        self._loaded = {}

    def config(self, direction, role, layer, like):
        found = self._of_role(direction, role, layer, like)
        if found is not None:
            return getattr(self, f"{role}_{direction}"), found
        group = (layer.in_channels if direction == "input_grad" else layer.out_channels) // layer.groups
        columns = _power_of_2(group, 32)
        if direction == "weight_grad":  # whose rows are out channels
            return self.weight_grad, Config(max(8, _power_of_2(group, 64)), 32, 32)
        return getattr(self, direction), Config(max(64, 256 // columns), columns, 32)

    def _of_role(self, direction, role, layer, like):
        """Of a stem or head as discriminators have them: few taps, all of which a thread has at hand."""
        if layer.groups > 1 or layer.taps > MOST_TAPS:
            return None
        if role == "stem":
            channels = max(32, _power_of_2(layer.out_channels, 128))
            rows = 512 if channels == 32 else 256
            blocks = (rows, channels, 32) if direction == "forward" else (channels, layer.taps, rows)
            return Config(*blocks, THREADS // 2)
        if role == "head" and layer.out_channels == 1:
            if direction == "weight_grad":
                wide = THREADS // 2 * ALIGNED // like.itemsize  # channels of a program
                return Config(1, layer.taps * min(wide, layer.in_channels), 64, THREADS // 2)
            return Config(32, layer.in_channels if direction == "input_grad" else 1, 32)
        return None

    def stand_in(self, direction, role, layer, like):
        return windows.stand_in(self, direction, role, layer, like)

    def of_rows(self, name, device):
        return ROWS

    def of_matrices(self, device):
        return {"ROWS": 8, "COLUMNS": 64, "THREADS": THREADS}

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
            key = (index, kernel.source, *constants.values(), *map(kind, args))  # a kernel's keywords have one order
            loaded = self._loaded.get(key)
            if loaded is None:
                compilers.ask()
                code = compiled(kernel, args, constants, devices.capability(device), "cubin")
                loaded = self._loaded[key] = driver.Loaded(code, kernel.name, args, constants, index)
            loaded(grid, stream, values(args))
            return loaded


def compiled_by(threads):
    """What has `threads` compile in the place of a launch, each kernel once; a future's result is the code's file."""
    asked = set()

    def compile_only(kernel, grid, args, meta):
        args, constants = arguments(kernel, args, meta)
        device = next(own.device for own in args if isinstance(own, torch.Tensor))
        what = kernel.source, specialisation(kernel, args, constants), devices.capability(device)
        if what not in asked:
            asked.add(what)
            threads.submit(_kept, kernel, args, constants, what[2], "cubin")

    return compile_only


@contextlib.contextmanager
def side_by_side():
    """Within the block nothing is launched, and all that would be is compiled, by the time that it ends.

    Yields a list of futures of the compilations: of those that failed `result()` says why.
    """
    with compilers.Compilers() as threads, threads.telling(), instead_of_launching(compiled_by(threads)):
        yield threads.asked


@contextlib.contextmanager
def _switched(device):
    with torch.cuda.device(device):
        yield device.index, torch._C._cuda_getCurrentRawStream(device.index)


def _as_asked(kernel, args, constants, capability, form):
    """As `compiler.compiled` takes it: for arguments of these kinds and a device's (major, minor)."""
    major, minor = capability
    target = 10 * major + minor
    if constants.get("WARPGROUPS"):
        target = f"{target}a"  # instructions of this device and no other
    return kernel.source, specialisation(kernel, args, constants), target, form


def compiled(*what):
    """The code of a kernel: what as `_as_asked` takes it, see `compiler.compiled`."""
    return compiler.compiled(*_as_asked(*what))


def _kept(*what):
    """Where that code is, now compiled."""
    compiled(*what)
    return compiler.place(*_as_asked(*what))


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

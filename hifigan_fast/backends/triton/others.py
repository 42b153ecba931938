"""Convolutions by others than Triton's kernels, where the table says that they are faster: CUDA C++, PyTorch's own."""

import itertools

import torch

from ..cuda import CudaBackend, windows
from ..gpu import devices
from . import configs, library

CUDA = CudaBackend()


def stand_in(direction, role, layer, like):
    """As `gpu.kernels.Kernels.stand_in`. Where CUDA C++ cannot run, or has no window kernel, Triton's kernel does."""
    by = configs.of(direction, role, layer, like).by if role == "conv" else "triton"
    if by == "library":
        return getattr(library, direction)
    if by == "cuda" and CUDA.cannot_run(like.device, like.dtype) is None:
        return windows.stand_in(CUDA.kernels, direction, role, layer, like)
    return None


def contact(device):
    """What the window kernels are on a CUDA device, as `Backend.contact` has it; nothing where they run no layer."""
    ways = configs.in_use()[configs.generation_of(devices.capability(device))].values()
    asked = any(own.by == "cuda" for kinds in ways for of in kinds.values() for own in of.values())
    if not asked or CUDA.cannot_run(device, torch.float32):
        return {}
    found = CUDA.contact(device)
    return {"nvrtc": found["nvrtc"], "cuda kernels": found["kernels"]}


def words(device, dtype, layers):
    """As `Backend.by_others`."""
    like, found = torch.empty(0, dtype=dtype, device=device), {}
    for layer, direction in itertools.product(layers, configs.DIRECTIONS):
        if stand_in(direction, "conv", layer, like):
            by = configs.of(direction, "conv", layer, like).by
            found.setdefault((configs.layer_class("conv", layer), by), {})[direction] = None
    said = [
        f"{name} layers by {by}" + (f" ({', '.join(ways)})" if len(ways) < len(configs.DIRECTIONS) else "")
        for (name, by), ways in found.items()
    ]
    return "; ".join(said) or None

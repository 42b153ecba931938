"""The contract by Triton kernels: float32, bfloat16 and float16 on a GPU, one launch a depth for a whole ensemble.

Under TRITON_INTERPRET=1, set before Triton is imported, the same kernels run on CPU tensors (not in bfloat16).
"""

import functools
import importlib.metadata
import importlib.util
import re

import torch

from ..gpu import GpuBackend, devices
from . import ahead
from .ahead import interpreting

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)
LEAST_VERSION = (3, 6)


@functools.lru_cache(maxsize=1)
def _missing():
    """Why Triton cannot be used at all, in words; None if it can."""
    try:
        found = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None if importlib.util.find_spec("triton") else "Triton is not installed (pip install triton)"
    least = ".".join(map(str, LEAST_VERSION))
    if tuple(int(number) for number in re.findall(r"\d+", found)[:2]) < LEAST_VERSION:
        return f"Triton is {found}, the kernels need {least}"
    return None


@functools.lru_cache(maxsize=1)
def _kernels():
    """Importing them imports Triton, which takes its time."""
    from .kernels import TritonKernels

    return TritonKernels()


class TritonBackend(GpuBackend):
    name = "triton"
    kernels = property(lambda self: _kernels())

    def cannot_run(self, device, dtype):
        stands_for_one = device.type == "cpu" and (devices.absent() or interpreting())
        if device.type != "cuda" and not stands_for_one:
            return f"tensors are on {device.type}, the Triton kernels run on a GPU"
        if _missing():
            return _missing()
        if dtype not in DTYPES:
            return f"the Triton kernels are for {', '.join(str(d)[6:] for d in DTYPES)}, tensors are {str(dtype)[6:]}"
        if stands_for_one:
            return "Triton's interpreter has no bfloat16" if interpreting() and dtype == torch.bfloat16 else None
        capability = devices.capability(device)
        if isinstance(capability, tuple) and capability < LEAST_CAPABILITY:
            found, least = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
            return f"the device has compute capability {found}, the Triton kernels need {least}"
        return None

    def only_on_request(self, device):
        return "Triton's interpreter is for tests" if device.type == "cpu" else None

    def contact(self, device):
        from . import configs, others

        if device.type != "cuda":
            return None
        return {**configs.contact(device), "configurations": configs.digest(), **others.contact(device)}

    def advice(self, device):
        from . import configs

        if device.type != "cuda" or configs.measurements(device):
            return None
        name = configs.contact(device)["device"]
        return f"block sizes on {name} are guesses until `hifigan-fast tune --quick` has run, a minute"

    def by_others(self, device, dtype, layers):
        from . import others

        return others.words(device, dtype, layers)

    def whole(self, run):
        return run() if interpreting() else ahead.whole(run)

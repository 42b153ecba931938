"""The contract by CUDA C++ kernels: float32, bfloat16 and float16 on an NVIDIA GPU, one launch a depth for an ensemble.

NVRTC compiles them for the geometry at hand: no toolkit to install. They run where Triton does not, too: on compute
capability 7.5.
"""

import torch

from ..gpu import GpuBackend, compilers, devices
from . import compiler, driver
from .kernels import CudaKernels, side_by_side

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (7, 5)
BFLOAT16_FROM = (8, 0)


def _dotted(capability):
    return ".".join(map(str, capability))


class CudaBackend(GpuBackend):
    name = "cuda"

    def __init__(self):
        self.kernels = CudaKernels()

    def cannot_run(self, device, dtype):
        if dtype not in DTYPES:
            return f"the CUDA kernels are for {', '.join(str(d)[6:] for d in DTYPES)}, tensors are {str(dtype)[6:]}"
        capability = devices.capability(device) if device.type in ("cpu", "cuda") else None
        if not isinstance(capability, tuple):
            found = "an AMD GPU" if device.type == "cuda" else device.type
            return f"tensors are on {found}, the CUDA kernels run on an NVIDIA GPU"
        if capability < LEAST_CAPABILITY:
            return (
                f"the device has compute capability {_dotted(capability)}, "
                f"the CUDA kernels need {_dotted(LEAST_CAPABILITY)}"
            )
        if dtype == torch.bfloat16 and capability < BFLOAT16_FROM:
            return f"the device has compute capability {_dotted(capability)}, bfloat16 needs {_dotted(BFLOAT16_FROM)}"
        if compiler.missing():
            return compiler.missing()
        if 10 * capability[0] + capability[1] not in compiler.known():
            return f"NVRTC {_dotted(compiler.version())} does not know compute capability {_dotted(capability)}"
        return driver.missing() if device.type == "cuda" else None

    def contact(self, device):
        if device.type != "cuda":
            return None
        return devices.contact(device, nvrtc=_dotted(compiler.version())) | {"kernels": compiler.digest()}

    def whole(self, run):
        return compilers.whole(run, side_by_side)

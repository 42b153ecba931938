"""The contract by Triton kernels: float32, bfloat16 and float16 on a GPU, one launch a depth for a whole ensemble.

Under TRITON_INTERPRET=1, set before Triton is imported, the same kernels run on CPU tensors (not in bfloat16).
"""

import functools
import importlib.metadata
import importlib.util
import os
import re

import torch

from ..contract import Backend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)
LEAST_VERSION = (3, 6)


def interpreting():
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


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
def _operations():
    """The module that launches the kernels: importing it imports Triton, which takes its time."""
    from . import operations

    return operations


class TritonBackend(Backend):
    name = "triton"
    fuses_small_work = True
    packs = True
    flat_grads = True
    scaling_dtype = torch.float32

    def cannot_run(self, device, dtype):
        if _missing():
            return _missing()
        if dtype not in DTYPES:
            return f"the Triton kernels are for {', '.join(str(d)[6:] for d in DTYPES)}, tensors are {str(dtype)[6:]}"
        if device.type == "cpu" and interpreting():
            return "Triton's interpreter has no bfloat16" if dtype == torch.bfloat16 else None
        if device.type != "cuda":
            return f"tensors are on {device.type}, the Triton kernels run on a GPU"
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
            found, least = (".".join(map(str, c)) for c in (torch.cuda.get_device_capability(device), LEAST_CAPABILITY))
            return f"the device has compute capability {found}, the Triton kernels need {least}"
        return None

    def only_on_request(self, device):
        return "Triton's interpreter is for tests" if device.type == "cpu" else None

    def empty(self, count, dtype, device):
        return _operations().empty((count,), dtype, device)

    def again(self, programs, key, inputs, run):
        return _operations().again(programs, key, inputs, run)

    def power_iterations(self, matrices, eps, iterations, calls):
        tensors = [t for own in matrices for t in own]
        if not all(t.is_contiguous() for t in tensors) or len({t.dtype for t in tensors}) > 1:
            return super().power_iterations(matrices, eps, iterations, calls)
        return _operations().power_iterations(matrices, eps, iterations, calls)

    def prepare(self, layers, sets, dtype):
        return _operations().prepare(layers, sets, dtype)

    def forward(self, role, layer, runs, x, weights, out):
        _operations().forward(role, layer, runs, x, weights, out)

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        _operations().input_grad(role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)

    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        _operations().stem_input_grad(layer, runs, grad_out, weights, grad_waves)

    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        return _operations().weight_grad(role, layer, runs, x, grad_out, weights)

    def parameter_grads(self, jobs):
        return _operations().parameter_grads(jobs)

    def pooled(self, sides, lengths):
        return _operations().pooled(sides, lengths)

    def squared_means(self, scores, targets, dtype):
        return _operations().squared_means(scores, targets, dtype)

    def squared_means_backward(self, scores, targets, grad_total, grad_means, wanted):
        return _operations().squared_means_backward(scores, targets, grad_total, grad_means, wanted)

    def feature_l1(self, real, generated):
        return _operations().feature_l1(real, generated)

    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        return _operations().feature_l1_backward(real, generated, grads, want_real, want_generated)

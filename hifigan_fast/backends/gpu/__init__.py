"""The contract by kernels of a GPU, one launch a depth for a whole ensemble, whatever the kernels are written in."""

import torch

from ..contract import Backend
from . import convolutions, devices, losses, program, weights


class GpuBackend(Backend):
    """What all its operations do on the host: grids, tables, buffers, recorded passes.

    Attributes:
        kernels: that it launches, `kernels.Kernels`.
    """

    fuses_small_work = True
    packs = True
    flat_grads = True
    scaling_dtype = torch.float32

    def arithmetic(self, device, dtype):
        exact = dtype != torch.float32 or not devices.tf32(device)
        return super().arithmetic(device, dtype) if exact else "tf32"

    def empty(self, count, dtype, device):
        return program.empty((count,), dtype, device)

    def again(self, programs, key, inputs, run):
        device = next(t.device for t in inputs if t is not None)
        return program.again(self.kernels, programs, (*self.kernels.state(device), *key), inputs, run)

    def power_iterations(self, matrices, eps, iterations, calls):
        tensors = [t for own in matrices for t in own]
        if not all(t.is_contiguous() for t in tensors) or len({t.dtype for t in tensors}) > 1:
            return super().power_iterations(matrices, eps, iterations, calls)
        return weights.power_iterations(self.kernels, matrices, eps, iterations, calls)

    def prepare(self, layers, sets, dtype):
        return weights.prepare(self.kernels, layers, sets, dtype)

    def forward(self, role, layer, runs, x, weights, out):
        convolutions.forward(self.kernels, role, layer, runs, x, weights, out)

    def input_grad(self, *args):
        convolutions.input_grad(self.kernels, *args)

    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        convolutions.stem_input_grad(self.kernels, layer, runs, grad_out, weights, grad_waves)

    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        return convolutions.weight_grad(self.kernels, role, layer, runs, x, grad_out, weights)

    def parameter_grads(self, jobs):
        return weights.parameter_grads(self.kernels, jobs)

    def pooled(self, sides, lengths):
        return losses.pooled(self.kernels, sides, lengths)

    def squared_means(self, scores, targets, dtype):
        return losses.squared_means(self.kernels, scores, targets, dtype)

    def squared_means_backward(self, scores, targets, grad_total, grad_means, wanted):
        return losses.squared_means_backward(self.kernels, scores, targets, grad_total, grad_means, wanted)

    def feature_l1(self, real, generated):
        return losses.feature_l1(self.kernels, real, generated)

    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        return losses.feature_l1_backward(self.kernels, real, generated, grads, want_real, want_generated)

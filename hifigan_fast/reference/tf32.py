"""Plain PyTorch's convolutions in TF32 throughout: what `torch.backends.cudnn.allow_tf32` permits, and cuDNN does in
some layers only.
"""

import torch
from torch.overrides import TorchFunctionMode

DROPPED = 13  # of float32's 23 bits behind the point
EPS = 2.0 ** (DROPPED - 23)


class Operand(torch.autograd.Function):
    """float32 to the nearest of TF32, ties to even."""

    @staticmethod
    def forward(context, x):
        bits = x.view(torch.int32)
        half = (1 << DROPPED - 1) - 1
        nearest = bits + half + (bits >> DROPPED & 1) & -(1 << DROPPED)
        return torch.where(x.isfinite(), nearest.view(torch.float32), x)

    @staticmethod
    def backward(context, grad):
        return grad


class Result(torch.autograd.Function):
    """What it is given; its gradient is an operand."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, grad):
        return Operand.forward(None, grad.contiguous())


class InTF32(TorchFunctionMode):
    """Within the block float32 convolutions round all operands of their three directions to TF32, and nothing else;
    layers with one channel on either side are exact.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.conv1d, torch.conv2d):
            return _rounded(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _rounded(convolution, input, weight, bias=None, *others, **named):
    if input.dtype != torch.float32 or 1 in (input.shape[1], len(weight)):
        return convolution(input, weight, bias, *others, **named)
    product = Result.apply(convolution(Operand.apply(input), Operand.apply(weight), None, *others, **named))
    return product if bias is None else product + bias.view(-1, *[1] * (weight.dim() - 2))

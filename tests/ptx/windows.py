"""The window kernels of csrc/cuda by themselves: tensors of a layer and some runs, and what PyTorch makes of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hifigan_fast.backends.cuda import blocks, tiles
from hifigan_fast.backends.cuda.kernel import Kernel
from hifigan_fast.backends.gpu import tables
from hifigan_fast.geometry import Layer, Run

from .launch import executing_cuda


def _kernel(direction, parameters):
    return Kernel(direction, tuple(parameters.split()), source=f"convolution_{direction}")


FORWARD = _kernel("forward", "x weight bias out runs tiles spans slope")
INPUT_GRAD = _kernel("input_grad", "grad_out weight saved map_grads matching grad_in runs tiles spans slope")
WEIGHT_GRAD = _kernel("weight_grad", "x grad_out partial partial_bias runs tiles splits")
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")


def rounded(tensor):
    """To the nearest TF32."""
    return (tensor.view(torch.int32) + 0x1000 & -0x2000).view(torch.float32)


@dataclass
class Case:
    """A layer's tensors over runs of different weights, of `dtype`; in TF32 weights and gradients are rounded, as they come.

    Attributes:
        x, grad, out: a tensor for each run, [sequence, row, channel]; grad is of out.
        weight: [set, out, taps, in / groups]; bias: [set, out].
    """

    layer: Layer
    kind: str
    runs: tuple
    x: list
    grad: list
    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, layer, kind, sequences):
        """`sequences`: (how many, input rows) of each run."""
        random, dtype = torch.Generator().manual_seed(0), DTYPES[kind]
        runs, xs, grads, at, to = [], [], [], 0, 0
        for weights, (count, in_rows) in enumerate(sequences):
            rows = layer.out_rows(in_rows)
            runs.append(Run(weights, count, 1, in_rows, rows, at, to, at, to))
            xs.append(torch.randn(count, in_rows, layer.in_channels, generator=random).to(dtype))
            grads.append(torch.randn(count, rows, layer.out_channels, generator=random).to(dtype))
            at, to = at + count * in_rows, to + count * rows
        group = layer.in_channels // layer.groups
        weight = torch.randn(len(runs), layer.out_channels, layer.taps, group, generator=random)
        weight = (weight / (layer.taps * group) ** 0.5).to(dtype)
        bias = torch.randn(len(runs), layer.out_channels, generator=random)
        if kind == "tf32":
            weight, grads = rounded(weight), [rounded(grad) for grad in grads]
        return cls(layer, kind, tuple(runs), xs, grads, weight, bias)

    def constants(self, direction, target, chosen):
        layer = self.layer
        own = chosen or blocks.blocks_of(direction, layer, self.kind, target)
        geometry = ("in_channels", "out_channels", "groups", "taps", "stride", "padding")
        named = zip(("IN", "OUT", "GROUPS", "TAPS", "STRIDE", "PADDING"), geometry)
        constants = {name: getattr(layer, field) for name, field in named} | own.constants()
        return own, constants | {"PRECISION": self.kind, "SHARED": blocks.shared_bytes(direction, own, self.kind)}


def forward(case, target=80, chosen=None, edit=None):
    """(the session, [out of each run])"""
    own, constants = case.constants("forward", target, chosen)
    layer, runs = case.layer, case.runs
    walked = tiles.walked(runs, layer, own, 2, CPU)
    x = torch.cat([x.flatten() for x in case.x])
    rows = sum(run.sequences * run.out_rows for run in runs)
    out = torch.full((rows * layer.out_channels,), float("nan"), dtype=x.dtype)
    grid = len(walked.spans), layer.groups * -(-layer.out_channels // layer.groups // own.columns)
    with executing_cuda(target, edit, tf32=case.kind == "tf32") as session:
        args = x, case.weight, case.bias, out, tables.runs_on(runs, CPU), walked.tiles, walked.spans, layer.slope
        session.launch(FORWARD, grid, args, constants)
    sizes = [run.sequences * run.out_rows * layer.out_channels for run in runs]
    return session, [o.view(grad.shape) for o, grad in zip(out.split(sizes), case.grad)]


def plain_forward(case, run, dtype, operands):
    """PyTorch's own, of operands made by a function, in `dtype`."""
    layer = case.layer
    x, weight = (operands(t).to(dtype) for t in (case.x[run].transpose(1, 2), case.weight[run].transpose(1, 2)))
    y = F.conv1d(x, weight, case.bias[run].to(dtype), layer.stride, layer.padding, 1, layer.groups)
    return F.leaky_relu(y, layer.slope).transpose(1, 2)


def _flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def input_grad(case, target=80, chosen=None, edit=None, given=None, matching=None):
    """(the session, [gradient of each run's x]); `given`: for each run a tensor like x, or None."""
    own, constants = case.constants("input_grad", target, chosen)
    layer, runs = case.layer, case.runs
    walked = tiles.walked_phases(runs, layer, own, 2, CPU)
    saved = _flat(case.x)
    grad_in = torch.full_like(saved, float("nan"))
    grid = len(walked.spans), layer.groups * -(-layer.in_channels // layer.groups // own.columns)
    given = tuple(given or [None] * len(runs))
    with executing_cuda(target, edit, tf32=case.kind == "tf32") as session:
        args = (_flat(case.grad), case.weight, saved, given, matching, grad_in, tables.runs_on(runs, CPU))
        session.launch(INPUT_GRAD, grid, (*args, walked.tiles, walked.spans, layer.slope), constants)
    return session, [g.view(x.shape) for g, x in zip(grad_in.split([x.numel() for x in case.x]), case.x)]


def plain_input_grad(case, run, dtype, given=None, matching=None):
    layer, x = case.layer, case.x[run].to(dtype)
    grad, weight = case.grad[run].transpose(1, 2).to(dtype), case.weight[run].transpose(1, 2).to(dtype)
    shape = len(x), layer.in_channels, x.shape[1]
    own = torch.nn.grad.conv1d_input(shape, weight, grad, layer.stride, layer.padding, 1, layer.groups).transpose(1, 2)
    if matching is not None:
        own = own + matching[run].to(dtype) * torch.sign(x - given[run].to(dtype))
    elif given is not None and given[run] is not None:
        own = own + given[run].to(dtype)
    return torch.where(x > 0, own, own * layer.slope)


def weight_grad(case, target=80, chosen=None, edit=None, wanted=2):
    """(the session, [(gradient of weights, of biases) of each run])"""
    own, constants = case.constants("weight_grad", target, chosen)
    layer, runs = case.layer, case.runs
    walked, of_set = tiles.split(runs, layer, own, wanted, CPU)
    group = layer.in_channels // layer.groups
    partial = torch.full((len(walked.spans), layer.out_channels, layer.taps, group), float("nan"))
    bias = torch.full((len(walked.spans), layer.out_channels), float("nan"))
    columns = -(-layer.taps // own.taps) * -(-group // own.channels)
    grid = len(walked.spans), layer.groups * -(-layer.out_channels // layer.groups // own.columns), columns
    with executing_cuda(target, edit, tf32=case.kind == "tf32") as session:
        args = _flat(case.x), _flat(case.grad), partial, bias, tables.runs_on(runs, CPU), walked.tiles, walked.spans
        session.launch(WEIGHT_GRAD, grid, args, constants)
    return session, [
        tuple(sums[slice(*of_set[run])].double().sum(0) for sums in (partial, bias)) for run in range(len(runs))
    ]


def plain_weight_grad(case, run, dtype, operands):
    layer = case.layer
    x, grad = operands(case.x[run]).transpose(1, 2).to(dtype), case.grad[run].transpose(1, 2).to(dtype)
    shape = layer.out_channels, layer.in_channels // layer.groups, layer.taps
    weight = torch.nn.grad.conv1d_weight(x, shape, grad, layer.stride, layer.padding, 1, layer.groups)
    return weight.transpose(1, 2), grad.sum((0, 2))

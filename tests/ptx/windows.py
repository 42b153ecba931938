"""The window kernels of csrc/cuda by themselves: tensors of a layer and some runs, and what PyTorch makes of them."""

import contextlib
import re
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from cuda.bindings import nvrtc

from hifigan_fast.backends.cuda import blocks, compiler, kernel
from hifigan_fast.backends.cuda import windows as launches
from hifigan_fast.backends.cuda.kernels import CudaKernels
from hifigan_fast.backends.gpu.convolutions import geometry
from hifigan_fast.geometry import Layer, Run

from .launch import executing_cuda

KERNELS = CudaKernels()
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")


def rounded(tensor):
    """To the nearest TF32."""
    return (tensor.view(torch.int32) + 0x1000 & -0x2000).view(torch.float32)


@dataclass
class Case:
    """A layer's tensors over runs of different weights; for TF32 weights are rounded, as they come.

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
            weight = rounded(weight)
        return cls(layer, kind, tuple(runs), xs, grads, weight, bias)

    @property
    def weights(self):
        return SimpleNamespace(packed=self.weight, bias=self.bias)


def found(layer, direction, kind, target):
    """As `launches.launched`: (`Blocks`, the constants of a launch)."""
    own = blocks.blocks_of(direction, layer, kind, target)
    constants = {"PRECISION": kind, "SHARED": blocks.shared_bytes(direction, own, kind)}
    return own, geometry(layer) | own.constants() | constants


@contextlib.contextmanager
def _executing(case, target, edit, counters):
    with executing_cuda(target, edit, tf32=case.kind == "tf32") as session:
        session.counters = counters
        yield session


def _flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def _apart(flat, like):
    return [own.view(t.shape) for own, t in zip(flat.split([t.numel() for t in like]), like)]


def forward(case, target=80, edit=None, counters=None):
    """(the session, [out of each run])"""
    out = torch.full_like(_flat(case.grad), float("nan"))
    how = found(case.layer, "forward", case.kind, target)
    with _executing(case, target, edit, counters) as session:
        launches.forward(KERNELS, how, case.layer, case.runs, _flat(case.x), case.weights, out)
    return session, _apart(out, case.grad)


def plain_forward(case, run, dtype, operands):
    """PyTorch's own, of operands made by a function, in `dtype`."""
    layer = case.layer
    x, weight = (operands(t).to(dtype) for t in (case.x[run].transpose(1, 2), case.weight[run].transpose(1, 2)))
    y = F.conv1d(x, weight, case.bias[run].to(dtype), layer.stride, layer.padding, 1, layer.groups)
    return F.leaky_relu(y, layer.slope).transpose(1, 2)


def input_grad(case, target=80, edit=None, counters=None, given=None, matching=None):
    """(the session, [gradient of each run's x]); `given`: for each run a tensor like x, or None."""
    saved, slope = _flat(case.x), case.layer.slope
    grad_in = torch.full_like(saved, float("nan"))
    how = found(case.layer, "input_grad", case.kind, target)
    maps = tuple(given or [None] * len(case.runs)), matching
    with _executing(case, target, edit, counters) as session:
        tensors = _flat(case.grad), case.weights, saved, *maps, grad_in
        launches.input_grad(KERNELS, how, case.layer, slope, case.runs, *tensors)
    return session, _apart(grad_in, case.x)


def plain_input_grad(case, run, dtype, operands, given=None, matching=None):
    layer, x = case.layer, case.x[run].to(dtype)
    grad, weight = (operands(own[run]).transpose(1, 2).to(dtype) for own in (case.grad, case.weight))
    shape = len(x), layer.in_channels, x.shape[1]
    own = torch.nn.grad.conv1d_input(shape, weight, grad, layer.stride, layer.padding, 1, layer.groups).transpose(1, 2)
    if matching is not None:
        own = own + matching[run].to(dtype) * torch.sign(x - given[run].to(dtype))
    elif given is not None and given[run] is not None:
        own = own + given[run].to(dtype)
    return torch.where(x > 0, own, own * layer.slope)


def weight_grad(case, target=80, edit=None, counters=None):
    """(the session, [(gradient of weights, of biases) of each run])"""
    how = found(case.layer, "weight_grad", case.kind, target)
    with _executing(case, target, edit, counters) as session:
        tensors = _flat(case.x), _flat(case.grad), case.weights
        sums = launches.weight_grad(KERNELS, how, case.layer, case.runs, *tensors)
    splits = [slice(*sums.of_set[run.weights]) for run in case.runs]
    return session, [(sums.partial[own].double().sum(0), sums.bias[own].double().sum(0)) for own in splits]


def plain_weight_grad(case, run, dtype, operands):
    layer = case.layer
    x, grad = (operands(own[run]).transpose(1, 2).to(dtype) for own in (case.x, case.grad))
    shape = layer.out_channels, layer.in_channels // layer.groups, layer.taps
    weight = torch.nn.grad.conv1d_weight(x, shape, grad, layer.stride, layer.padding, 1, layer.groups)
    return weight.transpose(1, 2), case.grad[run].to(dtype).sum((0, 1))


def registers(layer, direction, kind, target):
    """(registers, bytes of stack) of a thread, as the assembler says; it says nothing of a warpgroup's products."""
    own, constants = found(layer, direction, kind, target)
    maps, floats = torch.empty(0, dtype=DTYPES[kind]), torch.empty(0)
    table = torch.empty(0, dtype=torch.int64)
    entry, args = {
        "forward": (KERNELS.window_forward, (maps, maps, floats, maps, table, table, table, 0.1)),
        "input_grad": (
            KERNELS.window_input_grad,
            (maps, maps, maps, (maps,) * 10, floats, maps, table, table, table, 0.1),
        ),
        "weight_grad": (KERNELS.window_weight_grad, (maps, maps, floats, floats, table, table, table)),
    }[direction]
    args, constants = kernel.arguments(entry, args, constants)
    included = compiler.headers() | {"specialised.cuh": kernel.specialisation(entry, args, constants)}
    log = _assembler_says(compiler.source(entry.source), included, f"{target}a" if own.warpgroups else target)
    assert "wgmma" not in log, log  # that it waits for each of them
    return tuple(int(re.search(pattern, log)[1]) for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack frame"))


def _assembler_says(source, included, target):
    names, texts = ([text.encode() for text in own] for own in (included, included.values()))
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", len(names), texts, names)
    options = [f"--gpu-architecture=sm_{target}", *compiler.OPTIONS["cubin"], "--ptxas-options=-v"]
    nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = bytes(nvrtc.nvrtcGetProgramLogSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(program)
    return log.decode()


def planted(file, right, wrong):
    """Within the block a source or header has another text."""

    def changed(text):
        assert right in text
        return text.replace(right, wrong)

    if file.endswith(".cuh"):
        headers = compiler.headers()
        return mock.patch.object(compiler, "headers", lambda: headers | {file: changed(headers[file])})
    source = compiler.source
    return mock.patch.object(
        compiler, "source", lambda name: changed(source(name)) if f"{name}.cu" == file else source(name)
    )

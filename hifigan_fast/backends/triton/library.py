"""A layer by PyTorch's own convolution, cuDNN's on a GPU: for the layer classes where the table says that it is faster.

It reads the same buffers without a copy, rows of channels are a channels-last map; but needs launches for each stack:
two or three forward and for weights, up to seven for an input gradient. It rounds where PyTorch does. Its results are
the same every run of a process.
"""

import contextlib
import threading
from dataclasses import replace

import torch

from ..contract import as_it_lies
from ..gpu.convolutions import Sums
from ..gpu.program import not_again
from ..gpu.tables import sets_of

ATEN = torch.ops.aten
_lock = threading.Lock()  # the flag is the process's, backward passes are threads


@contextlib.contextmanager
def _deterministic():
    with _lock:
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = before


def _follows(run, before):
    """Whether the rows of `run` are those behind `before`, under the same weights: the other side of its stack."""
    ins, outs = before.sequences * before.in_rows, before.sequences * before.out_rows
    return run == replace(
        before,
        samples=run.samples,
        in_offset=before.in_offset + ins,
        out_offset=before.out_offset + outs,
        grad_in_offset=before.grad_in_offset + ins,
        grad_out_offset=before.grad_out_offset + outs,
    )


def _joined(runs):
    """[(run, the runs that it is made of)]: those that follow one another are one."""
    found = []
    for run in runs:
        if found and _follows(run, found[-1][0]):
            whole, parts = found.pop()
            found.append((replace(whole, samples=whole.samples + run.samples), [*parts, run]))
        else:
            found.append((run, [run]))
    return found


def _rows(buffer, offset, run, rows, channels):
    """A run's rows as a view [sequences, channels, rows]."""
    part = buffer[offset * channels : (offset + run.sequences * rows) * channels]
    return part.view(run.sequences, rows, channels).transpose(1, 2)


def _inputs(layer, run, x):
    return _rows(x, run.in_offset, run, run.in_rows, layer.in_channels)


def _grads(layer, run, grad_out):
    return _rows(grad_out, run.grad_out_offset, run, run.out_rows, layer.out_channels)


def _weight(layer, weights, run):
    """[out, in / groups, taps], a view of the packed weights."""
    packed = weights.packed.view(-1, layer.out_channels, layer.taps, layer.in_channels // layer.groups)
    return packed[run.weights].transpose(1, 2)


def _geometry(layer):
    return [layer.stride], [layer.padding], [1], False, [0], layer.groups


def _backward(layer, run, grad_out, x, weights, wanted):
    operands = _grads(layer, run, grad_out), _inputs(layer, run, x), _weight(layer, weights, run)
    with _deterministic():
        return ATEN.convolution_backward(*operands, None, *_geometry(layer), wanted)


def forward(layer, runs, x, weights, out):
    not_again()
    for run, _ in _joined(runs):
        bias = weights.bias[run.weights].to(out.dtype)
        y = ATEN.convolution(_inputs(layer, run, x), _weight(layer, weights, run), bias, *_geometry(layer))
        ATEN.leaky_relu.out(y, layer.slope, out=_rows(out, run.out_offset, run, run.out_rows, layer.out_channels))


def input_grad(layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
    not_again()
    numbers = {run: number for number, run in enumerate(runs)}
    for whole, parts in _joined(runs):
        grad, _, _ = _backward(layer, whole, grad_out, saved, weights, [True, False, False])
        for run, own in zip(parts, grad.split([run.sequences for run in parts])):
            mask, given = _inputs(layer, run, saved), map_grads[numbers[run]]
            if given is not None:
                given = _rows(as_it_lies(given), 0, run, run.in_rows, layer.in_channels)
                by = None if matching is None else matching[numbers[run]].to(own.dtype)
                own = own + (given if by is None else (mask - given).sgn() * by)
            to = _rows(grad_in, run.grad_in_offset, run, run.in_rows, layer.in_channels)
            ATEN.leaky_relu_backward.grad_input(own, mask, slope, True, grad_input=to)


def weight_grad(layer, runs, x, grad_out, weights):
    """A split a set."""
    not_again()
    sets = sets_of(runs)
    shape = len(sets), layer.out_channels, layer.taps, layer.in_channels // layer.groups
    sums = torch.zeros(shape, dtype=torch.float32, device=x.device)
    bias = sums.new_zeros(shape[:2])
    for run, _ in _joined(runs):
        _, found, _ = _backward(layer, run, grad_out, x, weights, [False, True, False])
        own = sets.index(run.weights)
        sums[own] += found.transpose(1, 2)
        bias[own] += _grads(layer, run, grad_out).sum((0, 2), dtype=torch.float32)
    return Sums(sums, bias, {s: (i, i + 1) for i, s in enumerate(sets)})

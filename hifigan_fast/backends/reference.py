"""The contract in plain PyTorch, for any device and floating dtype: what the other backends are held against."""

import torch
import torch.nn.functional as F

from .contract import as_it_lies
from .setwise import SetwiseBackend


def _folded(waves, run):
    """The run's waveforms as the stem sees them: reflect-padded and folded, in the shape of `_map`."""
    wave = waves[run.in_offset : run.in_offset + run.samples * run.in_rows].view(run.samples, 1, run.in_rows)
    padding = -run.in_rows % run.period
    wave = F.pad(wave, (0, padding), "reflect") if padding else wave
    return wave if run.period == 1 else wave.unflatten(2, (-1, run.period))


def _map(buffer, offset, run, rows, channels, head=False):
    """A run's rows as a view [samples, channels, rows, period], without the last at period 1; a head's are H-major."""
    part = buffer[offset * channels : (offset + run.sequences * rows) * channels]
    if head:
        view = part.view(run.samples, 1, rows, run.period)
    else:
        view = part.view(run.samples, run.period, rows, channels).permute(0, 3, 2, 1)
    return view.squeeze(3) if run.period == 1 else view


def _geometry(layer, run):
    """What torch.convolution and its backward take after the weight: a (taps × 1) kernel, or taps at period 1."""
    dims = 1 if run.period == 1 else 2
    zeros = [0] * (dims - 1)
    return [layer.stride, *[1] * (dims - 1)], [layer.padding, *zeros], [1] * dims, False, [0, *zeros], layer.groups


def _backward(layer, run, grad, x, weight, wanted):
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *_geometry(layer, run), wanted)


class ReferenceBackend(SetwiseBackend):
    name = "reference"

    def cannot_run(self, device, dtype):
        return None if dtype.is_floating_point else f"dtype {dtype} is not floating"

    def row_norms(self, raw):
        return raw.flatten(1).norm(dim=1)

    def _effective(self, weights, run, dtype):
        weight = weights.sets[run.weights].raw.flatten(2) * weights.scales[run.weights][:, None, None]
        weight = weight.to(dtype)
        return weight if run.period == 1 else weight.unsqueeze(3)

    def _input(self, role, layer, run, x):
        if role == "stem":
            return _folded(x, run)
        return _map(x, run.in_offset, run, run.in_rows, layer.in_channels).contiguous()

    def _grad_out(self, role, layer, run, grad_out):
        return _map(grad_out, run.grad_out_offset, run, run.out_rows, layer.out_channels, role == "head").contiguous()

    def forward(self, role, layer, runs, x, weights, out):
        for run in runs:
            weight, inputs = self._effective(weights, run, out.dtype), self._input(role, layer, run, x).to(out.dtype)
            y = torch.convolution(inputs, weight, weights.bias[run.weights].to(out.dtype), *_geometry(layer, run))
            view = _map(out, run.out_offset, run, run.out_rows, layer.out_channels, role == "head")
            view.copy_(F.leaky_relu(y, layer.slope))

    def _conv_input_grad(self, role, layer, run, grad_out, weights, rows):
        grad = self._grad_out(role, layer, run, grad_out)
        shape = (run.samples, layer.in_channels, rows, *grad.shape[3:])
        x = grad.new_empty(1).expand(shape)
        return _backward(layer, run, grad, x, self._effective(weights, run, grad.dtype), [True, False, False])[0]

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        for index, (run, map_grad) in enumerate(zip(runs, map_grads)):
            grad = self._conv_input_grad(role, layer, run, grad_out, weights, run.in_rows)
            mask = _map(saved, run.in_offset, run, run.in_rows, layer.in_channels)
            if map_grad is not None:
                given = _map(as_it_lies(map_grad), 0, run, run.in_rows, layer.in_channels)
                grad = grad + (given if matching is None else (mask - given).sgn() * matching[index].to(grad.dtype))
            view = _map(grad_in, run.grad_in_offset, run, run.in_rows, layer.in_channels)
            view.copy_(torch.where(mask > 0, grad, grad * slope))

    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        for run in runs:
            rows = -(-run.in_rows // run.period)
            grad = self._conv_input_grad("stem", layer, run, grad_out, weights, rows).flatten(1)
            padding = rows * run.period - run.in_rows
            wave = grad_waves[run.grad_in_offset : run.grad_in_offset + run.samples * run.in_rows]
            wave = wave.view(run.samples, run.in_rows)
            wave += grad[:, : run.in_rows]
            if padding:  # the pad mirrors the samples before the last
                wave[:, -1 - padding : -1] += grad[:, run.in_rows :].flip(1)

    def _raw_grads(self, weights, grads):
        results = []
        for s, scale, norm, grad in zip(weights.sets, weights.scales, weights.norms, grads):
            raw = s.raw.flatten(2)
            inner = (grad * raw).flatten(1).sum(1)
            if norm is not None:
                grad = grad - (inner / norm**2)[:, None, None] * raw
            results.append((grad * scale[:, None, None], inner))
        return results

    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        sets = len(weights.sets)
        shape = (layer.out_channels, layer.in_channels // layer.groups, layer.taps)
        like = weights.sets[0].raw
        grads = [like.new_zeros(shape) for _ in range(sets)]
        bias = like.new_zeros(sets, layer.out_channels)
        for run in runs:
            grad = self._grad_out(role, layer, run, grad_out)
            inputs = self._input(role, layer, run, x).to(grad.dtype)
            weight = grad.new_empty(1).expand(*shape, *[1] * (grad.dim() - 3))
            found = _backward(layer, run, grad, inputs, weight, [False, True, False])[1]
            grads[run.weights] += found.view(shape)
            bias[run.weights] += grad.flatten(2).sum((0, 2))
        return self._raw_grads(weights, grads), bias

    def feature_l1(self, real, generated):
        dtype = torch.promote_types(real[0].dtype, torch.float32)
        return torch.stack([(r.to(dtype) - g.to(dtype)).abs().mean() for r, g in zip(real, generated)])

    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        grads_generated = [(g - r).sgn() * (grad / r.numel()) for r, g, grad in zip(real, generated, grads)]
        grads_real = [-grad if want else None for grad, want in zip(grads_generated, want_real)]
        return grads_real, [grad if want else None for grad, want in zip(grads_generated, want_generated)]

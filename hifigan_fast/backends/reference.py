"""The contract in plain PyTorch, for any device and floating dtype: what the other backends are held against."""

import torch
import torch.nn.functional as F

from .contract import Backend


def folded(waves, run):
    """The run's waveforms [samples, period, rows] as the stem sees them: reflect-padded and folded."""
    wave = waves[run.in_offset : run.in_offset + run.samples * run.in_rows].view(run.samples, 1, run.in_rows)
    wave = F.pad(wave, (0, -run.in_rows % run.period), "reflect") if run.in_rows % run.period else wave
    return wave.view(run.samples, -1, run.period).transpose(1, 2)


def _rows(buffer, offset, run, rows, channels, role_head=False):
    """A run's rows as a view [sequences, channels, rows]; a head's are H-major."""
    part = buffer[offset * channels : (offset + run.sequences * rows) * channels]
    if role_head:
        return part.view(run.samples, rows, run.period).transpose(1, 2)
    return part.view(run.sequences, rows, channels).transpose(1, 2)


class ReferenceBackend(Backend):
    name = "reference"

    def cannot_run(self, device, dtype):
        return None if dtype.is_floating_point else f"dtype {dtype} is not floating"

    def row_norms(self, raw):
        return raw.flatten(1).norm(dim=1)

    def normalise_weights_backward(self, layer, weights, grads):
        results = []
        for s, scale, norm, grad in zip(weights.sets, weights.scales, weights.norms, grads):
            inner = (grad * s.raw).flatten(1).sum(1)
            if norm is not None:
                grad = grad - (inner / norm**2)[:, None, None] * s.raw
            results.append((grad * scale[:, None, None], inner))
        return results

    def _effective(self, weights, run):
        return weights.sets[run.weights].raw * weights.scales[run.weights][:, None, None]

    def _input(self, role, layer, run, x):
        if role == "stem":
            return folded(x, run).reshape(run.sequences, 1, -1)
        return _rows(x, run.in_offset, run, run.in_rows, layer.in_channels)

    def _grad_out(self, role, layer, run, grad_out):
        part = _rows(grad_out, run.grad_out_offset, run, run.out_rows, layer.out_channels, role == "head")
        return part.reshape(run.sequences, layer.out_channels, run.out_rows)

    def forward(self, role, layer, runs, x, weights, bias, out):
        for run in runs:
            weight = self._effective(weights, run)
            y = F.conv1d(
                self._input(role, layer, run, x), weight, bias[run.weights], layer.stride, layer.padding, 1, layer.groups
            )
            y = F.leaky_relu(y, layer.slope)
            view = _rows(out, run.out_offset, run, run.out_rows, layer.out_channels, role == "head")
            view.copy_(y.view(view.shape))

    def _conv_input_grad(self, layer, run, grad, weight, rows):
        shape = (run.sequences, layer.in_channels, rows)
        return torch.nn.grad.conv1d_input(shape, weight, grad, layer.stride, layer.padding, 1, layer.groups)

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, grad_in):
        for run, map_grad in zip(runs, map_grads):
            grad = self._grad_out(role, layer, run, grad_out)
            grad = self._conv_input_grad(layer, run, grad, self._effective(weights, run), run.in_rows)
            if map_grad is not None:
                grad = grad + _rows(map_grad.reshape(-1), 0, run, run.in_rows, layer.in_channels)
            mask = _rows(saved, run.in_offset, run, run.in_rows, layer.in_channels)
            view = _rows(grad_in, run.grad_in_offset, run, run.in_rows, layer.in_channels)
            view.copy_(torch.where(mask > 0, grad, grad * slope))

    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        for run in runs:
            rows = -(-run.in_rows // run.period)
            grad = self._grad_out("stem", layer, run, grad_out)
            grad = self._conv_input_grad(layer, run, grad, self._effective(weights, run), rows)
            grad = grad.view(run.samples, run.period, rows).transpose(1, 2).reshape(run.samples, -1)
            padding = rows * run.period - run.in_rows
            wave = grad_waves[run.grad_in_offset : run.grad_in_offset + run.samples * run.in_rows]
            wave = wave.view(run.samples, run.in_rows)
            wave += grad[:, : run.in_rows]
            if padding:  # the pad mirrors the samples before the last
                wave[:, -1 - padding : -1] += grad[:, run.in_rows :].flip(1)

    def weight_grad(self, role, layer, runs, x, grad_out, sets):
        shape = (layer.out_channels, layer.in_channels // layer.groups, layer.taps)
        grads = [grad_out.new_zeros(shape) for _ in range(sets)]
        bias = grad_out.new_zeros(sets, layer.out_channels)
        for run in runs:
            grad = self._grad_out(role, layer, run, grad_out)
            inputs = self._input(role, layer, run, x)
            grads[run.weights] += torch.nn.grad.conv1d_weight(
                inputs, shape, grad, layer.stride, layer.padding, 1, layer.groups
            )
            bias[run.weights] += grad.sum((0, 2))
        return grads, bias

    def feature_l1(self, real, generated):
        return torch.stack([(r - g).abs().mean() for r, g in zip(real, generated)])

    def feature_l1_backward(self, real, generated, grads, want_real, want_generated):
        grads_generated = [(g - r).sgn() * (grad / r.numel()) for r, g, grad in zip(real, generated, grads)]
        grads_real = [-grad if want else None for grad, want in zip(grads_generated, want_real)]
        return grads_real, [grad if want else None for grad, want in zip(grads_generated, want_generated)]

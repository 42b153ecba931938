"""Each class is the reference backend with one mistake that somebody's port has made."""

import copy
from dataclasses import replace

import torch

from hifigan_fast.backends.contract import as_it_lies
from hifigan_fast.backends.reference import ReferenceBackend


class PadOffByOne(ReferenceBackend):
    def _input(self, role, layer, run, x):
        return super()._input(role, layer, run, x).roll(1, dims=2)


class BiasForgotten(ReferenceBackend):
    def forward(self, role, layer, runs, x, weights, out):
        bare = copy.copy(weights)
        bare.bias = torch.zeros_like(weights.bias)
        super().forward(role, layer, runs, x, bare, out)


class MaskOfTheWrongSign(ReferenceBackend):
    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        super().input_grad(role, layer, slope, runs, grad_out, weights, -saved, map_grads, matching, grad_in)


class SidesSwapped(ReferenceBackend):
    def forward(self, role, layer, runs, x, weights, out):
        if role == "head" and len(runs) > 1:
            offsets = (runs[1].out_offset, runs[0].out_offset)
            runs = (*(replace(run, out_offset=at) for run, at in zip(runs, offsets)), *runs[2:])
        super().forward(role, layer, runs, x, weights, out)


class LastRowUnwritten(ReferenceBackend):
    def forward(self, role, layer, runs, x, weights, out):
        last = out[-layer.out_channels :].clone()
        super().forward(role, layer, runs, x, weights, out)
        out[-layer.out_channels :] = last


class OneSigmaForBothSides(ReferenceBackend):
    def prepare(self, layers, sets, dtype):
        return super().prepare(layers, [[replace(s, sigma=own[0].sigma) for s in own] for own in sets], dtype)


class MapGradientForgotten(ReferenceBackend):
    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        super().input_grad(role, layer, slope, runs, grad_out, weights, saved, [None] * len(runs), None, grad_in)


class MapGradientMasked(ReferenceBackend):
    """The caller's gradient of a map belongs before the mask, not after it."""

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        super().input_grad(role, layer, slope, runs, grad_out, weights, saved, [None] * len(runs), None, grad_in)
        for run, grad in zip(runs, map_grads):
            if grad is not None:
                at = run.grad_in_offset * layer.in_channels
                grad_in[at : at + grad.numel()] += as_it_lies(grad)


class HeadNotHMajor(ReferenceBackend):
    def forward(self, role, layer, runs, x, weights, out):
        super().forward(role, layer, runs, x, weights, out)
        if role == "head":
            for run in runs:
                part = out[run.out_offset : run.out_offset + run.sequences * run.out_rows]
                turned = part.view(run.samples, run.out_rows, run.period).transpose(1, 2).reshape(-1)
                part.copy_(turned)


class NormTakenForConstant(ReferenceBackend):
    """Weight norm's length depends on the direction: its gradient has a second term."""

    def _raw_grads(self, weights, grads):
        right = super()._raw_grads(weights, grads)
        plain = [grad * scale[:, None, None] for grad, scale in zip(grads, weights.scales)]
        return [(grad, inner) for grad, (_, inner) in zip(plain, right)]


class LastTapForgotten(ReferenceBackend):
    def _conv_input_grad(self, role, layer, run, grad_out, weights, rows):
        cut, left = copy.copy(weights), torch.arange(layer.taps) < max(1, layer.taps - 1)
        cut.sets = [replace(s, raw=s.raw.flatten(2) * left) for s in weights.sets]
        return super()._conv_input_grad(role, layer, run, grad_out, cut, rows)


class SecondSideLeftOutOfBias(ReferenceBackend):
    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        grads, _ = super().weight_grad(role, layer, runs, x, grad_out, weights)
        seen, first = set(), []
        for run in runs:
            if run.weights not in seen:
                first.append(run)
            seen.add(run.weights)
        return grads, super().weight_grad(role, layer, tuple(first), x, grad_out, weights)[1]


class MirrorForgottenInBackward(ReferenceBackend):
    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        right = torch.zeros_like(grad_waves)
        super().stem_input_grad(layer, runs, grad_out, weights, right)
        for run in runs:
            padding = -run.in_rows % run.period
            if padding:
                right.view(-1, run.in_rows)[:, -1 - padding : -1] *= 0.9
        grad_waves += right


class LaterRunOverwrites(ReferenceBackend):
    def stem_input_grad(self, layer, runs, grad_out, weights, grad_waves):
        super().stem_input_grad(layer, runs[-1:], grad_out, weights, grad_waves)


class OtherSlope(ReferenceBackend):
    def forward(self, role, layer, runs, x, weights, out):
        slope = layer.slope if layer.slope == 1 else 0.01
        super().forward(role, replace(layer, slope=slope), runs, x, weights, out)


class WeightsInHalf(ReferenceBackend):
    """Right but imprecise: the tolerance must be sharp enough to see bfloat16 in float32."""

    def _effective(self, weights, run, dtype):
        return super()._effective(weights, run, dtype).bfloat16().to(dtype)


ALL = [cls for cls in ReferenceBackend.__subclasses__() if cls.__module__ == __name__]

"""Stems of the CUDA backend by themselves: waveforms and gradients of some runs, and what PyTorch makes of them."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from hifigan_fast.backends.cuda.kernels import CudaKernels
from hifigan_fast.backends.gpu import convolutions
from hifigan_fast.geometry import Layer, Run

from .launch import executing_cuda
from .windows import DTYPES

KERNELS = CudaKernels()
PERIOD, SCALE = Layer(1, 32, 5, 3, 2), Layer(1, 128, 15, 1, 7)  # as HiFi-GAN's discriminators have them


@dataclass
class Case:
    """A stem's tensors; runs have weights of their own. In half precision waveforms are rounded where they are read.

    Attributes:
        waves: of each waveform [sample, length], in float32; read: which of them each run reads.
        grads: of each run [sequence, row, channel], in the maps' dtype.
        weight: [run, out, taps], in the maps' dtype; bias: [run, out].
    """

    layer: Layer
    kind: str
    runs: tuple
    waves: list
    read: list
    grads: list
    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, layer, kind, shapes):
        """`shapes`: (period, samples, length) of each run; those of equal samples and lengths read one waveform."""
        random, dtype = torch.Generator().manual_seed(0), DTYPES[kind]
        waves, places, runs, grads, to = {}, {}, [], [], 0
        for number, (period, *shape) in enumerate(shapes):
            size = tuple(shape)
            if size not in waves:
                places[size] = sum(own.numel() for own in waves.values())
                waves[size] = torch.randn(size, generator=random)
            rows, at = layer.out_rows(-(-size[1] // period)), places[size]
            runs.append(Run(number, size[0], period, size[1], rows, at, to, at, to))
            grads.append(torch.randn(runs[-1].sequences, rows, layer.out_channels, generator=random).to(dtype))
            to += runs[-1].sequences * rows
        read = [list(waves).index(tuple(shape)) for _, *shape in shapes]
        weight = torch.randn(len(runs), layer.out_channels, layer.taps, generator=random) / layer.taps**0.5
        bias = torch.randn(len(runs), layer.out_channels, generator=random)
        return cls(layer, kind, tuple(runs), list(waves.values()), read, grads, weight.to(dtype), bias)

    @property
    def weights(self):
        return SimpleNamespace(packed=self.weight, bias=self.bias)

    @property
    def x(self):
        return torch.cat([wave.flatten() for wave in self.waves])

    @property
    def grad(self):
        return torch.cat([grad.flatten() for grad in self.grads])


def _forward(case):
    """[out of each run]"""
    out = torch.full_like(case.grad, float("nan"))
    convolutions.forward(KERNELS, "stem", case.layer, case.runs, case.x, case.weights, out)
    return [own.view(t.shape) for own, t in zip(out.split([t.numel() for t in case.grads]), case.grads)]


def _weight_grad(case):
    """[gradient of weights and of biases of each run]"""
    sums = convolutions.weight_grad(KERNELS, "stem", case.layer, case.runs, case.x, case.grad, case.weights)
    splits = [slice(*sums.of_set[run.weights]) for run in case.runs]
    return [own.double().sum(0) for of in splits for own in (sums.partial[of][..., 0], sums.bias[of])]


def _input_grad(case):
    """[gradient of each waveform]"""
    grad_waves = torch.full_like(case.x, float("nan"))
    convolutions.stem_input_grad(KERNELS, case.layer, case.runs, case.grad, case.weights, grad_waves)
    return [own.view(t.shape) for own, t in zip(grad_waves.split([t.numel() for t in case.waves]), case.waves)]


LAUNCHED = {"forward": _forward, "weight_grad": _weight_grad, "input_grad": _input_grad}


def executed(case, direction, target=80, counters=None):
    """(the session, what `LAUNCHED` returns)"""
    with executing_cuda(target, tf32=case.kind == "tf32") as session:
        session.counters = counters
        return session, LAUNCHED[direction](case)


def _folded(wave, period):
    """[sequence, 1, row]"""
    wave = F.pad(wave[:, None], (0, -wave.shape[1] % period), "reflect")
    return wave.view(len(wave), -1, period).transpose(1, 2).reshape(-1, 1, wave.shape[-1] // period)


def plain(case, dtype):
    """PyTorch's own in `dtype`, of operands as the maps have them -> {direction: as `LAUNCHED` returns it}."""
    layer, maps = case.layer, DTYPES[case.kind]
    waves = [wave.to(maps).to(dtype).detach().requires_grad_() for wave in case.waves]
    weight, bias = (t.to(dtype).detach().requires_grad_() for t in (case.weight, case.bias))
    found = {"forward": []}
    total = 0
    for number, run in enumerate(case.runs):
        x = _folded(waves[case.read[number]], run.period)
        y = F.conv1d(x, weight[number][:, None], bias[number], layer.stride, layer.padding).transpose(1, 2)
        found["forward"].append(F.leaky_relu(y, layer.slope).detach())
        total = total + (y * case.grads[number].to(dtype)).sum()
    total.backward()
    found["weight_grad"] = [grad for own in zip(weight.grad, bias.grad) for grad in own]
    found["input_grad"] = [wave.grad for wave in waves]
    return found

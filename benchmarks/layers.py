"""The layers of docs/design.md's table, one at a time: ours through the contract, and plain PyTorch's convolution."""

import torch
import torch.nn.functional as F

from hifigan_fast import dispatch
from hifigan_fast.backends.contract import WeightSet
from hifigan_fast.discriminators import DiscriminatorP, DiscriminatorS, stack_of
from hifigan_fast.geometry import Run

PERIOD = 5  # stands for the five: their rows are as many


def table():
    """{name: (layer, role, input rows, sequences a sample)} for a segment of 8192."""
    found = {}
    for prefix, stack, period in (
        ("P", stack_of(DiscriminatorP(PERIOD)), PERIOD),
        ("S", stack_of(DiscriminatorS()), 1),
    ):
        rows = stack.rows(8192)
        for depth, layer in enumerate(stack.layers):
            role = {0: "stem", len(stack.layers) - 1: "head"}.get(depth, "conv")
            found[f"{prefix}{depth}"] = (layer, role, rows[depth], period)
    return found


class LayerCase:
    """One layer's operands, and a callable for each direction and implementation."""

    def __init__(self, name, batch, backend="cpu"):
        self.layer, self.role, self.in_rows, period = table()[name]
        layer = self.layer
        self.out_rows = layer.out_rows(self.in_rows)
        self.backend = dispatch.BACKENDS[backend]
        stem = self.role == "stem"
        in_rows = 8192 if stem else self.in_rows
        self.runs = (Run(0, batch, period, in_rows, self.out_rows, 0, 0, 0, 0),)
        sequences = batch * period
        random = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch * 8192 if stem else sequences * in_rows * layer.in_channels, generator=random)
        self.grad = torch.randn(sequences * self.out_rows * layer.out_channels, generator=random)
        raw = torch.randn(layer.out_channels, layer.in_channels // layer.groups, layer.taps, generator=random)
        self.weights = self.backend.normalise_weights(layer, [WeightSet(raw, torch.rand(layer.out_channels))])
        self.bias = torch.zeros(1, layer.out_channels)
        self.plain_x = torch.randn(sequences, layer.in_channels, self.in_rows, generator=random)
        self.plain_grad = torch.randn(sequences, layer.out_channels, self.out_rows, generator=random)
        self.flops = layer.flops(sequences * self.out_rows)

    def ours(self, direction):
        b, layer, role, runs = self.backend, self.layer, self.role, self.runs
        if direction == "forward":
            return lambda: b.forward(role, layer, runs, self.x, self.weights, self.bias, torch.empty_like(self.grad))
        if direction == "weight gradient":
            return lambda: b.weight_grad(role, layer, runs, self.x, self.grad, 1)
        if role == "stem":
            return lambda: b.stem_input_grad(layer, runs, self.grad, self.weights, torch.zeros_like(self.x))
        return lambda: b.input_grad(
            role, layer, 0.1, runs, self.grad, self.weights, self.x, [None], torch.empty_like(self.x)
        )

    def plain(self, direction):
        layer, weight = self.layer, self.weights.sets[0].raw
        if direction == "forward":
            args = (layer.stride, layer.padding, 1, layer.groups)
            return lambda: F.leaky_relu(F.conv1d(self.plain_x, weight, self.bias[0], *args), 0.1)
        wanted = [direction == "input gradient", direction == "weight gradient", direction == "weight gradient"]
        geometry = ([layer.stride], [layer.padding], [1], False, [0], layer.groups)
        return lambda: torch.ops.aten.convolution_backward(
            self.plain_grad, self.plain_x, weight, [layer.out_channels], *geometry, wanted
        )

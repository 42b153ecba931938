"""Long sums in exact float32 are made of parts: one chain of multiply-adds has several times their error."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hifigan_fast import dispatch
from hifigan_fast.geometry import Layer, Run

from .launch import executing

LAYER, ROWS = Layer(32, 16, 41, 1, 20, slope=1.0), 64


def operands():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, ROWS, LAYER.in_channels, generator=random)
    return x, torch.randn(LAYER.out_channels, LAYER.taps, LAYER.in_channels, generator=random)


def products(x, weight):
    """[rows, out channels, taps × channels], in the order of the kernel's sum."""
    padded = torch.nn.functional.pad(x[0], (0, 0, LAYER.padding, LAYER.padding))
    windows = padded.unfold(0, LAYER.taps, 1).transpose(1, 2).flatten(1)
    return windows[:, None] * weight.flatten(1)[None]


@pytest.mark.parametrize("target", [80, 90])
def test_forward(target):
    x, weight = operands()
    bias, out = torch.zeros(LAYER.out_channels), torch.empty(1, ROWS, LAYER.out_channels)
    with executing(target) as session:
        weights = SimpleNamespace(packed=weight.flatten(), bias=bias)
        runs = (Run(0, 1, 1, ROWS, ROWS, 0, 0, 0, 0),)
        dispatch.BACKENDS["triton"].forward("conv", LAYER, runs, x.flatten(), weights, out.view(-1))
    assert not session.faults, str(session.faults)
    right = products(x.double(), weight.double()).sum(-1)
    chain = torch.from_numpy(np.add.accumulate(products(x, weight).numpy(), -1, dtype=np.float32)[..., -1])
    ours, plain = ((own - right).square().mean().sqrt() for own in (out[0], chain))
    assert ours < plain / 2

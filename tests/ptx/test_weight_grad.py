"""`convolution.weight_grad`, compiled with the shipped configurations for two generations, executed."""

import pytest
import torch
import torch.nn.functional as F

from hifigan_fast import dispatch, parity
from hifigan_fast.geometry import Layer, Run

from .launch import executing

TARGETS = (80, 90)
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAYERS = {
    "stem": Layer(1, 64, 5, 3, 2),
    "narrow": Layer(32, 64, 9, 2, 4, 4),
    "grouped": Layer(128, 128, 5, 1, 2, 4),
    "wide groups": Layer(64, 128, 9, 4, 4, 2),
    "dense": Layer(128, 128, 3, 1, 1),
    "odd": Layer(72, 80, 3, 3, 1),
    "head": Layer(128, 1, 3, 1, 1, slope=1.0),
}
# (sequences, output rows): longer than a tile, several in one, and a row each.
SEQUENCES = ((2, 131), (30, 7), (40, 1))


def plain(layer, x, grad):
    """Gradients of a layer's weight [out, taps, in / groups] and bias, by PyTorch in the operands' dtype."""
    like = {"dtype": x.dtype, "requires_grad": True}
    weight = torch.zeros(layer.out_channels, layer.in_channels // layer.groups, layer.taps, **like)
    bias = torch.zeros(layer.out_channels, **like)
    given = x.transpose(1, 2), weight, bias, layer.stride, layer.padding, 1, layer.groups
    F.conv1d(*given)[..., : grad.shape[1]].backward(grad.transpose(1, 2))
    return weight.grad.transpose(1, 2), bias.grad


def executed(name, arithmetic, target, edit=None):
    """(the session, [(ours, plain PyTorch's, right)] of weights and biases of each set)."""
    layer, dtype, random = LAYERS[name], DTYPES[arithmetic], torch.Generator().manual_seed(0)
    runs, sides, at, to = [], [], 0, 0
    for weights, (samples, rows) in enumerate(SEQUENCES):
        in_rows = (rows - 1) * layer.stride + 1
        runs.append(Run(weights, samples, 1, in_rows, rows, at, to, at, to))
        x = torch.randn(samples, in_rows, layer.in_channels, generator=random)
        grad = torch.randn(samples, rows, layer.out_channels, generator=random)
        sides.append((x.to(dtype), grad.to(dtype)))
        at, to = at + samples * in_rows, to + samples * rows
    with executing(target, edit, tf32=arithmetic == "tf32") as session:
        x, grad = (torch.cat([side[n].flatten() for side in sides]) for n in range(2))
        role = name if name in ("stem", "head") else "conv"
        sums = dispatch.BACKENDS["triton"].weight_grad(role, layer, tuple(runs), x, grad, None)
    judged = []
    for weights, pair in enumerate(sides):
        begin, end = sums.of_set[weights]
        ours = [part[begin:end].sum(0) for part in (sums.partial, sums.bias)]
        theirs, right = (plain(layer, *(t.to(kind) for t in pair)) for kind in (torch.float32, torch.float64))
        if arithmetic == "tf32" and role == "conv":  # the product's operands in float16, which has as many bits
            theirs = plain(layer, *(t.half().float() for t in pair))[0], theirs[1]
        judged += zip(ours, theirs, right)
    return session, judged


def judge(session, judged):
    assert not session.faults, str(session.faults)
    for ours, theirs, right in judged:
        pair = [((ours, right), (theirs, right))]
        assert parity.error_ratio(pair, parity.FLOOR_ULPS, torch.finfo(torch.float32).eps) <= parity.LIMIT


@pytest.mark.parametrize("target", TARGETS)
def test_weight_grad(target):
    session, judged = executed("dense", "bfloat16", target)
    assert ("wgmma" if target == 90 else "mma.sync") in session.texts[0]
    judge(session, judged)


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("arithmetic", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_class(name, arithmetic, target):
    judge(*executed(name, arithmetic, target))

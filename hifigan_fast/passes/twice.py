"""A backward pass by differentiating plain PyTorch operations: slow, and differentiable again."""

import itertools

import torch
import torch.nn.functional as F

from .. import norms
from ..reference import losses
from .maps import maps_of


def differentiable_grads(call, tensors, needs, buffers, map_grads, kind, adversarial, features):
    """Gradients of a call's flat arguments `tensors` that `needs` one; differentiable again where that is enabled.

    Args:
        buffers: as they were saved; map_grads, kind, adversarial, features: as `operators.start_of` takes them.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: a scale's waveform is pooled from another one, and the way through that one is not this call's.
        tensors = [None if t is None else t.view_as(t) for t in tensors]
        with torch.autocast(next(t for t in tensors if t is not None).device.type, enabled=False):
            outputs, given = _plain_maps(call, tensors), map_grads
        if kind:
            if any(m is None for m in outputs):  # constants, as they were saved
                known = maps_of(call.ensemble, [b.to(call.dtype) for b in buffers])
                outputs = [k if m is None else m for m, k in zip(outputs, known)]
            outputs = _plain_losses(call, kind, outputs)
            given = [adversarial, features]
    used = [(m, grad) for m, grad in zip(outputs, given) if m is not None and grad is not None and m.requires_grad]
    if not used:
        return [None] * len(tensors)
    wanted = [t for t, need in zip(tensors, needs) if need]
    outputs, given = zip(*used)
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in needs]


def _plain_maps(call, tensors):
    """The maps in the order of the operator; None where the waveform was not kept: nothing of it has a gradient."""
    waves, layers = call.split(tensors)
    e, maps = call.ensemble, []
    for side, stack in itertools.product(range(e.sides), range(len(e.stacks))):
        if waves[side][e.waves[stack]] is None:
            maps += [None] * len(e.layers)
            continue
        x = _fold(waves[side][e.waves[stack]].to(call.dtype), e.stacks[stack])
        states = call.states[e.weight_sets[stack][side]]
        for layer, (raw, magnitude, bias), state in zip(e.layers, layers[stack], states):
            weight, bias = norms.effective(raw, magnitude, state).flatten(2).to(call.dtype), bias.to(call.dtype)
            if e.stacks[stack].folded:
                weight = weight.unsqueeze(3)
                x = F.conv2d(x, weight, bias, (layer.stride, 1), (layer.padding, 0), 1, layer.groups)
            else:
                x = F.conv1d(x, weight, bias, layer.stride, layer.padding, 1, layer.groups)
            x = x if layer.slope == 1 else F.leaky_relu(x, layer.slope)
            maps.append(x)
    return maps


def _plain_losses(call, kind, maps):
    """(adversarial, features) of maps in the order of the operator."""
    depths = len(call.ensemble.layers)
    maps = losses.in_float32(maps)
    stacks = [maps[i : i + depths] for i in range(0, len(maps), depths)]
    real, fake = stacks[: len(stacks) // 2], stacks[len(stacks) // 2 :]
    if kind == "discriminator":
        return losses.discriminator_loss([s[-1] for s in real], [s[-1] for s in fake])[0], None
    return losses.generator_loss([s[-1] for s in fake])[0], losses.feature_loss(real, fake)


def _fold(wave, stack):
    if not stack.folded:
        return wave
    padding = -wave.shape[-1] % stack.period
    wave = F.pad(wave, (0, padding), "reflect") if padding else wave
    return wave.unflatten(2, (-1, stack.period))

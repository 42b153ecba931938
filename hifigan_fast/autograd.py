"""An ensemble's operators, differentiable: what is saved, for which gradients, and how to differentiate twice."""

import itertools

import torch
import torch.nn.functional as F

from . import norms, operators, passes
from .operators import LIBRARY

OPERATORS = torch.ops.hifigan_fast


LIBRARY.define(
    f"ensemble(Tensor[] waves, Tensor?[] parameters, Tensor?[] states, {operators.DESCRIPTION}) -> Tensor[] maps"
)


def run_ensemble(call, waves, parameters):
    """Feature maps [side][stack][depth] in the reference's logical shapes, the raw head map last.

    Args:
        call: a `passes.Call`.
        waves: [side][wave], each [samples, 1, length].
        parameters: [stack][depth] of `norms.Parameters`.
    """
    flat = [t for stack in parameters for p in stack for t in (p.raw, p.magnitude, p.bias)]
    sides, e = [wave for side in waves for wave in side], call.ensemble
    maps = iter(OPERATORS.ensemble.default(sides, flat, call.flat_states(), *operators.description(call)))
    return [[list(itertools.islice(maps, len(e.layers))) for _ in e.stacks] for _ in range(e.sides)]


@torch.no_grad()
def spectral_states(convs, calls, backend):
    """The `norms.Spectral` of the next `calls` calls of `convs`, [call][conv]; None where a conv has another norm.

    Moves `weight_u` and `weight_v` as the calls would, in training mode (torch.nn.utils.spectral_norm).
    """
    states = [[None] * len(convs) for _ in range(calls)]
    for (eps, iterations), members in norms.spectral_groups(convs).items():
        own = [convs[index] for index in members]
        us, vs = [conv.weight_u for conv in own], [conv.weight_v for conv in own]
        matrices = [conv.weight_orig.flatten(1) for conv in own]
        u, v, sigma = OPERATORS.power_iterations.default(matrices, us, vs, eps, iterations, calls, backend.name)
        for call, found in enumerate(states):
            if iterations:
                us, vs = u[call].split([len(own) for own in us]), v[call].split([len(own) for own in vs])
            for index, *state in zip(members, us, vs, sigma[call if iterations else 0].unbind()):
                found[index] = norms.Spectral(*state)
    return states


def _ensemble(waves, parameters, states, *numbers):
    """The operator of a call: opaque to what traces Python, made of differentiable operators to what traces those."""
    return _EnsembleFunction.apply(numbers, len(waves), len(parameters), *waves, *parameters, *states)


LIBRARY.impl("ensemble", _ensemble, "CompositeImplicitAutograd")


class _EnsembleFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, numbers, wave_count, parameter_count, *tensors):
        ctx.set_materialize_grads(False)
        inputs = tensors[: wave_count + parameter_count]
        waves, parameters, states = inputs[:wave_count], inputs[wave_count:], tensors[len(inputs) :]
        buffers, scaling, packed = OPERATORS.ensemble_forward.default(waves, parameters, states, *numbers)
        ctx.numbers, ctx.counts = numbers, (wave_count, parameter_count, len(states))
        ctx.samples, ctx.lengths = operators.sizes(waves, numbers)
        call = operators.call_of(ctx.samples, ctx.lengths, *numbers)
        maps = passes.maps_of(call.ensemble, buffers)
        constant, kept_waves = _without_gradient(call, ctx.needs_input_grad[3 : 3 + len(inputs)])
        ctx.mark_non_differentiable(*itertools.compress(maps, constant))
        if any(ctx.needs_input_grad):
            # All by save_for_backward: changes in place are seen, and checkpoints and offloading hooks reach them.
            kept = [wave if keep else None for wave, keep in zip(waves, kept_waves)]
            ctx.save_for_backward(*kept, *parameters, *states, scaling, packed, *buffers[:-1])
        return tuple(maps)

    @staticmethod
    def backward(ctx, *grads):
        rest = iter(ctx.saved_tensors)
        waves, parameters, states = (list(itertools.islice(rest, count)) for count in ctx.counts)
        scaling, packed, *buffers = rest
        needs, map_grads = list(ctx.needs_input_grad[3 : 3 + len(waves) + len(parameters)]), list(grads)
        call = operators.call_of(ctx.samples, ctx.lengths, *ctx.numbers)
        if torch.is_grad_enabled():  # create_graph: by operations that can be differentiated again
            call.states = call.split_states(states)
            found = _differentiable_grads(call, [*waves, *parameters], needs, map_grads)
        else:
            arguments = map_grads, waves, parameters, states, buffers, scaling, packed, needs, ctx.samples, ctx.lengths
            grad_waves, *kinds = OPERATORS.ensemble_backward.default(*arguments, *ctx.numbers)
            wanted, _ = operators.wanted_of(call, needs, map_grads)
            found = wanted.gradients([*waves, *parameters], grad_waves, kinds, call.backend.flat_grads)
        return None, None, None, *found, *(None for _ in states)


def _without_gradient(call, needs):
    """Which maps can have no gradient, in the order of the operator, and which waveforms the backward pass reads."""
    e, (wave_needs, layer_needs) = call.ensemble, call.split(needs)
    constant, wanted = [], set()
    for side, stack in itertools.product(range(e.sides), range(len(e.stacks))):
        above = wave_needs[side][e.waves[stack]]
        for depth in range(len(e.layers)):
            above = above or any(layer_needs[stack][depth])
            constant.append(not above)
        if above:
            wanted.add((side, e.waves[stack]))
    return constant, [place in wanted for place in itertools.product(range(e.sides), range(len(e.lengths)))]


def _differentiable_grads(call, tensors, needs, grads):
    """Gradients by differentiating plain PyTorch operations: slow, and differentiable again."""
    # Aliases: a scale's waveform is pooled from another one, and the way through that one is not this call's.
    tensors = [None if t is None else t.view_as(t) for t in tensors]
    waves, layers = call.split(tensors)
    e = call.ensemble
    maps = []
    for side, stack in itertools.product(range(e.sides), range(len(e.stacks))):
        if waves[side][e.waves[stack]] is None:  # not kept: nothing of it has a gradient
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
    used = [(m, grad) for m, grad in zip(maps, grads) if m is not None and grad is not None and m.requires_grad]
    if not used:
        return [None] * len(tensors)
    wanted = [t for t, need in zip(tensors, needs) if need]
    outputs, given = zip(*used)
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needs]


def _fold(wave, stack):
    if not stack.folded:
        return wave
    padding = -wave.shape[-1] % stack.period
    wave = F.pad(wave, (0, padding), "reflect") if padding else wave
    return wave.reshape(*wave.shape[:2], -1, stack.period)

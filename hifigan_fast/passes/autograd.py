"""An ensemble's operators, differentiable: what is saved, and for which gradients."""

import itertools
from dataclasses import replace

import torch

from .. import dispatch, norms
from . import gradients, operators
from .description import SCHEMA, call_of, check, described, sizes
from .loss_grads import TARGETS
from .maps import maps_of
from .operators import LIBRARY, OPERATORS
from .twice import differentiable_grads
from .wanted import Reach

LIBRARY.define(f"ensemble(Tensor[] waves, Tensor?[] parameters, Tensor?[] states, {SCHEMA}) -> Tensor[] maps")
LIBRARY.define(
    f"ensemble_step(Tensor[] waves, Tensor?[] parameters, Tensor?[] states, str kind, {SCHEMA}) "
    "-> (Tensor adversarial, Tensor terms, Tensor features)"
)


def _arguments(waves, parameters):
    flat = [t for stack in parameters for p in stack for t in (p.raw, p.magnitude, p.bias)]
    return [wave for side in waves for wave in side], flat


def run_ensemble(call, waves, parameters):
    """Feature maps [side][stack][depth] in the reference's logical shapes, the raw head map last.

    Args:
        call: a `Call`.
        waves: [side][wave], each [samples, 1, length].
        parameters: [stack][depth] of `norms.Parameters`.
    """
    (waves, parameters), e = _arguments(waves, parameters), call.ensemble
    if operators.traced((*waves, *parameters)):
        maps = OPERATORS.ensemble.default(waves, parameters, call.flat_states(), *described(call))
    else:
        maps = list(_maps(call, waves, parameters))
    # Slices, not an iterator: PyTorch 2.6 compiles each use of one as if it began anew, and repeats the first maps.
    return [_batched(side, len(e.layers)) for side in _batched(maps, len(maps) // e.sides)]


def _batched(values, size):
    return [values[at : at + size] for at in range(0, len(values), size)]


def run_step(call, kind, waves, parameters):
    """A step's losses, without its maps -> (adversarial, its terms [side judged · stack], feature matching).

    Args:
        call, waves, parameters: as for `run_ensemble`; two sides.
        kind: "discriminator", of both sides and without feature matching, or "generator".
    """
    waves, parameters = _arguments(waves, parameters)
    if operators.traced((*waves, *parameters)):
        return OPERATORS.ensemble_step.default(waves, parameters, call.flat_states(), kind, *described(call))
    return _losses(call, kind, waves, parameters)


@torch.no_grad()
def spectral_states(convs, groups, calls, backend):
    """The `norms.Spectral` of the next `calls` calls of `convs`, [call][conv]; None where a conv has another norm.

    groups: their `norms.spectral_groups`. Moves `weight_u` and `weight_v` as the calls would, in training mode
    (torch.nn.utils.spectral_norm).
    """
    states = [[None] * len(convs) for _ in range(calls)]
    for (eps, iterations), members in groups.items():
        weights, us, vs = (
            [getattr(convs[index], f"weight_{name}") for index in members] for name in ("orig", "u", "v")
        )
        u, v, sigma = operators.power_iterations(weights, us, vs, eps, iterations, calls, backend)
        sizes = [[own.numel() for own in vectors] for vectors in (us, vs)]  # `len` asks whether it is traced
        for call, found in enumerate(states):
            if iterations:
                us, vs = u[call].split_with_sizes(sizes[0]), v[call].split_with_sizes(sizes[1])
            for index, *state in zip(members, us, vs, sigma[call if iterations else 0].unbind()):
                found[index] = norms.Spectral(*state)
    return states


def _run(ctx, tracked, call, count, tensors):
    """Forward, and what both functions save but for the buffers -> (those to save, buffers).

    tracked: whether gradients are enabled, which a function cannot see; count: of waveforms among `tensors`.
    """
    ctx.set_materialize_grads(False)
    waves, parameters = tensors[:count], tensors[count:]
    buffers, scaling, packed = operators.forward(call, waves, parameters)
    ctx.needs = tuple(tracked and need for need in ctx.needs_input_grad[-len(tensors) :])
    ctx.count, ctx.call = count, replace(call, states=[])  # their tensors are saved as all others
    every = call.save == "recompute"  # from all waveforms
    kept = [wave if keep or every else None for wave, keep in zip(waves, Reach.of(call, ctx.needs).waves)]
    return [*kept, *parameters, *call.flat_states(), scaling, packed], buffers


def _grads(ctx, map_grads=(), kind="", adversarial=None, features=None):
    """Backward: gradients of all tensors of `_run`."""
    rest, e = iter(ctx.saved_tensors), ctx.call.ensemble
    waves, parameters, states = (
        list(itertools.islice(rest, count))
        for count in (ctx.count, 3 * len(e.layers) * len(e.stacks), 3 * len(e.layers) * e.set_count)
    )
    scaling, packed, *buffers = rest
    call, given = (
        replace(ctx.call, states=ctx.call.split_states(states)),
        (list(map_grads), kind, adversarial, features),
    )
    if dispatch.by_operations(*map_grads, adversarial, features):
        return differentiable_grads(call, [*waves, *parameters], ctx.needs, buffers, *given)
    saved = waves, parameters, buffers, scaling, packed
    wanted, grad_waves, *kinds = operators.backward(call, given, saved, ctx.needs)
    return gradients.of_arguments(wanted, [*waves, *parameters], grad_waves, kinds, call.backend.flat_grads)


def _save(ctx, saved, buffers):
    """All by save_for_backward: changes in place are seen, and checkpoints and offloading hooks reach them."""
    if any(ctx.needs):
        forms = {
            "maps": lambda: buffers,
            "bf16": lambda: [b.bfloat16() if b.itemsize > 2 else b for b in buffers],
            "recompute": lambda: [],
        }
        ctx.save_for_backward(*saved, *forms[ctx.call.save]())


class _EnsembleFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tracked, call, count, *tensors):
        saved, buffers = _run(ctx, tracked, call, count, tensors)
        maps = maps_of(call.ensemble, buffers)
        constant = [not above for depths in Reach.of(call, ctx.needs).maps.values() for above in depths]
        ctx.mark_non_differentiable(*itertools.compress(maps, constant))
        _save(ctx, saved, buffers[:-1])
        return tuple(maps)

    @staticmethod
    def backward(ctx, *grads):
        return None, None, None, *_grads(ctx, grads)


class _LossFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kind, tracked, call, count, *tensors):
        saved, buffers = _run(ctx, tracked, call, count, tensors)
        ctx.kind = kind
        adversarial, terms, features = operators.losses(call, kind, buffers)
        reached = Reach.of(call, ctx.needs).sides
        judged = {side for side, target in enumerate(TARGETS[kind]) if target is not None}
        constant = [terms, *([] if reached & judged else [adversarial])]
        ctx.mark_non_differentiable(*constant, *([features] if kind == "discriminator" or not reached else []))
        _save(ctx, saved, buffers)
        return adversarial, terms, features

    @staticmethod
    def backward(ctx, adversarial, _, features):
        return None, None, None, None, *_grads(ctx, (), ctx.kind, adversarial, features)


def _maps(call, waves, parameters):
    return _EnsembleFunction.apply(torch.is_grad_enabled(), call, len(waves), *waves, *parameters)


def _losses(call, kind, waves, parameters):
    return _LossFunction.apply(kind, torch.is_grad_enabled(), call, len(waves), *waves, *parameters)


def _call_of(waves, parameters, states, numbers):
    call = call_of(*sizes(waves, numbers), *numbers)
    check(call, waves, parameters)
    call.states = call.split_states(states)
    return call


def _ensemble(waves, parameters, states, *numbers):
    """The operator of a call: opaque to what traces Python, made of differentiable operators to what traces those."""
    return _maps(_call_of(waves, parameters, states, numbers), waves, parameters)


def _step(waves, parameters, states, kind, *numbers):
    return _losses(_call_of(waves, parameters, states, numbers), kind, waves, parameters)


LIBRARY.impl("ensemble", _ensemble, "CompositeImplicitAutograd")
LIBRARY.impl("ensemble_step", _step, "CompositeImplicitAutograd")

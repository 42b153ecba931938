"""The passes as PyTorch operators, `torch.ops.hifigan_fast`: opaque to torch.compile and torch.export, with fakes.

An operator takes tensors, numbers and words only: a call is spelled out as `description` says. No two tensors that it
returns share a storage: maps are views of its flat buffers, and are made outside.
"""

import functools
import itertools

import torch

from ..backends.contract import ALIGNED, packed_parts, packed_room, widened
from ..dispatch import BACKENDS, autocast_dtype
from . import gradients, loss_grads
from .backward import Backward, Packing, Saved
from .call import flat_waves
from .description import SCHEMA, call_of, check, described, sizes
from .forward import layer_outputs, whole_forward
from .map_grads import MapGrads
from .wanted import Wanted

OPERATORS = torch.ops.hifigan_fast
PLAIN = {torch.Tensor, torch.nn.Parameter, type(None)}  # what has no dispatch of its own
LIBRARY = torch.library.Library("hifigan_fast", "DEF")
LIBRARY.define(
    f"ensemble_forward(Tensor[] waves, Tensor?[] parameters, Tensor?[] states, {SCHEMA}) "
    "-> (Tensor[] buffers, Tensor scaling, Tensor packed)"
)
LIBRARY.define(
    "ensemble_losses(Tensor[] buffers, str kind, SymInt samples, SymInt[] lengths, "
    f"{SCHEMA}) -> (Tensor adversarial, Tensor terms, Tensor features)"
)
LIBRARY.define(
    "ensemble_backward(Tensor?[] map_grads, str kind, Tensor? adversarial, Tensor? features, Tensor?[] waves, "
    "Tensor?[] parameters, Tensor?[] states, Tensor[] buffers, Tensor scaling, Tensor packed, bool[] needs, "
    f"SymInt samples, SymInt[] lengths, {SCHEMA}) "
    "-> (Tensor[] waves, Tensor[] raws, Tensor[] magnitudes, Tensor[] biases)"
)
LIBRARY.define(
    "power_iterations(Tensor[] weights, Tensor(a!)[] us, Tensor(b!)[] vs, float eps, int iterations, int calls, "
    "str backend) -> (Tensor u, Tensor v, Tensor sigma)"
)


def _without_autocast(kernel):
    """A call knows its dtypes: the region that a pass happens to run in changes nothing."""

    @functools.wraps(kernel)
    def run(call, *args):
        device = _device_of(args)
        if autocast_dtype(device) is None:
            return kernel(call, *args)
        torch.set_autocast_enabled(device.type, False)  # torch.autocast does ten times as much
        try:
            return kernel(call, *args)
        finally:
            torch.set_autocast_enabled(device.type, True)

    return run


def _device_of(args):
    given = itertools.chain.from_iterable(a if isinstance(a, (list, tuple)) else [a] for a in args)
    return next(t.device for t in given if isinstance(t, torch.Tensor))


def _as_a_whole(kernel):
    """A backend may have something to do before it runs the launches of a pass."""

    @functools.wraps(kernel)
    def run(call, *args):
        return call.backend.whole(lambda: kernel(call, *args))

    return run


def _flat(saved):
    """What a forward pass saved, as it was in memory: a hook on saved tensors may give it back in another layout, or
    at an address that is not aligned."""
    plain = [t if t.is_contiguous() and not t.is_neg() else t.resolve_neg().contiguous() for t in saved]
    return [t if t.data_ptr() % ALIGNED == 0 else t.clone() for t in plain]


def traced(tensors):
    """Whether something looks at operators: then a pass must be one. Else calling its kernel costs less."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or not PLAIN.issuperset(map(type, tensors))
    )


def forward(call, waves, parameters):
    """A pass -> (buffers of all layers, scaling, packed weights)."""
    if traced((*waves, *parameters)):
        numbers = described(call)
        return OPERATORS.ensemble_forward.default(list(waves), list(parameters), call.flat_states(), *numbers)
    return _run_forward(call, waves, parameters)


def losses(call, kind, buffers):
    """A step's losses, as `loss_grads.losses` returns them."""
    if traced(buffers):
        e = call.ensemble
        return OPERATORS.ensemble_losses.default(buffers, kind, e.samples, e.lengths, *described(call))
    return _run_losses(call, kind, buffers)


def backward(call, given, saved, needs):
    """A pass -> `Wanted`, [the gradient of all waveforms] or [], those of raws, magnitudes and biases (`gradients`).

    Args:
        given: gradients of maps, kind, those of the losses: as `start_of` takes them.
        saved: waveforms, parameters, buffers, scaling, packed weights.
    """
    waves, parameters, buffers, scaling, packed = saved
    if traced((*waves, *parameters, scaling)):
        e = call.ensemble
        tensors = list(waves), list(parameters), call.flat_states(), list(buffers), scaling, packed, list(needs)
        _, wanted = start_of(call, buffers, needs, *given)
        found = OPERATORS.ensemble_backward.default(*given, *tensors, e.samples, e.lengths, *described(call))
        return wanted, *found
    return _run_backward(call, given, waves, parameters, buffers, scaling, packed, needs)


@_without_autocast
@_as_a_whole
def _run_forward(call, waves, parameters):
    flat = flat_waves(call, call.sides_of(waves))
    scaling, packed, buffers = whole_forward(call, flat, call.taken(parameters))
    return buffers, scaling, packed


def _forward(waves, parameters, states, *numbers):
    call = call_of(*sizes(waves, numbers), *numbers)
    check(call, waves, parameters)
    call.states = call.split_states(states)
    buffers, scaling, packed = _run_forward(call, waves, parameters)
    if packed.numel():  # what an operator returns is the same again, all of it
        e = call.ensemble
        for room in packed_parts(packed, e.layers, [e.set_count] * len(e.layers))[1::2]:
            if room.numel():  # behind the layers of published discriminators there is none
                room.zero_()
    return buffers, scaling, packed


def _fake_forward(waves, parameters, states, *numbers):
    call = call_of(*sizes(waves, numbers), *numbers)
    e, backend = call.ensemble, call.backend
    rows = [e.offsets(depth + 1, e.members)[1] for depth in range(len(e.layers))]
    buffers = [waves[0].new_empty(n * layer.out_channels, dtype=call.dtype) for n, layer in zip(rows, e.layers)]
    channels = e.set_count * sum(layer.out_channels for layer in e.layers)
    scaling = waves[0].new_empty(
        3, channels, dtype=backend.scaling_dtype or widened(parameters[0][:0], call.dtype).dtype
    )
    elements = sum(packed_room(layer, e.set_count) for layer in e.layers) if backend.packs else 0
    return buffers, scaling, waves[0].new_empty(elements, dtype=call.dtype)


@_as_a_whole
def _run_losses(call, kind, buffers):
    return loss_grads.losses(call, kind, buffers)


def _losses(buffers, kind, *sized):
    return _run_losses(call_of(*sized), kind, buffers)


def _fake_losses(buffers, kind, *sized):
    call = call_of(*sized)
    terms = len(call.ensemble.stacks) * sum(target is not None for target in loss_grads.TARGETS[kind])
    dtype = torch.promote_types(call.dtype, torch.float32)
    return tuple(buffers[0].new_empty(shape, dtype=dtype) for shape in ((), (terms,), ()))


def start_of(call, buffers, needs, map_grads, kind, adversarial, features):
    """What a backward pass begins with, and what it computes: (source, `Wanted`).

    The source is the gradients of a step's losses, or those of maps where there is no `kind`. needs: of each waveform
    and parameter, flat.
    """
    e = call.ensemble
    if kind:
        source = loss_grads.LossGrads(call, kind, buffers, adversarial, features)
    else:
        grads, places = iter(map_grads), itertools.product(range(e.sides), range(len(e.stacks)))
        maps = {(stack, side): list(itertools.islice(grads, len(e.layers))) for side, stack in places}
        source = MapGrads(e, {member: maps[member] for member in e.members})
    return source, Wanted.of(call, needs, source.given)


@_without_autocast
@_as_a_whole
def _run_backward(call, given, waves, parameters, buffers, scaling, packed, needs):
    buffers, (scaling, packed) = map(_flat, (buffers, (scaling, packed)))
    map_grads, *_, features = given
    check(call, waves, parameters, (*map_grads, *buffers))
    outputs = Saved(call, buffers)
    source, wanted = start_of(call, outputs, needs, *given)
    if not wanted.active:
        return wanted, [], [], [], []
    packing = Packing(call.taken(parameters), scaling, packed)
    reads_waves = not buffers or any(depth == 0 for _, depth in wanted.jobs)
    flat = flat_waves(call, call.sides_of(waves)) if reads_waves else None
    if not buffers:
        outputs.buffers = _recomputed(call, flat, packing.weights(call), wanted, both_sides=features is not None)
    grad_waves, kinds = Backward(call, wanted, packing, flat, outputs, source).run()
    if not call.backend.flat_grads:
        kinds = [gradients.of_jobs(wanted, kind, grads) for kind, grads in enumerate(kinds)]
    return wanted, [] if grad_waves is None else [grad_waves], *kinds


def _backward(
    map_grads, kind, adversarial, features, waves, parameters, states, buffers, scaling, packed, needs, *sized
):
    call = call_of(*sized)
    call.states = call.split_states(states)
    given = map_grads, kind, adversarial, features
    _, waves, raws, *rest = _run_backward(call, given, waves, parameters, buffers, scaling, packed, needs)
    return waves, [raw.flatten(2) if raw.dim() > 3 else raw for raw in raws], *rest  # as the fake has them


def _recomputed(call, waves, weights, wanted, both_sides):
    """The buffers of a call that saved none: rows of the members that the backward pass reads."""
    stacks = {stack for stack, _ in wanted.active}
    members = [member for member in call.ensemble.members if member[0] in stacks]
    return layer_outputs(call, waves, weights, members if both_sides else wanted.active)


def _fake_backward(
    map_grads, kind, adversarial, features, waves, parameters, states, buffers, scaling, packed, needs, *sized
):
    call = call_of(*sized)
    _, wanted = start_of(call, buffers, needs, map_grads, kind, adversarial, features)
    dtype = widened(parameters[0][:0], call.dtype).dtype
    grad_waves = [scaling.new_empty(call.ensemble.wave_offsets[1])] if wanted.reaches_waves else []
    shapes = gradients.shapes(wanted, call.backend.flat_grads)
    kinds = [[scaling.new_empty(shape, dtype=dtype) for shape in own] for own in shapes]
    return grad_waves, *kinds


def power_iterations(weights, us, vs, eps, iterations, calls, backend):
    """`Backend.power_iterations`, by the operator where something traces."""
    if traced((*weights, *us, *vs)):
        return OPERATORS.power_iterations.default(weights, us, vs, eps, iterations, calls, backend.name)
    return backend.power_iterations(list(zip(weights, us, vs)), eps, iterations, calls)


def _power_iterations(weights, us, vs, eps, iterations, calls, backend):
    return BACKENDS[backend].power_iterations(list(zip(weights, us, vs)), eps, iterations, calls)


def _fake_power_iterations(weights, us, vs, eps, iterations, calls, backend):
    rows, first = calls if iterations else 1, weights[0]
    vectors = [first.new_empty(rows, sum(map(len, part)) if iterations else 0) for part in (us, vs)]
    dtype = BACKENDS[backend].scaling_dtype or first.dtype
    return *vectors, first.new_empty(rows, len(weights), dtype=dtype)


KERNELS = {
    "ensemble_forward": _forward,
    "ensemble_losses": _losses,
    "ensemble_backward": _backward,
    "power_iterations": _power_iterations,
}
FAKES = {
    "ensemble_forward": _fake_forward,
    "ensemble_losses": _fake_losses,
    "ensemble_backward": _fake_backward,
    "power_iterations": _fake_power_iterations,
}
for _name, _kernel in KERNELS.items():
    LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hifigan_fast::{_name}", FAKES[_name], lib=LIBRARY)

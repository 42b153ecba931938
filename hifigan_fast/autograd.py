"""An ensemble's forward and backward pass, depth by depth, whichever backend runs it.

The backward pass does what `needs_input_grad` asks for and no more: a discriminator's step computes no waveform
gradient, a generator's step with frozen discriminators no weight gradient and nothing for the real half.
"""

import itertools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from . import norms
from .backends.contract import Backend, LayerGrads, Weights
from .geometry import Ensemble


@dataclass
class Call:
    """One call of an ensemble.

    Attributes:
        dtype: of the maps; waveforms and parameters may be of another (autocast).
        states: spectral norm's states, [weight set][depth], None where a layer has another norm.
    """

    backend: Backend
    ensemble: Ensemble
    dtype: torch.dtype
    states: list

    def role(self, depth):
        return {0: "stem", len(self.ensemble.layers) - 1: "head"}.get(depth, "conv")

    def split(self, tensors):
        """Flat arguments -> waves [side][wave], parameters [stack][depth] of (raw, magnitude, bias)."""
        flat = iter(tensors)
        e = self.ensemble
        waves = [list(itertools.islice(flat, len(e.lengths))) for _ in range(e.sides)]
        layers = [[tuple(itertools.islice(flat, 3)) for _ in e.layers] for _ in e.stacks]
        return waves, layers

    def weight_sets(self, depth, layers):
        """The `WeightSet`s of one depth, by parameters [stack][depth]."""
        pairs = zip(self.ensemble.set_stacks, self.states)
        return [norms.weight_set(*layers[stack][depth], states[depth]) for stack, states in pairs]


def run_ensemble(call, waves, parameters):
    """Feature maps [side][stack][depth] in the reference's logical shapes, the raw head map last.

    Args:
        waves: [side][wave], each [samples, 1, length].
        parameters: [stack][depth] of `norms.Parameters`.
    """
    flat = [wave for side in waves for wave in side]
    flat += [t for stack in parameters for p in stack for t in (p.raw, p.magnitude, p.bias)]
    maps = iter(_EnsembleFunction.apply(call, *flat))
    e = call.ensemble
    return [[list(itertools.islice(maps, len(e.layers))) for _ in e.stacks] for _ in range(e.sides)]


def _in_a_row(waves):
    """Waveforms as one flat tensor: a view where they lie one behind the other."""
    ends = [wave.data_ptr() + wave.numel() * wave.itemsize for wave in waves]
    storages = {wave.untyped_storage().data_ptr() for wave in waves}
    starts = [wave.data_ptr() for wave in waves[1:]]
    if len(storages) == 1 and ends[:-1] == starts and all(w.is_contiguous() and not w.is_neg() for w in waves):
        return waves[0].as_strided((sum(wave.numel() for wave in waves),), (1,))
    return torch.cat([wave.reshape(-1) for wave in waves])


def _views(ensemble, depth, buffer):
    """{member: its map at `depth` as a view of the buffer, in the reference's shape}."""
    layer = ensemble.layers[depth]
    head = depth == len(ensemble.layers) - 1
    offsets, _ = ensemble.offsets(depth + 1, ensemble.members)
    views = {}
    for (stack, side), offset in offsets.items():
        period, rows = ensemble.stacks[stack].period, ensemble.rows[stack][depth + 1]
        sizes = (ensemble.samples, layer.out_channels, rows, period)
        channels = layer.out_channels
        strides = (period * rows, 1, period, 1) if head else (period * rows * channels, 1, channels, rows * channels)
        dims = 4 if ensemble.stacks[stack].folded else 3
        views[stack, side] = buffer.as_strided(sizes[:dims], strides[:dims], offset * channels)
    return views


class _EnsembleFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, *tensors):
        ctx.set_materialize_grads(False)
        e, backend = call.ensemble, call.backend
        waves, layers = call.split(tensors)
        flat = _in_a_row([wave for side in waves for wave in side])
        buffers = [flat if flat.dtype == call.dtype != torch.bfloat16 else flat.float()]
        sets = [call.weight_sets(depth, layers) for depth in range(len(e.layers))]
        weights = backend.prepare(e.layers, sets, call.dtype)
        for depth, layer in enumerate(e.layers):
            _, rows = e.offsets(depth + 1, e.members)
            out = backend.empty(rows * layer.out_channels, call.dtype, buffers[0].device)
            runs = e.runs(depth, tuple(e.members))
            backend.forward(call.role(depth), layer, runs, buffers[-1], weights[depth], out)
            buffers.append(out)
        views = [_views(e, depth, buffers[depth + 1]) for depth in range(len(e.layers))]
        maps = {member: [view[member] for view in views] for member in e.members}
        _save(ctx, call, tensors, buffers, weights, maps)
        return tuple(m for side in range(e.sides) for stack in range(len(e.stacks)) for m in maps[stack, side])

    @staticmethod
    def backward(ctx, *grads):
        call, tensors, buffers, weights = _restored(ctx.call, len(ctx.needs_input_grad) - 1, ctx.saved_tensors)
        e, needs = call.ensemble, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # create_graph: by operations that can be differentiated again
            return None, *_differentiable_grads(call, tensors, needs, grads)
        grads = iter(grads)
        maps = {
            (stack, side): list(itertools.islice(grads, len(e.layers)))
            for side in range(e.sides)
            for stack in range(len(e.stacks))
        }
        waves, layers = _Backward(call, weights, buffers, maps, *call.split(needs)).run()
        flat = [wave for side in waves for wave in side]
        flat += [grad for stack in layers for layer in stack for grad in layer]
        return None, *(None if grad is None else grad.view(t.shape).to(t.dtype) for grad, t in zip(flat, tensors))


def _save(ctx, call, tensors, buffers, weights, maps):
    """Keep what the backward pass reads, and say which maps can have a gradient."""
    e = call.ensemble
    wave_needs, layer_needs = call.split(ctx.needs_input_grad[1:])
    constant, wanted = [], set()
    for side, stack in itertools.product(range(e.sides), range(len(e.stacks))):
        above = wave_needs[side][e.waves[stack]]
        for depth in range(len(e.layers)):
            above = above or any(layer_needs[stack][depth])
            if not above:
                constant.append(maps[stack, side][depth])
        if above:
            wanted.add(side * len(e.lengths) + e.waves[stack])
    ctx.mark_non_differentiable(*constant)
    if not any(ctx.needs_input_grad):
        return
    waves = e.sides * len(e.lengths)
    kept = [t if index >= waves or index in wanted else None for index, t in enumerate(tensors)]
    states = [t for own in call.states for s in own for t in ((s.u, s.v, s.sigma) if s else (None,) * 3)]
    scaling = [t for w in weights for t in (*w.scales, *w.norms, w.bias, w.packed)]
    # All by save_for_backward, so that changes in place are seen, and checkpoints and offloading hooks reach them.
    ctx.save_for_backward(*kept, *buffers[:-1], *states, *scaling)
    ctx.call = replace(call, states=None)


def _restored(call, count, saved):
    """What `_save` kept: the call with its states, the flat arguments, the buffers and the weights of each depth."""
    flat, depths, sets = iter(saved), len(call.ensemble.layers), call.ensemble.set_count
    tensors = list(itertools.islice(flat, count))
    buffers = list(itertools.islice(flat, depths))
    triples = [[tuple(itertools.islice(flat, 3)) for _ in range(depths)] for _ in range(sets)]
    call = replace(call, states=[[None if t[0] is None else norms.Spectral(*t) for t in own] for own in triples])
    _, layers = call.split(tensors)
    weights = []
    for depth in range(depths):
        scales, norms_of_rows = (list(itertools.islice(flat, sets)) for _ in range(2))
        weights.append(Weights(call.weight_sets(depth, layers), scales, norms_of_rows, next(flat), next(flat)))
    return call, tensors, buffers, weights


class _Backward:
    """One backward pass. `maps` [member][depth]: the caller's gradients; `buffers` [depth]: each layer's input."""

    def __init__(self, call, weights, buffers, maps, wave_needs, layer_needs):
        self.call, self.e, self.backend = call, call.ensemble, call.backend
        self.weights, self.buffers, self.maps = weights, buffers, maps
        self.wave_needs, self.layer_needs = wave_needs, layer_needs
        self.active = tuple(
            member
            for member in self.e.members
            if any(grad is not None for grad in maps[member]) and self._needed(member, len(self.e.layers))
        )
        self.jobs = {}  # (stack, depth): its LayerGrads

    def _needed(self, member, depth):
        """Whether anything below `depth` of this member wants a gradient."""
        stack, side = member
        return self.wave_needs[side][self.e.waves[stack]] or any(any(n) for n in self.layer_needs[stack][:depth])

    def run(self):
        waves = [[None] * len(self.e.lengths) for _ in range(self.e.sides)]
        grad = self._head_grad() if self.active else None
        for depth in range(len(self.e.layers) - 1, -1, -1):
            if not any(self._needed(member, depth + 1) for member in self.active):
                break
            self._weight_grads(depth, grad)
            if depth == 0 and any(self._needed(member, 0) for member in self.active):
                waves = self._wave_grads(grad)
            elif any(self._needed(member, depth) for member in self.active):
                grad = self._input_grad(depth, grad)
        return waves, self._layer_grads()

    def _empty(self, depth):
        """A gradient buffer for the active members' rows at `depth` (the output of layer depth - 1)."""
        _, rows = self.e.offsets(depth, self.active)
        return self.backend.empty(rows * self.e.layers[depth - 1].out_channels, self.call.dtype, self.buffers[0].device)

    def _head_grad(self):
        depth = len(self.e.layers)
        grad = self._empty(depth)
        offsets, total = self.e.offsets(depth, self.active)
        ends = [*list(offsets.values())[1:], total]
        parts = []
        for (member, start), end in zip(offsets.items(), ends):
            given = self.maps[member][-1]
            parts.append(grad.new_zeros(end - start) if given is None else given.reshape(-1))
        return torch.cat(parts, out=grad)

    def _input_grad(self, depth, grad_out):
        layer, below = self.e.layers[depth], self.e.layers[depth - 1]
        map_grads = [_rows_of(self.maps[member][depth - 1]) for member in self.active]
        grad_in = self._empty(depth)
        runs = self.e.runs(depth, self.active)
        self.backend.input_grad(
            self.call.role(depth),
            layer,
            below.slope,
            runs,
            grad_out,
            self.weights[depth],
            self.buffers[depth],
            map_grads,
            grad_in,
        )
        return grad_in

    def _weight_grads(self, depth, grad_out):
        stacks = [s for s in {stack for stack, _ in self.active} if any(self.layer_needs[s][depth])]
        if not stacks:
            return
        layer, weights = self.e.layers[depth], self.weights[depth]
        members = tuple(member for member in self.active if member[0] in stacks)
        runs = tuple(run for run, member in zip(self.e.runs(depth, self.active), self.active) if member in members)
        role = self.call.role(depth)
        sums = self.backend.weight_grad(role, layer, runs, self.buffers[depth], grad_out, weights)
        used = {self.e.weight_sets[stack][side] for stack, side in members}
        states = [own[depth] for own in self.call.states]
        for stack in stacks:
            sets = [s for s in dict.fromkeys(self.e.weight_sets[stack]) if s in used]
            self.jobs[stack, depth] = LayerGrads(layer, depth, sums, weights, states, sets)

    def _layer_grads(self):
        """[stack][depth] of the gradients of (raw, magnitude, bias) that are wanted."""
        found = dict(zip(self.jobs, self.backend.parameter_grads(list(self.jobs.values())) if self.jobs else ()))
        return [
            [
                tuple(grad if need else None for grad, need in zip(found.get((stack, depth), (None,) * 3), needs))
                for depth, needs in enumerate(layer_needs)
            ]
            for stack, layer_needs in enumerate(self.layer_needs)
        ]

    def _wave_grads(self, grad_out):
        offsets, total = self.e.wave_offsets
        grad = self.buffers[0].new_zeros(total)
        wanted = [self.wave_needs[side][self.e.waves[stack]] for stack, side in self.active]
        runs = tuple(itertools.compress(self.e.runs(0, self.active), wanted))
        self.backend.stem_input_grad(self.e.layers[0], runs, grad_out, self.weights[0], grad)
        return [
            [
                grad[start : start + self.e.samples * length].view(self.e.samples, 1, length) if need else None
                for start, length, need in zip(starts, self.e.lengths, needs)
            ]
            for starts, needs in zip(offsets, self.wave_needs)
        ]


def _rows_of(grad):
    """A map's gradient in the layout of the buffers, [samples, period, rows, channels]; a copy only if it must be."""
    if grad is None:
        return None
    grad = grad.resolve_neg()  # kernels read memory, and know nothing of lazy signs
    return (grad.permute(0, 3, 2, 1) if grad.dim() == 4 else grad.transpose(1, 2)).contiguous()


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

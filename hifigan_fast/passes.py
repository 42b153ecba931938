"""An ensemble's forward and backward pass over flat buffers, depth by depth, whichever backend runs it.

The backward pass does what is needed and no more: a discriminator's step computes no waveform gradient, a generator's
step with frozen discriminators no weight gradient and nothing for the real half. Nothing here knows of autograd.
"""

import itertools
from dataclasses import dataclass, replace

import torch

from . import norms
from .backends.contract import Backend, LayerGrads, weights_of, widened
from .geometry import Ensemble


@dataclass
class Call:
    """One call of an ensemble.

    Attributes:
        dtype: of the maps; waveforms and parameters may be of another (autocast).
        states: spectral norm's states, [weight set][depth], None where a layer has another norm.
        save: what is kept of the maps, of `dispatch.SAVED`.
    """

    backend: Backend
    ensemble: Ensemble
    dtype: torch.dtype
    states: list
    save: str = "maps"

    def role(self, depth):
        return {0: "stem", len(self.ensemble.layers) - 1: "head"}.get(depth, "conv")

    def split(self, tensors):
        """Flat arguments -> waves [side][wave], parameters [stack][depth] of (raw, magnitude, bias)."""
        flat = iter(tensors)
        e = self.ensemble
        waves = [list(itertools.islice(flat, len(e.lengths))) for _ in range(e.sides)]
        layers = [[tuple(itertools.islice(flat, 3)) for _ in e.layers] for _ in e.stacks]
        return waves, layers

    def weight_sets(self, layers):
        """The `WeightSet`s [depth][set], by parameters [stack][depth]."""
        pairs = list(zip(self.ensemble.set_stacks, self.states))
        return [
            [norms.weight_set(*layers[stack][depth], states[depth], self.dtype) for stack, states in pairs]
            for depth in range(len(self.ensemble.layers))
        ]

    def flat_states(self):
        """The tensors of `states`, three a layer."""
        return [t for own in self.states for s in own for t in ((s.u, s.v, s.sigma) if s else (None,) * 3)]

    def split_states(self, tensors):
        """The way back."""
        flat = iter(tensors)
        triples = [[tuple(itertools.islice(flat, 3)) for _ in self.ensemble.layers] for _ in self.ensemble.set_stacks]
        return [[None if u is None else norms.Spectral(u, v, sigma) for u, v, sigma in own] for own in triples]

    def empty(self, depth, members, device):
        """A buffer for rows of `members` at `depth` (the output of layer depth - 1)."""
        _, rows = self.ensemble.offsets(depth, members)
        size = rows * self.ensemble.layers[depth - 1].out_channels
        if self.save != "maps":  # memory is scarce: no backend shall keep any for later
            return torch.empty(size, dtype=self.dtype, device=device)
        return self.backend.empty(size, self.dtype, device)


def flat_waves(call, waves):
    """Waveforms [side][wave] as a stem reads them: one flat tensor, a view where they lie one behind the other.

    A waveform may be None where nothing will read it.
    """
    e, given = call.ensemble, next(w for side in waves for w in side if w is not None)
    absent = [given.new_empty(e.samples * length) for length in e.lengths]
    flat = in_a_row([other if wave is None else wave for side in waves for wave, other in zip(side, absent)])
    return widened(flat, call.dtype)


def in_a_row(tensors):
    """Tensors as one flat tensor, in the order of their elements: a view where they lie one behind the other."""
    ends = [t.data_ptr() + t.numel() * t.itemsize for t in tensors]
    starts = [t.data_ptr() for t in tensors[1:]]
    one_storage = len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    if one_storage and ends[:-1] == starts and all(t.is_contiguous() and not t.is_neg() for t in tensors):
        return tensors[0].as_strided((sum(t.numel() for t in tensors),), (1,))
    return torch.cat([t.reshape(-1) for t in tensors])


def map_layout(ensemble, depth, stack):
    """Shape and strides of a stack's map of layer `depth`, in the reference's order of dimensions."""
    period, rows = ensemble.stacks[stack].period, ensemble.rows[stack][depth + 1]
    channels = ensemble.layers[depth].out_channels
    head = depth == len(ensemble.layers) - 1
    shape = (ensemble.samples, channels, rows, period)
    strides = (period * rows, 1, period, 1) if head else (period * rows * channels, 1, channels, rows * channels)
    dims = 4 if ensemble.stacks[stack].folded else 3
    return shape[:dims], strides[:dims]


def maps_of(ensemble, buffers):
    """The maps as views of the layers' output buffers: of each side, each stack, each depth."""
    offsets = [ensemble.offsets(depth + 1, ensemble.members)[0] for depth in range(len(buffers))]
    return [
        buffers[depth].as_strided(
            *map_layout(ensemble, depth, stack), offsets[depth][stack, side] * ensemble.layers[depth].out_channels
        )
        for side in range(ensemble.sides)
        for stack in range(len(ensemble.stacks))
        for depth in range(len(buffers))
    ]


def forward(call, waves, weights, members=None):
    """The output buffer of each layer, of which only the rows of `members` are written (None: all).

    Args:
        waves: as `flat_waves` makes them.
        weights: [depth].
    """
    e, buffers = call.ensemble, [waves]
    for depth, layer in enumerate(e.layers):
        out = call.empty(depth + 1, e.members, waves.device)
        runs = e.runs(depth, tuple(members or e.members))
        call.backend.forward(call.role(depth), layer, runs, buffers[-1], weights[depth], out)
        buffers.append(out)
    return buffers[1:]


def normalised(call, layers):
    """The scaling and packed weights of all layers (`Backend.prepare`), and `Weights` [depth] made of them."""
    sets = call.weight_sets(layers)
    scaling, packed = call.backend.prepare(call.ensemble.layers, sets, call.dtype)
    return scaling, packed, weights_of(call.ensemble.layers, sets, scaling, packed)


@dataclass(frozen=True)
class Wanted:
    """Whose gradients a backward pass computes.

    Attributes:
        waves, layers: whether a gradient is asked for, [side][wave] and [stack][depth] of (raw, magnitude, bias).
        active: the members that have a gradient to send down, and something below that wants it.
    """

    ensemble: Ensemble
    waves: list
    layers: list
    active: tuple

    @classmethod
    def of(cls, ensemble, waves, layers, given):
        """`given`: the members any of whose maps has a gradient."""
        wanted = cls(ensemble, waves, layers, ())
        return replace(wanted, active=tuple(m for m in given if wanted.below(m, len(ensemble.layers))))

    def below(self, member, depth):
        """Whether anything below `depth` of this member wants a gradient."""
        stack, side = member
        return self.waves[side][self.ensemble.waves[stack]] or any(any(n) for n in self.layers[stack][:depth])

    def jobs(self):
        """The layers of which a parameter's gradient is computed, (stack, depth), from the head down."""
        stacks = sorted({stack for stack, _ in self.active})
        depths = range(len(self.ensemble.layers) - 1, -1, -1)
        return [(stack, depth) for depth in depths for stack in stacks if any(self.layers[stack][depth])]

    def reaches_waves(self):
        return any(self.below(member, 0) for member in self.active)

    def kind(self, index, flat):
        """The jobs whose raw, magnitude or bias (`index`) gradient a pass returns: all where they are one tensor."""
        return [job for job in self.jobs() if flat or self.layers[job[0]][job[1]][index]]

    def gradients(self, tensors, waves, kinds, flat):
        """What `Backward.run` found, as gradients of `Call.split`'s flat arguments `tensors`; None where there is none.

        Args:
            waves: [] or the one tensor of all waveforms' gradients.
            kinds: those of raws, magnitudes and biases; one tensor each for all jobs if `flat`, else one a job.
        """
        e, found = self.ensemble, {}
        if waves:
            sizes = [e.samples * length for length in e.lengths] * e.sides
            places = itertools.product(range(e.sides), range(len(e.lengths)))
            reached = {(side, e.waves[stack]) for stack, side in self.active if self.waves[side][e.waves[stack]]}
            found = {place: part for place, part in zip(places, waves[0].split(sizes)) if place in reached}
        for index, blocks in enumerate(kinds):
            jobs = self.kind(index, flat)
            if flat and jobs:
                layers = [e.layers[depth] for _, depth in jobs]
                blocks = blocks[0].split([layer.out_channels if index else layer.weights for layer in layers])
            for job, part in zip(jobs, blocks):
                if self.layers[job[0]][job[1]][index]:
                    found[(*job, index)] = part
        order = [(side, wave) for side in range(e.sides) for wave in range(len(e.lengths))]
        order += [(*job, i) for job in itertools.product(range(len(e.stacks)), range(len(e.layers))) for i in range(3)]
        pairs = ((found.get(place), t) for place, t in zip(order, tensors))
        # Detached, for a view keeps its base: autograd then adds another call's gradient in place.
        return [None if grad is None else grad.view(t.shape).to(t.dtype).detach() for grad, t in pairs]


class Saved:
    """Output buffers of the layers as they were saved, in the maps' dtype when they are read: one at a time."""

    def __init__(self, call, buffers):
        self.dtype, self.buffers, self.last = call.dtype, buffers, (None, None)

    def __getitem__(self, depth):
        if self.last[0] != depth:
            self.last = depth, self.buffers[depth].to(self.dtype)
        return self.last[1]


class MapGrads:
    """The caller's gradients of the maps, {member: [depth]}, None where there are none."""

    def __init__(self, maps):
        self.maps = maps
        self.given = [member for member, grads in maps.items() if any(grad is not None for grad in grads)]

    def of_heads(self, active):
        return [_in_memory(self.maps[member][-1]) for member in active]

    def of_maps(self, depth, active):
        """What `Backend.input_grad` adds to the gradients of layer `depth`'s outputs."""
        return [_rows_of(self.maps[member][depth]) for member in active], None


class Backward:
    """One backward pass.

    Args:
        weights: `Weights` [depth].
        waves: as `flat_waves` makes them; None where nothing reads them.
        outputs: `Saved`.
        source: `MapGrads` or `loss_grads.LossGrads`: the gradients that come from outside.
    """

    def __init__(self, call, wanted, weights, waves, outputs, source):
        self.call, self.e, self.backend = call, call.ensemble, call.backend
        self.wanted, self.active = wanted, wanted.active
        self.weights, self.waves, self.outputs, self.source = weights, waves, outputs, source
        self.jobs = {}  # (stack, depth): its LayerGrads

    def run(self):
        """The gradient of all waveforms as a flat tensor, None where none is wanted; those of parameters, as
        `Backend.parameter_grads` returns them for `Wanted.jobs`."""
        waves, grad = None, self._head_grad()
        for depth in range(len(self.e.layers) - 1, -1, -1):
            if not any(self.wanted.below(member, depth + 1) for member in self.active):
                break
            self._weight_grads(depth, grad)
            if depth == 0 and self.wanted.reaches_waves():
                waves = self._wave_grads(grad)
            elif any(self.wanted.below(member, depth) for member in self.active):
                grad = self._input_grad(depth, grad)
        jobs = [self.jobs[job] for job in self.wanted.jobs()]
        return waves, self.backend.parameter_grads(jobs) if jobs else ([], [], [])

    def _input(self, depth):
        return self.outputs[depth - 1] if depth else self.waves

    def _head_grad(self):
        grads, spans = self.source.of_heads(self.active), self.e.spans(len(self.e.layers), self.active)
        like = next((grad for grad in grads if grad is not None), self.weights[0].bias)
        sizes = [end - first for first, end in spans.values()]
        parts = [like.new_zeros(n) if grad is None else grad.reshape(-1) for grad, n in zip(grads, sizes)]
        return in_a_row(parts).to(self.call.dtype)

    def _input_grad(self, depth, grad_out):
        layer, below = self.e.layers[depth], self.e.layers[depth - 1]
        map_grads, matching = self.source.of_maps(depth - 1, self.active)
        grad_in = self.call.empty(depth, self.active, grad_out.device)
        runs, role = self.e.runs(depth, self.active), self.call.role(depth)
        weights, saved = self.weights[depth], self._input(depth)
        self.backend.input_grad(role, layer, below.slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)
        return grad_in

    def _weight_grads(self, depth, grad_out):
        stacks = [stack for stack, own in self.wanted.jobs() if own == depth]
        if not stacks:
            return
        layer, weights = self.e.layers[depth], self.weights[depth]
        members = tuple(member for member in self.active if member[0] in stacks)
        runs = tuple(run for run, member in zip(self.e.runs(depth, self.active), self.active) if member in members)
        role = self.call.role(depth)
        sums = self.backend.weight_grad(role, layer, runs, self._input(depth), grad_out, weights)
        used = {self.e.weight_sets[stack][side] for stack, side in members}
        states = [own[depth] for own in self.call.states]
        for stack in stacks:
            sets = [s for s in dict.fromkeys(self.e.weight_sets[stack]) if s in used]
            self.jobs[stack, depth] = LayerGrads(layer, depth, sums, weights, states, sets)

    def _wave_grads(self, grad_out):
        _, total = self.e.wave_offsets
        grad = self.weights[0].bias.new_zeros(total)
        wanted = [self.wanted.below(member, 0) for member in self.active]
        runs = tuple(itertools.compress(self.e.runs(0, self.active), wanted))
        self.backend.stem_input_grad(self.e.layers[0], runs, grad_out, self.weights[0], grad)
        return grad


def _in_memory(grad):
    """Kernels read memory, and know nothing of lazy signs and lazy zeros."""
    if grad is None:
        return None
    lazy = grad._is_zerotensor()
    return torch.zeros(grad.shape, dtype=grad.dtype, device=grad.device) if lazy else grad.resolve_neg()


def _rows_of(grad):
    """In the layout of the buffers, [samples, period, rows, channels]; a copy only if it must be."""
    grad = _in_memory(grad)
    if grad is None:
        return None
    return (grad.permute(0, 3, 2, 1) if grad.dim() == 4 else grad.transpose(1, 2)).contiguous()

"""An ensemble's backward pass over flat buffers, depth by depth, whichever backend runs it.

It does what is needed and no more: a discriminator's step computes no waveform gradient, a generator's step with frozen
discriminators no weight gradient and nothing for the real half. Nothing here knows of autograd.
"""

import functools
import itertools
import operator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .backends.contract import LayerGrads, weights_of
from .geometry import Ensemble, Runs
from .passes import in_a_row, map_strides


class Step(NamedTuple):
    """What a backward pass does at one depth.

    Attributes:
        stacks: whose parameters have a gradient, (stack, its weight sets that have rows); runs: of their members.
        then: what is sent down, "waves", "input" or nothing; below: the runs that send it.
    """

    depth: int
    stacks: list
    runs: tuple
    then: str | None
    below: tuple


@dataclass(frozen=True, eq=False)
class Wanted:
    """Whose gradients a backward pass computes.

    Attributes:
        waves, layers: whether a gradient is computed, [side][wave] and [stack][depth] of (raw, magnitude, bias).
        active: the members that have a gradient to send down, and something below that wants it.
    """

    ensemble: Ensemble
    waves: list
    layers: list
    active: tuple

    @classmethod
    def of(cls, call, needs, given):
        """`needs`: of each waveform and parameter, flat; `given`: each member that has gradients of maps, and the depth
        of the last of these: layers above have none, which is not zero."""
        needs, given = tuple(needs), tuple(given)

        def make():
            waves, layers = call.split(needs)
            depths, last = len(call.ensemble.layers), dict.fromkeys(range(len(layers)), -1)
            for (stack, _), depth in given:
                last[stack] = max(last[stack], depth)
            layers = [
                [own if depth <= last[stack] else (False,) * 3 for depth, own in enumerate(owns)]
                for stack, owns in enumerate(layers)
            ]
            whole = cls(call.ensemble, waves, layers, ())
            return cls(call.ensemble, waves, layers, tuple(m for m, _ in given if whole.below(m, depths)))

        return call.ensemble.once(("wanted", needs, given), make)

    def below(self, member, depth):
        """Whether anything below `depth` of this member wants a gradient."""
        stack, side = member
        return self.waves[side][self.ensemble.waves[stack]] or any(any(n) for n in self.layers[stack][:depth])

    @functools.cached_property
    def jobs(self):
        """The layers of which a parameter's gradient is computed, (stack, depth), from the head down."""
        stacks = sorted({stack for stack, _ in self.active})
        depths = range(len(self.ensemble.layers) - 1, -1, -1)
        return [(stack, depth) for depth in depths for stack in stacks if any(self.layers[stack][depth])]

    @functools.cached_property
    def reaches_waves(self):
        return any(self.below(member, 0) for member in self.active)

    @functools.cached_property
    def steps(self):
        """The `Step`s, from the head down."""
        found = []
        for depth in range(len(self.ensemble.layers) - 1, -1, -1):
            if not any(self.below(member, depth + 1) for member in self.active):
                break
            found.append(self._step(depth))
        return found

    def _step(self, depth):
        e, active = self.ensemble, self.active
        runs = dict(zip(active, e.runs(depth, active)))
        own = [stack for stack, at in self.jobs if at == depth]
        used = {e.weight_sets[stack][side] for stack, side in active}
        sets = [[s for s in dict.fromkeys(e.weight_sets[stack]) if s in used] for stack in own]
        below = [member for member in active if self.below(member, depth)]
        then = None if not below else "input" if depth else "waves"
        return Step(
            depth,
            list(zip(own, sets)),
            Runs(run for member, run in runs.items() if member[0] in own),
            then,
            Runs(runs[member] for member in (active if depth else below)),
        )

    def kind(self, index, flat):
        """The jobs whose raw, magnitude or bias (`index`) gradient a pass returns: all where they are one tensor."""
        return [job for job in self.jobs if flat or self.layers[job[0]][job[1]][index]]

    @functools.cached_property
    def _wave_sizes(self):
        e = self.ensemble
        return [e.samples * length for length in e.lengths] * e.sides

    @functools.cached_property
    def _reached_waves(self):
        """Which of a call's waveforms, by their number, have a gradient."""
        e = self.ensemble
        reached = {(side, e.waves[stack]) for stack, side in self.active if self.waves[side][e.waves[stack]]}
        places = itertools.product(range(e.sides), range(len(e.lengths)))
        return [number for number, place in enumerate(places) if place in reached]

    @functools.cached_property
    def _groups(self):
        """Of each kind, raws, magnitudes and biases, the jobs whose gradients are of one shape but for their output
        channels: those of a depth, or all. [(elements, output channels of each job, its argument or None)] of each."""
        e, first = self.ensemble, self.ensemble.sides * len(self.ensemble.lengths)
        by_depth = [list(own) for _, own in itertools.groupby(self.jobs, operator.itemgetter(1))]
        found = []
        for index, groups in enumerate((by_depth, [self.jobs], [self.jobs])):
            found.append([])
            for jobs in groups:
                layers = [e.layers[depth] for _, depth in jobs]
                arguments = [
                    first + 3 * (stack * len(e.layers) + depth) + index if self.layers[stack][depth][index] else None
                    for stack, depth in jobs
                ]
                channels = [layer.out_channels for layer in layers]
                found[-1].append((sum(channels if index else (layer.weights for layer in layers)), channels, arguments))
        return found

    def _parted(self, groups, flat, tensors):
        """One tensor of all jobs' gradients of a kind as each one's, several by one operator: each takes its time."""
        for (_, channels, arguments), part in zip(groups, flat.split_with_sizes([own[0] for own in groups])):
            like = next((tensors[at] for at in arguments if at is not None), None)
            if like is not None:
                yield from zip(arguments, part.view(-1, *like.shape[1:]).split_with_sizes(channels))

    def gradients(self, tensors, waves, kinds, flat):
        """What `Backward.run` found, as gradients of `Call.split`'s flat arguments `tensors`; None where there is none.

        Args:
            waves: [] or the one tensor of all waveforms' gradients.
            kinds: those of raws, magnitudes and biases; one tensor each for all jobs if `flat`, else one a job.
        """
        found = [None] * len(tensors)
        if waves:
            parts = waves[0].split(self._wave_sizes)
            for number in self._reached_waves:
                found[number] = _as(tensors[number], parts[number].view(tensors[number].shape))
        for groups, parts in zip(self._groups, kinds if self.jobs else ()):
            if flat:
                for at, grad in self._parted(groups, parts[0], tensors):
                    if at is not None:
                        found[at] = _as(tensors[at], grad)
                continue
            wanted = [at for *_, arguments in groups for at in arguments if at is not None]
            for at, grad in zip(wanted, parts):
                # A view keeps its base; without, autograd adds another call's gradient in place.
                found[at] = _as(tensors[at], grad.view(tensors[at].shape)).detach()
        return found


def _as(tensor, grad):
    """`grad` in the dtype of `tensor`."""
    return grad if grad.dtype == tensor.dtype else grad.to(tensor.dtype)


class Saved:
    """Output buffers of the layers as they were saved, in the maps' dtype when they are read: one at a time."""

    def __init__(self, call, buffers):
        self.dtype, self.buffers, self.last = call.dtype, buffers, (None, None)

    def __getitem__(self, depth):
        if self.last[0] != depth:
            self.last = depth, self.buffers[depth].to(self.dtype)
        return self.last[1]


class MapGrads:
    """The caller's gradients of the maps, {member: [depth]}, None where there are none.

    Attributes:
        given: the members that have any, and the depth of each one's last.
        lies_as_read: whether all lie in memory as `of_maps` returns them.
    """

    def __init__(self, ensemble, maps):
        self.ensemble, self.maps = ensemble, maps
        depths = range(len(ensemble.layers) - 1, -1, -1)
        last = [(member, next((d for d in depths if grads[d] is not None), None)) for member, grads in maps.items()]
        self.given = tuple(own for own in last if own[1] is not None)

    @functools.cached_property
    def lies_as_read(self):
        places = map_strides(self.ensemble)
        return all(
            not grad._is_zerotensor() and not grad.is_neg() and (grad.stride() == strides or _lies_as_rows(grad))
            for member, _ in self.given
            for grad, strides in zip(self.maps[member][:-1], places[member[0]])
            if grad is not None
        )

    def of_heads(self, active):
        return [_in_memory(self.maps[member][-1]) for member in active]

    def of_maps(self, depth, active):
        """What `Backend.input_grad` adds to the gradients of layer `depth`'s outputs."""
        grads = [self.maps[member][depth] for member in active]
        return grads if self.lies_as_read else [_rows_of(grad) for grad in grads], None

    def beside(self, depths, active):
        """What `of_maps` of these depths returns that is in no buffer of a pass."""
        return [self.maps[member][depth] for depth in depths for member in active]


class Packing(NamedTuple):
    """What `Weights` are made of: parameters as `Call.taken` makes them, and what `Backend.prepare` returned."""

    parameters: list
    scaling: torch.Tensor
    packed: torch.Tensor

    def weights(self, call):
        sets = call.weight_sets(call.layers_of(self.parameters))
        return weights_of(call.ensemble.layers, sets, self.scaling, self.packed)


class Backward:
    """One backward pass.

    Args:
        packing: `Packing`.
        waves: as `flat_waves` makes them; None where nothing reads them.
        outputs: `Saved`.
        source: `MapGrads` or `loss_grads.LossGrads`: the gradients that come from outside.
    """

    def __init__(self, call, wanted, packing, waves, outputs, source):
        self.call, self.e, self.backend = call, call.ensemble, call.backend
        self.wanted, self.active = wanted, wanted.active
        self.packing, self.waves, self.outputs, self.source = packing, waves, outputs, source
        self.jobs = {}  # (stack, depth): its LayerGrads

    def run(self):
        """The gradient of all waveforms as a flat tensor, None where none is wanted; those of parameters, as
        `Backend.parameter_grads` returns them for `Wanted.jobs`."""
        grad_waves, head = None, self._head_grad()
        if any(step.then == "waves" for step in self.wanted.steps):
            grad_waves = self.packing.scaling.new_zeros(self.e.wave_offsets[1])
        if not self.source.lies_as_read:  # a copy of each map's gradient, one at a time
            return grad_waves, self._kinds(head, grad_waves)
        depths = [step.depth - 1 for step in self.wanted.steps if step.then == "input"]
        inputs = [
            *self.packing.parameters[::3],  # raws: of the others nothing is read
            *self.packing[1:],
            self.waves,
            *self.outputs.buffers,
            head,
            grad_waves,
            *self.source.beside(depths, self.active),
        ]
        # Gradients of maps and those of losses are other inputs, which dtypes alone do not tell apart. Nor does
        # anything else say which layers have weight norm: its magnitudes' gradients may not be wanted.
        magnitudes = [m is not None for m in self.packing.parameters[1::3]]
        key = "backward", type(self.source), len(self.outputs.buffers), self.wanted, *magnitudes
        return grad_waves, self.call.again_with_states(key, inputs, lambda: self._kinds(head, grad_waves))

    def _kinds(self, grad, grad_waves):
        """Gradients of raws, magnitudes and biases; adds those of waveforms to `grad_waves`."""
        self.weights = self.packing.weights(self.call)
        for step in self.wanted.steps:
            if step.stacks:
                self._weight_grads(step, grad)
            if step.then == "waves":
                self.backend.stem_input_grad(self.e.layers[0], step.below, grad, self.weights[0], grad_waves)
            elif step.then == "input":
                grad = self._input_grad(step, grad, *self.source.of_maps(step.depth - 1, self.active))
        jobs = [self.jobs[job] for job in self.wanted.jobs]
        return self.backend.parameter_grads(jobs) if jobs else ([], [], [])

    def _input(self, depth):
        return self.outputs[depth - 1] if depth else self.waves

    def _head_grad(self):
        grads = self.source.of_heads(self.active)
        if any(grad is None for grad in grads):
            like = next((grad for grad in grads if grad is not None), self.packing.scaling)
            spans = self.e.spans(len(self.e.layers), self.active).values()
            grads = [like.new_zeros(end - first) if g is None else g for g, (first, end) in zip(grads, spans)]
        grad = in_a_row(grads)
        return grad if grad.dtype == self.call.dtype else grad.to(self.call.dtype)

    def _input_grad(self, step, grad_out, map_grads, matching):
        depth = step.depth
        layer, below = self.e.layers[depth], self.e.layers[depth - 1]
        grad_in = self.call.empty(depth, self.active, grad_out.device)
        weights, saved, role = self.weights[depth], self._input(depth), self.call.role(depth)
        self.backend.input_grad(
            role, layer, below.slope, step.below, grad_out, weights, saved, map_grads, matching, grad_in
        )
        return grad_in

    def _weight_grads(self, step, grad_out):
        depth = step.depth
        layer, weights, role = self.e.layers[depth], self.weights[depth], self.call.role(depth)
        sums = self.backend.weight_grad(role, layer, step.runs, self._input(depth), grad_out, weights)
        states = [own[depth] for own in self.call.states]
        for stack, sets in step.stacks:
            self.jobs[stack, depth] = LayerGrads(layer, depth, sums, weights, states, sets)


def _in_memory(grad):
    """Kernels read memory, and know nothing of lazy signs and lazy zeros."""
    if grad is None:
        return None
    lazy = grad._is_zerotensor()
    return torch.zeros(grad.shape, dtype=grad.dtype, device=grad.device) if lazy else grad.resolve_neg()


def _lies_as_rows(grad):
    """Whether a map's gradient [samples, channels, rows, (period)] is [samples, period, rows, channels] in memory."""
    return _is_contiguous((0, *range(grad.dim() - 1, 0, -1)), grad.shape, grad.stride())


@functools.lru_cache(maxsize=512)
def _is_contiguous(order, shape, strides):
    """Whether a tensor's dimensions, taken in this order, lie one within another in memory."""
    expected = 1
    for dim in reversed(order):
        if shape[dim] > 1 and strides[dim] != expected:
            return False
        expected *= shape[dim]
    return True


def _rows_of(grad):
    """In the layout of the buffers, [samples, period, rows, channels]; a copy only if it must be."""
    grad = _in_memory(grad)
    if grad is None:
        return None
    return (grad.permute(0, 3, 2, 1) if grad.dim() == 4 else grad.transpose(1, 2)).contiguous()

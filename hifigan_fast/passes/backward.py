"""An ensemble's backward pass over flat buffers, depth by depth, whichever backend runs it.

It does what is needed and no more: a discriminator's step computes no waveform gradient, a generator's step with frozen
discriminators no weight gradient and nothing for the real half. Nothing here knows of autograd.
"""

from typing import NamedTuple

import torch

from ..backends.contract import LayerGrads, weights_of
from .call import in_a_row


class Saved:
    """Output buffers of the layers as they were saved, in the maps' dtype when they are read: one at a time."""

    def __init__(self, call, buffers):
        self.dtype, self.buffers, self.last = call.dtype, buffers, (None, None)

    def __getitem__(self, depth):
        if self.last[0] != depth:
            self.last = None, None  # before there is another
            self.last = depth, self.buffers[depth].to(self.dtype)
        return self.last[1]


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
        wanted: `wanted.Wanted`.
        packing: `Packing`.
        waves: as `flat_waves` makes them; None where nothing reads them.
        outputs: `Saved`.
        source: `map_grads.MapGrads` or `loss_grads.LossGrads`: the gradients that come from outside.
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
        if self.wanted.reaches_waves:
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
        weights, saved, role = self.weights[depth], self._input(depth), self.e.role(depth)
        self.backend.input_grad(
            role, layer, below.slope, step.below, grad_out, weights, saved, map_grads, matching, grad_in
        )
        return grad_in

    def _weight_grads(self, step, grad_out):
        depth = step.depth
        layer, weights, role = self.e.layers[depth], self.weights[depth], self.e.role(depth)
        sums = self.backend.weight_grad(role, layer, step.runs, self._input(depth), grad_out, weights)
        states = [own[depth] for own in self.call.states]
        for stack, sets in step.stacks:
            self.jobs[stack, depth] = LayerGrads(layer, depth, sums, weights, states, sets)

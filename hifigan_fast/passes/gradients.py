"""Gradients of a call's arguments: as a backward pass returns them, in few tensors, and as autograd takes them.

A pass returns one tensor for all waveforms, and three lists for the *kinds* of parameters: raws, magnitudes, biases. A
list has one tensor for all of `Wanted.jobs` if the backend's gradients are `flat`, else one for each whose gradient of
this kind is wanted.
"""

import itertools
import math
import operator
from typing import NamedTuple


def of_jobs(wanted, kind, grads):
    """Of a kind's gradients, one a job, those that are wanted."""
    return [grad for (stack, depth), grad in zip(wanted.jobs, grads) if wanted.layers[stack][depth][kind]]


def shapes(wanted, flat):
    """The shapes of the three lists' tensors; a raw's is [out, in / groups, taps]."""
    layers, found = [wanted.ensemble.layers[depth] for _, depth in wanted.jobs], []
    for kind, rank in enumerate((3, 1, 1)):
        own = [(layer.out_channels, layer.in_channels // layer.groups, layer.taps)[:rank] for layer in layers]
        if flat:
            found.append([(sum(map(math.prod, own)),)] if own else [])
        else:
            found.append(of_jobs(wanted, kind, own))
    return found


class _Block(NamedTuple):
    """Consecutive jobs whose gradients of a kind are of one shape but for their output channels.

    Attributes:
        elements: of all.
        channels: output channels of each job.
        arguments: the number of each job's argument; None where its gradient is not wanted.
    """

    elements: int
    channels: list
    arguments: list


def _blocks(wanted):
    """Of each kind its `_Block`s, in the order of the jobs: a depth's raws are alike, all magnitudes and biases are."""
    by_depth = [list(own) for _, own in itertools.groupby(wanted.jobs, operator.itemgetter(1))]
    kinds = enumerate((by_depth, [wanted.jobs], [wanted.jobs]))
    return [[_block(wanted, jobs, kind) for jobs in blocks] for kind, blocks in kinds]


def _block(wanted, jobs, kind):
    e = wanted.ensemble
    layers, first = [e.layers[depth] for _, depth in jobs], e.sides * len(e.lengths)  # behind the waveforms
    channels = [layer.out_channels for layer in layers]
    arguments = [
        first + 3 * (stack * len(e.layers) + depth) + kind if wanted.layers[stack][depth][kind] else None
        for stack, depth in jobs
    ]
    return _Block(sum(channels if kind else [layer.weights for layer in layers]), channels, arguments)


def _parted(blocks, flat, tensors):
    """One tensor of all jobs' gradients as (argument, its gradient), several by one operator: each takes its time."""
    for block, part in zip(blocks, flat.split_with_sizes([block.elements for block in blocks])):
        like = next((tensors[at] for at in block.arguments if at is not None), None)
        if like is not None:
            yield from zip(block.arguments, part.view(-1, *like.shape[1:]).split_with_sizes(block.channels))


def _of_waves(wanted):
    """(elements of each waveform, the numbers of those that have a gradient)."""
    e = wanted.ensemble
    reached = {(side, e.waves[stack]) for stack, side in wanted.active if wanted.waves[side][e.waves[stack]]}
    places = itertools.product(range(e.sides), range(len(e.lengths)))
    numbers = [number for number, place in enumerate(places) if place in reached]
    return [e.samples * length for length in e.lengths] * e.sides, numbers


def of_arguments(wanted, tensors, waves, kinds, flat):
    """A pass's gradients as those of `Call.split`'s flat arguments `tensors`; None where there is none.

    Args:
        waves: [] or the one tensor of all waveforms' gradients; kinds: the three lists.
    """
    found = [None] * len(tensors)
    sizes, reached = wanted.ensemble.once(("waves of", wanted), lambda: _of_waves(wanted))
    if waves:
        parts = waves[0].split(sizes)
        for number in reached:
            found[number] = _as(tensors[number], parts[number].view(tensors[number].shape))
    every = wanted.ensemble.once(("blocks of", wanted), lambda: _blocks(wanted))
    for blocks, grads in zip(every, kinds if wanted.jobs else ()):
        if flat:
            for at, grad in _parted(blocks, grads[0], tensors):
                if at is not None:
                    found[at] = _as(tensors[at], grad)
            continue
        arguments = [at for block in blocks for at in block.arguments if at is not None]
        for at, grad in zip(arguments, grads):
            # A view keeps its base; without, autograd adds another call's gradient in place.
            found[at] = _as(tensors[at], grad.view(tensors[at].shape)).detach()
    return found


def _as(tensor, grad):
    """`grad` in the dtype of `tensor`."""
    return grad if grad.dtype == tensor.dtype else grad.to(tensor.dtype)

"""A `Call` in numbers and words, as operators take it: a graph that holds it can be saved, and run elsewhere."""

import functools
import itertools
from typing import NamedTuple

import torch

from ..dispatch import BACKENDS
from ..geometry import Ensemble, Layer, Stack, ensemble_of
from ..version import __version__
from .call import Call

SCHEMA = (
    "int[] layers, float[] slopes, int[] periods, bool folded, int[] levels, int[] weight_sets, int sides, "
    "ScalarType dtype, str backend, str save, str version"
)


def described(call):
    """What an operator is told of a call, beside its tensors: as `Description` has it."""
    e = call.ensemble
    return (
        [  # not by astuple, which PyTorch 2.6 cannot compile
            number
            for layer in e.layers
            for number in (
                layer.in_channels,
                layer.out_channels,
                layer.taps,
                layer.stride,
                layer.padding,
                layer.groups,
            )
        ],
        [layer.slope for layer in e.layers],
        [stack.period for stack in e.stacks],
        e.stacks[0].folded,
        list(e.waves),
        [s for own in e.weight_sets for s in own],
        e.sides,
        call.dtype,
        call.backend.name,
        call.save,
        __version__,  # compilers keep what they made of a graph, also for the next release
    )


class Description(NamedTuple):
    """The arguments of `SCHEMA`, by name.

    Attributes:
        layers: in and out channels, taps, stride, padding and groups of each depth, flat.
        slopes: of each depth; periods: of each stack.
        levels: the waveform that each stack reads.
        weight_sets: of each stack on each side, flat.
    """

    layers: list
    slopes: list
    periods: list
    folded: bool
    levels: list
    weight_sets: list
    sides: int
    dtype: torch.dtype
    backend: str
    save: str
    version: str


@functools.lru_cache(maxsize=256)
def _stacks(layers, slopes, periods, folded):
    numbers = iter(layers)
    found = tuple(Layer(*itertools.islice(numbers, 6), slope) for slope in slopes)
    return tuple(Stack(found, period, folded) for period in periods)


def call_of(samples, lengths, *numbers):
    """The `Call` of a description, without states, for waveforms of `lengths` [level] and `samples` a side."""
    d = Description(*numbers)
    if d.version != __version__:
        raise ValueError(
            f"version: the graph was made by hifigan_fast {d.version}, this is {__version__}: make it again"
        )
    stacks = _stacks(tuple(d.layers), tuple(d.slopes), tuple(d.periods), d.folded)
    sets = tuple(tuple(d.weight_sets[i : i + d.sides]) for i in range(0, len(d.weight_sets), d.sides))
    symbolic = any(type(size) is not int for size in (samples, *lengths))  # a tracer's
    make = Ensemble if symbolic else ensemble_of
    ensemble = make(stacks, tuple(d.levels), tuple(lengths), samples, d.sides, sets)
    return Call(BACKENDS[d.backend], ensemble, d.dtype, [], d.save)


def sizes(waves, numbers):
    """Samples of a side, and the lengths of its waveforms."""
    return waves[0].shape[0], [wave.shape[-1] for wave in waves[: len(waves) // Description(*numbers).sides]]


def check(call, waves, parameters, maps=()):
    """A graph may be called with other tensors than it was made for: what kernels would read wrongly is refused."""
    given = [t for t in (*waves, *parameters) if t is not None]
    reason = call.backend.cannot_run(given[0].device, call.dtype)
    if reason:
        raise ValueError(f"waves: the graph is for backend {call.backend.name!r}, but {reason}")
    known = [t for t in maps if t is not None]
    devices = {t.device for t in (*given, *known)}
    if len(devices) > 1:
        raise ValueError(f"tensors: expected one device, got {' and '.join(sorted(map(str, devices)))}")
    for name, tensors in (("waves", waves), ("parameters", parameters)):
        for dtype in {t.dtype for t in tensors if t is not None}:
            if (dtype == torch.float64) != (call.dtype == torch.float64):
                raise ValueError(f"{name}: the graph is for maps of {call.dtype}, got {dtype}")
    for dtype in {t.dtype for t in known}:
        if dtype != call.dtype and not (call.save == "bf16" and dtype == torch.bfloat16):
            raise ValueError(f"maps: the graph is for {call.dtype}, got {dtype}")

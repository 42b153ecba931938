"""Layers, stacks and ensembles as data: lengths, groups, FLOPs, and where each sequence lies in the flat buffers.

Words: a *layer* is one convolution with its bias and leaky ReLU; a *stack* is the layers of one discriminator; an
*ensemble* is the stacks of equal layers that run together; a *side* is the real or the generated half of a call.
"""

import functools
from dataclasses import astuple, dataclass, fields, replace

import numpy as np

LRELU_SLOPE = 0.1


def _hashed_once(kind):
    """For values that are often keys, of plans and of what backends make once."""
    compute = kind.__hash__

    def __hash__(self):
        try:
            return self.__dict__["_hash"]
        except KeyError:
            found = self.__dict__["_hash"] = compute(self)
            return found

    kind.__hash__ = __hash__
    return kind


@_hashed_once
@dataclass(frozen=True)
class Layer:
    """One convolution along time. `slope` is the leaky ReLU's; 1 means none."""

    in_channels: int
    out_channels: int
    taps: int
    stride: int
    padding: int
    groups: int = 1
    slope: float = LRELU_SLOPE

    @classmethod
    def of(cls, conv, slope):
        """The layer of a Conv1d, or of a Conv2d whose kernel is (taps × 1)."""
        (taps, *_), (stride, *_), (padding, *_) = conv.kernel_size, conv.stride, conv.padding
        return cls(conv.in_channels, conv.out_channels, taps, stride, padding, conv.groups, slope)

    def out_rows(self, in_rows):
        return (in_rows + 2 * self.padding - self.taps) // self.stride + 1

    @property
    def weights(self):
        """How many elements its weight has."""
        return self.out_channels * (self.in_channels // self.groups) * self.taps

    def flops(self, out_rows):
        """Multiplications and additions of `out_rows` output rows; each of the three directions has as many."""
        return 2 * out_rows * self.weights


@_hashed_once
@dataclass(frozen=True)
class Stack:
    """One discriminator: stem, convolutions, head. `folded`: its maps are [B, C, H, period], else [B, C, H]."""

    layers: tuple[Layer, ...]
    period: int = 1
    folded: bool = False

    def rows(self, length):
        """Rows of a sequence at each depth for a waveform of `length` samples: the fold's, then each layer's output.

        Raises ValueError where a layer would have no output.
        """
        rows = [-(-length // self.period)]
        for depth, layer in enumerate(self.layers):
            rows.append(layer.out_rows(rows[-1]))
            if rows[-1] < 1:
                raise ValueError(
                    f"waveform: {length} samples are too short: layer {depth} (taps {layer.taps}, padding "
                    f"{layer.padding}) has {rows[-2]} input rows at period {self.period}"
                )
        return rows


@dataclass(frozen=True)
class Run:
    """The sequences of one stack and one side at one depth, as the kernels read them (csrc/cpu/shapes.h).

    Row r of sequence q = sample · period + column is row `offset + q · rows + r` of a flat buffer of rows. A stem's
    input is the waveform: `in_rows` is then its length and `in_offset` counts samples. The gradient buffers hold
    only the sequences that have a gradient.
    """

    weights: int
    samples: int
    period: int
    in_rows: int
    out_rows: int
    in_offset: int
    out_offset: int
    grad_in_offset: int
    grad_out_offset: int

    @property
    def sequences(self):
        return self.samples * self.period


@_hashed_once
class Runs(tuple):
    """Runs in their order."""


def run_table(runs):
    """Runs as an int64 array [runs, fields]."""
    return np.array([astuple(run) for run in runs], dtype=np.int64).reshape(len(runs), len(fields(Run)))


@_hashed_once
@dataclass(frozen=True)
class Ensemble:
    """One call of an ensemble: its stacks, and the waveforms that they read.

    Args:
        stacks: discriminators of equal layers.
        waves: for each stack, which waveform of a side it reads (the scales read pooled ones).
        lengths: samples of each waveform.
        samples: batch size of a side.
        sides: 1, or 2 for a real and a generated half.
        weight_sets: for each stack and side, the set of weights it uses: the sides share one unless spectral norm
            iterates between them.
    """

    stacks: tuple[Stack, ...]
    waves: tuple[int, ...]
    lengths: tuple[int, ...]
    samples: int
    sides: int
    weight_sets: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def _plans(self):
        return {}

    def once(self, key, make):
        """`make()`, made once for this ensemble: what its shapes decide, and no call has to find out again."""
        try:
            return self._plans[key]
        except KeyError:
            return self._plans.setdefault(key, make())

    @property
    def layers(self):
        return self.stacks[0].layers

    def role(self, depth):
        """What a backend calls layer `depth`: "stem", "conv" or "head"."""
        return {0: "stem", len(self.layers) - 1: "head"}.get(depth, "conv")

    @functools.cached_property
    def members(self):
        """Every (stack, side), in the order of the buffers."""
        return tuple((stack, side) for stack in range(len(self.stacks)) for side in range(self.sides))

    @functools.cached_property
    def set_count(self):
        return 1 + max(max(sets) for sets in self.weight_sets)

    @functools.cached_property
    def set_stacks(self):
        """The stack of each weight set."""
        stacks = {}
        for stack, sets in enumerate(self.weight_sets):
            for weight_set in sets:
                stacks[weight_set] = stack
        return [stacks[i] for i in range(len(stacks))]

    @functools.cached_property
    def rows(self):
        """Rows of a sequence: [stack][depth], depth 0 the fold."""
        return [stack.rows(self.lengths[wave]) for stack, wave in zip(self.stacks, self.waves)]

    def check(self):
        """ValueError where a waveform is too short for a layer."""
        if "rows" not in self.__dict__:
            for stack, wave in zip(self.stacks, self.waves):
                stack.rows(self.lengths[wave])

    def offsets(self, depth, members):
        """First row of each member in a buffer that holds `members` at `depth` (0: the fold), and the total."""
        return self.once(("offsets", depth, tuple(members)), lambda: self._offsets(depth, members))

    def _offsets(self, depth, members):
        offsets, total = {}, 0
        for member in members:
            offsets[member] = total
            total += self.samples * self.stacks[member[0]].period * self.rows[member[0]][depth]
        return offsets, total

    def spans(self, depth, members):
        """First row and end of each member in such a buffer."""
        return self.once(("spans", depth, tuple(members)), lambda: self._spans(depth, members))

    def _spans(self, depth, members):
        offsets, total = self.offsets(depth, members)
        ends = [*list(offsets.values())[1:], total]
        return {member: (first, end) for (member, first), end in zip(offsets.items(), ends)}

    @functools.cached_property
    def wave_offsets(self):
        """First sample of each waveform, [side][wave], in the buffer of all; and the total."""
        offsets, total = [], 0
        for _ in range(self.sides):
            offsets.append([])
            for length in self.lengths:
                offsets[-1].append(total)
                total += self.samples * length
        return offsets, total

    def runs(self, depth, active):
        """The `Runs` of layer `depth` for the members in `active`, a tuple in the order of `members`."""
        return self.once(("runs", depth, active), lambda: self._runs(depth, active))

    def _runs(self, depth, active):
        ins, outs = (self.offsets(d, self.members)[0] for d in (depth, depth + 1))
        grad_ins, grad_outs = (self.offsets(d, active)[0] for d in (depth, depth + 1))
        runs = []
        for stack, side in active:
            member = (stack, side)
            run = Run(
                weights=self.weight_sets[stack][side],
                samples=self.samples,
                period=self.stacks[stack].period,
                in_rows=self.rows[stack][depth],
                out_rows=self.rows[stack][depth + 1],
                in_offset=ins[member],
                out_offset=outs[member],
                grad_in_offset=grad_ins[member],
                grad_out_offset=grad_outs[member],
            )
            if depth == 0:
                wave = self.waves[stack]
                at = self.wave_offsets[0][side][wave]
                run = replace(run, in_rows=self.lengths[wave], in_offset=at, grad_in_offset=at)
            runs.append(run)
        return Runs(runs)


KEPT = 64  # ensembles, with their plans: more than the shapes that a run meets often

ensemble_of = functools.lru_cache(maxsize=KEPT)(Ensemble)

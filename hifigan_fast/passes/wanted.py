"""What of a call has a gradient, and what a backward pass computes of that: whose gradients, and what at each depth."""

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

from ..geometry import Ensemble, Runs


@dataclass(frozen=True, eq=False)
class Reach:
    """What of a call has a gradient, by what it needs one of.

    Attributes:
        maps: of each side and stack, whether each depth's map has one; in the order of the operator.
        sides: those that any of their stacks' last maps has one on.
        waves: whether a backward pass reads each waveform: of stacks that have a gradient at all.
    """

    maps: dict
    sides: set
    waves: list

    @classmethod
    def of(cls, call, needs):
        return call.ensemble.once(("reach", needs), lambda: cls._of(call, needs))

    @classmethod
    def _of(cls, call, needs):
        e, (wave_needs, layer_needs), maps = call.ensemble, call.split(needs), {}
        for side, stack in itertools.product(range(e.sides), range(len(e.stacks))):
            own = [wave_needs[side][e.waves[stack]], *(any(n) for n in layer_needs[stack])]
            maps[side, stack] = list(itertools.accumulate(own, lambda a, b: a or b))[1:]
        last = [place for place, depths in maps.items() if depths[-1]]
        read = {(side, e.waves[stack]) for side, stack in last}
        places = itertools.product(range(e.sides), range(len(e.lengths)))
        return cls(maps, {side for side, _ in last}, [place in read for place in places])


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
        given: the members that have gradients of maps.
    """

    ensemble: Ensemble
    waves: list
    layers: list
    given: tuple

    @classmethod
    def of(cls, call, needs, given):
        """`needs`: of each waveform and parameter, flat; `given`: each member that has gradients of maps, and the depth
        of the last of these: layers above have none, which is not zero."""
        needs, given = tuple(needs), tuple(given)

        def make():
            waves, layers = call.split(needs)
            for stack, owns in enumerate(layers):
                last = max((depth for (own, _), depth in given if own == stack), default=-1)
                owns[last + 1 :] = [(False,) * 3] * len(owns[last + 1 :])
            return cls(call.ensemble, waves, layers, tuple(member for member, _ in given))

        return call.ensemble.once(("wanted", needs, given), make)

    def below(self, member, depth):
        """Whether anything below `depth` of this member wants a gradient."""
        stack, side = member
        return self.waves[side][self.ensemble.waves[stack]] or any(any(n) for n in self.layers[stack][:depth])

    @functools.cached_property
    def active(self):
        """The members that have a gradient to send down, and something below that wants it."""
        return tuple(member for member in self.given if self.below(member, len(self.ensemble.layers)))

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
        depths = range(len(self.ensemble.layers) - 1, -1, -1)
        return [self._step(depth) for depth in depths if any(self.below(member, depth + 1) for member in self.active)]

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

"""The forward that stands in an accelerated module's own place: its discriminators in the fewest fused passes."""

import types
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from .. import dispatch, ensembles
from ..passes.autograd import run_ensemble
from .conventions import mapped, tensors_in
from .state import changed, state_of


@dataclass(eq=False)
class FusedForward:
    """What `module(...)` calls once it is accelerated, in `module.__dict__["forward"]`: copied and pickled with it.

    Attributes:
        members, sources: its discriminators, and what each reads.
        conventions: by the number of waveforms in a call.
        defaults: the arguments of its own forward, in order; their defaults.
        autocasts: whether its own forward is in autocast's dtype, where there is one, from its convolutions on.
        groups: the numbers of the members that run in one pass.
    """

    module: torch.nn.Module
    members: list
    sources: list
    conventions: dict
    defaults: dict
    autocasts: bool
    stacks: list = field(init=False)
    groups: list = field(init=False)
    state: list = field(init=False)

    def __post_init__(self):
        self.stacks, self.state = [member.stack for member in self.members], state_of(self.module)
        groups = {}
        for number, stack in enumerate(self.stacks):
            groups.setdefault((stack.layers, stack.folded), []).append(number)
        self.groups = list(groups.values())

    def own(self, *args, **kwargs):
        """The module's own forward."""
        return types.MethodType(type(self.module).forward, self.module)(*args, **kwargs)

    def __call__(self, *args, **kwargs):
        waves = self._waves(args, kwargs)
        calls = None if waves is None else self.calls(waves)
        if calls is None:
            return self.own(*args, **kwargs)
        maps = self.maps(calls, self.conventions[len(waves)].order)
        return self.output(maps)

    def output(self, maps):
        """Maps [wave][stack][depth] as the module returns them."""

        def at(place):
            found = maps[place.wave][place.stack][place.depth]
            return torch.flatten(found, 1, -1) if place.flat else found

        return mapped(self.conventions[len(maps)].output, at)

    def _waves(self, args, kwargs):
        """The waveforms among the arguments; None for a call of another kind than those that were probed."""
        names = list(self.defaults)
        if len(args) > len(names) or any(name not in names[len(args) :] for name in kwargs):
            return None
        given = dict(zip(names, args)) | kwargs
        count = sum(isinstance(value, torch.Tensor) for value in given.values())
        if count not in self.conventions or any(not isinstance(given.get(n), torch.Tensor) for n in names[:count]):
            return None
        if any(given[name] is not self.defaults[name] for name in names[count:] if name in given):
            return None
        return list(dispatch.widest_under_autocast(*(given[name] for name in names[:count])))

    def calls(self, waves):
        """The fused passes of a call, [(numbers of members, what `ensembles.fused` returns)], whose sides are in the
        convention's order; None where the module's own forward must run.

        Moves the spectral norms. ValueError where the waveforms are too short for a layer.
        """
        return self._calls(waves, self.conventions[len(waves)])

    def _calls(self, waves, convention):
        if not self._usual(waves, convention):
            return None
        if ensembles.slower(f"{type(self.module).__name__}'s own forward", self.why_its_own(waves[0])):
            return None
        if ensembles.slower(ensembles.BY_MODULES, ensembles.why_not_fused(waves[0], self.members)):
            return None
        sides = [waves[wave] if convention.dims == 3 else waves[wave].unsqueeze(1) for wave in convention.order]
        return [(numbers, self._pass(numbers, sides)) for numbers in self.groups]

    def pair_calls(self, y, y_hat):
        """`calls` for a real and a generated waveform, in this order, whether its own forward takes one or both.

        None where `paired` must be asked. ValueError where it does not return all maps: its losses are others.
        """
        for convention in self.conventions.values():
            shown = {(place.stack, place.depth) for place in convention.places()}
            if shown != {(n, depth) for n, stack in enumerate(self.stacks) for depth in range(len(stack.layers))}:
                raise ValueError(
                    f"discriminators: {type(self.module).__name__} does not return all maps of its discriminators: "
                    "expected one that does; take its own losses"
                )
        convention = self.conventions.get(2) or replace(self.conventions[1], order=(0, 1))
        y, y_hat = dispatch.widest_under_autocast(y, y_hat)
        return self._calls([y, y_hat], convention) if convention.order == (0, 1) else None

    def paired(self, y, y_hat):
        """Real scores, generated scores, real maps, generated maps, a list each, by calling the module.

        ValueError where it returns lists of other lengths than when it was accelerated: which map is which is unknown.
        """
        calls = [(y, y_hat)] if 2 in self.conventions else [(y,), (y_hat,)]
        found = [[[None] * len(stack.layers) for stack in self.stacks] for _ in range(2)]
        for first, waves in enumerate(calls):
            convention, output = self.conventions[len(waves)], self.module(*waves)
            if mapped(output, lambda _: None) != mapped(convention.output, lambda _: None):
                raise ValueError(
                    f"discriminators: {type(self.module).__name__} returns other lists than when it was accelerated: "
                    "expected the same; restore() it and accelerate() it again"
                )
            for place, tensor in zip(convention.places(), tensors_in(output)):
                found[first + place.wave][place.stack][place.depth] = tensor
        return *([maps[-1] for maps in side] for side in found), *found

    def maps(self, calls, order):
        """Feature maps [wave][stack][depth]."""
        found = [[None] * len(self.members) for _ in order]
        for numbers, call in calls:
            for wave, side in zip(order, run_ensemble(*call)):
                for number, maps in zip(numbers, side):
                    found[wave][number] = maps
        return found

    def _usual(self, waves, convention):
        """Whether the waveforms are of the kind that was probed: its own forward says what it thinks of others."""
        first = waves[0]
        return (
            all((x.shape, x.dtype, x.device) == (first.shape, first.dtype, first.device) for x in waves)
            and first.dim() == convention.dims
            and (first.dim() == 2 or first.shape[1] == 1)
            and first.is_floating_point()
            and first.shape[-1] % convention.multiple == 0
            and first.shape[-1] > max(member.period for member in self.members)  # longer than any pad
            and ensembles.mismatch(first, self.module.parameters()) is None
        )

    def why_its_own(self, like):
        """Why its own forward must run on tensors like `like`, in words; None if it need not."""
        what = changed(self.state)
        if what is None and [member.stack for member in self.members] != self.stacks:
            what = "a convolution"
        if what:
            return f"{what} changed after accelerate()"
        under_autocast = dispatch.autocast_dtype(like.device) is not None
        return "it does not follow autocast" if under_autocast and not self.autocasts else None

    def explained(self, name):
        """Rows of `explain`, one a discriminator."""
        like = next(self.module.parameters())
        reason = self.why_its_own(like)
        name = name or type(self.module).__name__
        how = (type(self.module).__name__ + "'s own forward", reason) if reason else None
        how = how or ensembles.runs_on(like, self.members)
        return [
            (f"{name}, {f'period {m.period}' if m.folded else 'scale'}", f"{m.names[0]} to {m.names[-1]}", *how)
            for m in self.members
        ]

    def _pass(self, numbers, sides):
        """One fused pass: each waveform that its members read is made once, and each side's lie in the same order."""
        found, waves = {}, []
        for number in numbers:
            key, levels = self._read(number, sides)
            waves.append(list(found).index(key) if key in found else len(found))
            found[key] = levels
        levels = [list(side) for side in zip(*found.values())]
        group = ensembles.Group([self.members[number] for number in numbers])
        return ensembles.fused(group, levels, waves)

    def _read(self, number, sides):
        source, period = self.sources[number], self.members[number].period
        for module in source.before:
            sides = [module(x) for x in sides]
        # A part of a period is the stem's affair.
        whole = period if source.always and sides[0].shape[-1] % period == 0 else 0
        return (*map(id, source.before), whole), [F.pad(x, (0, whole), "reflect") for x in sides] if whole else sides

"""How a module is called and what it returns: its waveforms, the order of its calls, and where each map goes."""

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from .observe import Refused


@dataclass
class Source:
    """What a stack reads: a waveform after the modules `before`, as `observe.BEFORE`, padded to whole periods.

    `always`: by a whole period where it is one already; None where no call has shown it.
    """

    before: list
    always: bool | None = False

    def padding(self, length, period):
        return period if self.always and length % period == 0 else -length % period


@dataclass(frozen=True)
class Place:
    """Where a tensor of the output comes from. `flat`: the map as logits, [batch, all else]."""

    wave: int
    stack: int
    depth: int
    flat: bool = False


@dataclass
class Convention:
    """One way of calling a module.

    Attributes:
        dims: of a waveform: 3, [batch, 1, samples], or 2, [batch, samples].
        order: the waveforms in the order in which each stack is called on them.
        output: what is returned, with a `Place` for each tensor.
        multiple: what the lengths must be multiples of, where nothing is padded.
    """

    dims: int
    order: tuple
    output: object
    multiple: int = field(default=1, compare=False)  # no single call shows it

    def places(self):
        return list(_leaves(self.output))


def _leaves(output):
    if isinstance(output, (list, tuple, dict)):
        for value in output.values() if isinstance(output, dict) else output:
            yield from _leaves(value)
    elif isinstance(output, (Place, torch.Tensor)):
        yield output


def mapped(output, at):
    """Nested lists, tuples and dicts with each tensor or place replaced by what `at` gives for it."""
    if isinstance(output, dict):
        return type(output)((key, mapped(value, at)) for key, value in output.items())
    if isinstance(output, (list, tuple)):
        return type(output)([mapped(value, at) for value in output])
    return at(output) if isinstance(output, (Place, torch.Tensor)) else output


def tensors_in(output):
    """The tensors of an output, in order."""
    return list(_leaves(output))


def read_convention(observed, waves, members, runs):
    """A call's convention and what each stack read, from what `recognition.read_stacks` found -> (Convention, sources).

    Args:
        waves: as the module got them.
    """
    known = _known_waves(observed, waves)
    sources, order = {}, {}
    for number, chain in runs:
        wave, source = _source(known, chain[0].seen, members[number])
        if sources.setdefault(number, source) != source:
            raise Refused(f"{members[number].names[0]} reads its waveforms in different ways")
        order.setdefault(number, []).append(wave)
    orders = {tuple(own) for own in order.values()}
    if len(orders) > 1 or sorted(next(iter(orders))) != list(range(len(waves))):
        raise Refused("not every discriminator is called once on each waveform")
    (order,) = orders
    output = _template(observed.output, _known_maps(by_wave(runs, order)))
    return Convention(waves[0].dim(), order, output), [sources[number] for number in range(len(members))]


def by_wave(runs, order):
    """Runs of stacks as (which waveform, number, chain), where each stack is called on the waveforms in `order`."""
    called = Counter()
    for number, chain in runs:
        yield order[called[number]], number, chain
        called[number] += 1


def _known_waves(observed, waves):
    """The waveforms and what `observe.BEFORE` made of them: (tensor [batch, 1, samples], which waveform, by what)."""
    known = [(wave if wave.dim() == 3 else wave.unsqueeze(1), number, []) for number, wave in enumerate(waves)]
    for module, given, out in observed.before:
        for wave, number, before in list(known):
            if given.shape == wave.shape and torch.equal(given, wave):
                known.append((out, number, [*before, module]))
                break
    return known


def _source(known, seen, member):
    """Which waveform a stem's input is, folded or not."""
    for wave, number, before in known:
        if not member.folded:
            if seen.shape == wave.shape and torch.equal(seen, wave):
                return number, Source(before)
            continue
        period, length = member.period, wave.shape[-1]
        padding = seen[0].numel() - length
        if len(seen) != len(wave) or not 0 <= padding < length or padding not in (-length % period, period):
            continue
        padded = F.pad(wave, (0, padding), "reflect") if padding else wave
        if torch.equal(seen, padded.reshape(seen.shape)):
            return number, Source(before, padding == period if length % period == 0 else None)
    raise Refused(f"{member.names[0]} reads something else than a waveform, pooled, or padded on the right and folded")


def _known_maps(calls):
    """Each map of a call -> [(place, the tensor itself, its copy, its copy before the activation)]."""
    found = []
    for wave, number, chain in calls:
        for depth, (call, following) in enumerate(zip(chain, [*chain[1:], None])):
            tensor, value = (call.result, call.out) if following is None else (following.given, following.seen)
            found.append((Place(wave, number, depth), tensor, value, call.out))
    return found


def _template(output, known):
    def place(tensor):
        same = [
            entry for entry in known if entry[1].data_ptr() == tensor.data_ptr() and entry[1].numel() == tensor.numel()
        ]
        same = same or [entry for entry in known if _alike(tensor, entry[2]) is not None]
        if not same:
            before = any(_alike(tensor, out) is not None for _, _, _, out in known)
            raise Refused(
                "it returns maps before their activation" if before else "it returns a tensor that is none of its maps"
            )
        found, _, value, _ = same[0]
        if len(same) > 1:
            raise Refused("two of its maps are equal: which one it returns cannot be told")
        flat = _alike(tensor, value)
        if flat is None:
            raise Refused(f"it changes the shape or the values of map {found.depth} after it was read")
        return replace(found, flat=flat)

    if not all(type(part) in (list, tuple, dict) for part in _containers(output)):
        raise Refused("it returns something else than lists, tuples and dicts")
    return mapped(output, place)


def _containers(output):
    if isinstance(output, (list, tuple, dict)):
        yield output
        for value in output.values() if isinstance(output, dict) else output:
            yield from _containers(value)
    elif not isinstance(output, (torch.Tensor, int, float, str, type(None))):
        yield output


def _alike(tensor, value):
    """Whether `tensor` is a map of this value, flat or not: None if it is not, else whether it is flat."""
    for flat, form in ((False, value), (True, value.flatten(1))):
        if tensor.shape == form.shape and torch.equal(tensor, form):
            return flat
    return None


def agreed(found):
    """Conventions and sources of several calls as one; `Refused` where they differ."""
    (convention, sources), *others = found
    for other, theirs in others:
        if other != convention:
            raise Refused("what it returns depends on the waveforms")
        for ours, its in zip(sources, theirs):
            if ours.before != its.before or None not in (ours.always, its.always) and ours.always != its.always:
                raise Refused("what its discriminators read depends on the waveforms")
            ours.always = its.always if ours.always is None else ours.always
    return convention, sources

"""What a module is: the stacks of convolutions that its forward runs, read off the modules and off one call."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from ..ensembles import Member, unreadable
from ..snapshot import has_hooks
from .observe import CONVS, Refused

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def convs_in(module):
    """{name: convolution} of a module, each once."""
    return {name: m for name, m in module.named_modules() if isinstance(m, CONVS)}


def looks_like_discriminator(module):
    """Whether it leads a waveform, or a spectrogram of one, to scores: from one or two channels to one."""
    convs = list(convs_in(module).values())
    transposed = any(isinstance(m, (nn.ConvTranspose1d, nn.ConvTranspose2d)) for m in module.modules())
    return len(convs) > 1 and not transposed and convs[0].in_channels <= 2 and convs[-1].out_channels == 1


def check_structure(module):
    """Refuse what no probe of `module` could make right."""
    convs = convs_in(module)
    if len(convs) < 2:
        raise Refused("holds no stack of convolutions")
    wide = [n for n, conv in convs.items() if isinstance(conv, nn.Conv2d) and conv.kernel_size[1] != 1]
    if wide:
        raise Refused(f"a spectrogram discriminator: the kernel of {wide[0]} spans both dimensions")
    owned = {id(p) for conv in convs.values() for p in conv.parameters()}
    for name, m in module.named_modules():
        if isinstance(m, DROPOUTS) and m.p > 0:
            raise Refused(f"{name} drops out (p = {m.p})")
        if any(id(p) not in owned for p in m._parameters.values() if p is not None):
            raise Refused(f"{name or 'it'} is a {type(m).__name__} with parameters of its own")
        if m is not module and not isinstance(m, CONVS):
            if has_hooks(m):
                raise Refused(f"{name} has a hook")
            if "forward" in vars(m):
                raise Refused(f"the forward of {name} is replaced on the instance")
    reason = unreadable(convs, convs.values())
    if reason:
        raise Refused(reason)


def read_stacks(module, observed):
    """The stacks that a call ran -> `Member`s, and for each run of one (its number, its `ConvCall`s), in order."""
    names = convs_in(module)
    chains = []
    for call in observed.convs:
        if call.conv.in_channels == 1 or not chains:
            chains.append([])
        chains[-1].append(call)
    members, numbers, runs = [], {}, []
    for chain in chains:
        found = _read_chain(names, chain)
        number = numbers.setdefault(tuple(map(id, found.convs)), len(members))
        if number == len(members):
            members.append(found)
        else:
            (members[number],) = merged([members[number]], [found])
        runs.append((number, chain))
    called = {id(call.conv) for call in observed.convs}
    for name, conv in names.items():
        if id(conv) not in called:
            raise Refused(f"{name} is not called")
    return members, runs


def _read_chain(names, chain):
    convs = [call.conv for call in chain]
    by_id, folded = {id(conv): name for name, conv in names.items()}, isinstance(convs[0], nn.Conv2d)
    found = Member([by_id[id(conv)] for conv in convs], convs, (), chain[0].seen.shape[3] if folded else 1, folded)
    reason = found.why_no_stack()
    if reason:
        raise Refused(reason)
    slopes = [_slope(name, a.out, b.seen) for name, a, b in zip(found.names, chain, chain[1:])]
    return replace(found, slopes=(*slopes, 1.0))


def merged(members, again):
    """What two calls showed, as one: a call shows a slope only where something was negative."""
    if [(m.convs, m.period, m.folded) for m in members] != [(m.convs, m.period, m.folded) for m in again]:
        raise Refused("its layers or periods differ from call to call")
    found = []
    for ours, theirs in zip(members, again):
        slopes = [b if a is None else a for a, b in zip(ours.slopes, theirs.slopes)]
        if any(b not in (None, slope) for b, slope in zip(theirs.slopes, slopes)):
            raise Refused("its slopes differ from call to call")
        found.append(replace(ours, slopes=tuple(slopes)))
    return found


def _slope(name, out, following):
    """The slope of the leaky ReLU between a convolution's output and the next one's input; None where none shows."""
    refused = Refused(f"what follows {name} is no leaky ReLU")
    if out.shape != following.shape:
        raise refused
    if not out.isfinite().all():
        raise Refused(f"the output of {name} is not finite")
    if torch.equal(out, following):
        return 1.0 if (out < 0).any() else None
    steepest = out.double().flatten().argmin()
    ratio = (following.double().flatten()[steepest] / out.double().flatten()[steepest]).item()
    for digits in range(1, 8):
        if torch.equal(F.leaky_relu(out, round(ratio, digits)), following):
            return round(ratio, digits)
    raise refused

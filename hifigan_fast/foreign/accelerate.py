"""`accelerate` and `restore`: walk a module, probe what looks like discriminators, give them a fused forward."""

import inspect
import math
import warnings
from dataclasses import replace

import torch
from torch import nn

from .. import checks
from ..discriminators import DiscriminatorP, DiscriminatorS, MultiPeriodDiscriminator, MultiScaleDiscriminator
from ..ensembles import why_not_fused
from .conventions import agreed, read_convention, tensors_in
from .forward import FusedForward
from .observe import Refused, observe, untouched
from .proof import prove
from .recognition import check_structure, convs_in, looks_like_discriminator, merged, read_stacks
from .report import ACCELERATED, ALREADY, LEFT, Entry, Report

OURS = (DiscriminatorP, DiscriminatorS, MultiPeriodDiscriminator, MultiScaleDiscriminator)
CLOSED = {  # classes by name: importing them takes seconds
    "ScriptModule": "scripted: accelerate a module before it is scripted, or instead",
    "OptimizedModule": "compiled: accelerate a module, then compile it",
    "FullyShardedDataParallel": "sharded by FSDP, which is not supported: use DistributedDataParallel",
    "FSDPModule": "sharded by FSDP, which is not supported: use DistributedDataParallel",
    "DataParallel": "replicated at every call: use DistributedDataParallel",
}
FIRST = 401  # samples of the first probe, a prime: deep layers keep a few rows
MULTIPLE = 2310  # of HiFi-GAN's periods: of the first probe of what pads nothing
PROOF = 523  # of the proof


def accelerate(module: nn.Module) -> Report:
    """Make the discriminators in `module` fast, in place: classes, parameters, names, state dict and results stay.

    Discriminators are found by what they are and do, not by name: convolutions along time and leaky ReLUs that lead a
    waveform, folded at a period or not, to scores. Each is probed on random waveforms, and gets a fused `forward`, on
    the instance, only if that reproduces its outputs and gradients, by the ratio rule. `restore` undoes it.

    Args:
        module: any module; every depth of it is searched. Call after `.to(device)`, before torch.compile.

    Returns:
        A `Report`: what is fast now, what was left as it is, and why. If nothing is fast it is false, and a warning
        says so.

    Raises:
        TypeError: `module` is no module.
    """
    checks.check_module("module", module)
    entries: list[Entry] = []
    _walk("", module, entries)
    report = Report(tuple(entries))
    if not report:
        warnings.warn(
            f"hifigan_fast: accelerate() made nothing of {type(module).__name__} fast:\n{report}", stacklevel=2
        )
    return report


def restore(module: nn.Module) -> None:
    """Give every accelerated module in `module` its own forward back; TypeError where `module` is no module."""
    checks.check_module("module", module)
    for child in module.modules():
        if isinstance(vars(child).get("forward"), FusedForward):
            del child.forward


def _walk(name, module, entries):
    """Accelerate the outermost modules that can be: a pass over an ensemble beats one for each member."""
    kind, before = type(module).__name__, len(entries)

    def enter(outcome, why):
        entries.append(Entry(name, kind, outcome, why))

    if isinstance(vars(module).get("forward"), FusedForward):
        return enter(ALREADY, "accelerated before")
    if type(module) in OURS and "forward" not in vars(module):
        return enter(ALREADY, "a class of hifigan_fast")
    closed = [CLOSED[base.__name__] for base in type(module).__mro__ if base.__name__ in CLOSED]
    if closed:
        return enter(LEFT, closed[0])
    try:
        defaults = _arguments(module)
        check_structure(module)
    except Refused as refusal:
        for child_name, child in module.named_children():
            _walk(f"{name}.{child_name}".lstrip("."), child, entries)
        has_forward = type(module).forward is not nn.Module.forward
        if len(entries) == before and has_forward and looks_like_discriminator(module):
            enter(LEFT, str(refusal))
        return None
    try:
        forward, ratio = _fused_forward(module, defaults)
    except Refused as refusal:
        enter(LEFT, str(refusal))
        for child_name, child in module.named_children():
            if len(convs_in(child)) > 1:
                _walk(f"{name}.{child_name}".lstrip("."), child, entries)
        return None
    module.forward = forward
    for conv in convs_in(module).values():
        if "weight" in vars(conv):  # of a legacy norm: with a graph, which no deep copy survives
            conv.weight = conv.weight.detach()
    return enter(ACCELERATED, _described(forward, ratio))


def _arguments(module):
    """The arguments of a module's own forward and their defaults, in order."""
    if "forward" in vars(module):
        raise Refused("its forward is replaced on the instance")
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    if not parameters or any(p.kind != p.POSITIONAL_OR_KEYWORD for p in parameters):
        raise Refused("its forward takes no waveforms by name")
    return {p.name: p.default for p in parameters}


def _fused_forward(module, defaults):
    """A proved `FusedForward` for `module`, and the worst error ratio of its proof; raises `Refused`."""
    like = next(module.parameters())
    required = sum(default is inspect.Parameter.empty for default in defaults.values())
    optional = [2] if required == 1 and list(defaults.values())[1:2] == [None] else []
    if like.is_meta:
        raise Refused("on the meta device: there is nothing to probe")
    if required not in (1, 2):
        raise Refused(f"its forward takes {required} arguments: expected one waveform, or a real and a generated one")
    members, sources, conventions = _probed(module, list(defaults)[:required], like)
    reason = why_not_fused(like, members)
    if reason:
        raise Refused(f"no fused pass would run: {reason}")
    autocasts = _autocasts(module, _waveforms(list(defaults)[:required], _proof(conventions), conventions.dims, like))
    conventions = {required: conventions}
    for count in optional:
        try:
            same, their_sources, convention = _probed(module, list(defaults)[:count], like)
        except Refused:
            continue
        if same == members and their_sources == sources:
            conventions[count] = convention
    forward = FusedForward(module, members, sources, conventions, defaults, autocasts)
    ratios = [
        _guarded(prove, forward, _waveforms(list(defaults)[:count], _proof(convention), convention.dims, like, batch=1))
        for count, convention in conventions.items()
    ]
    return forward, max(ratios)


def _proof(convention):
    """Samples of the proof."""
    return PROOF if convention.multiple == 1 else _multiple(convention.multiple)


def _probed(module, names, like):
    """What calls in evaluation mode show: members, sources, convention."""
    refusals = {}
    for length, dims in ((FIRST, 3), (FIRST, 2), (MULTIPLE, 3), (MULTIPLE, 2)):
        if length == MULTIPLE and not isinstance(refusals[FIRST, dims].__cause__, RuntimeError):
            continue  # no reshaping failed
        try:
            members, *shown = _guarded(_probe, module, _waveforms(names, length, dims, like))
        except Refused as refusal:
            refusals[length, dims] = refusal
            continue
        return _confirmed(module, names, like, dims, length == MULTIPLE, members, tuple(shown))
    first = refusals[FIRST, 3]
    raise refusals.get((MULTIPLE, 3), first) if first.__cause__ else first  # what it is says more than what it raised


def _confirmed(module, names, like, dims, pads_nothing, members, shown):
    """What a first probe showed, with what others do: loud and soft, of lengths that each period divides or not."""
    found, periods = [shown], {member.period for member in members}
    multiple = math.lcm(*periods) if pads_nothing else 1
    for number, length in enumerate(_lengths(periods) if multiple == 1 else [_multiple(multiple)] * 2):
        loudness = (4.0, 0.1)[number % 2]
        again, *more = _guarded(_probe, module, _waveforms(names, length, dims, like, loudness=loudness))
        members = merged(members, again)
        found.append(tuple(more))
    if any(slope is None for member in members for slope in member.slopes):
        raise Refused("a layer gave nothing negative: the slope of what follows it does not show")
    convention, sources = agreed(found)
    if multiple > 1 and any(source.before for member, source in zip(members, sources) if member.folded):
        raise Refused("it pads nothing, and folds what was pooled")
    return members, sources, replace(convention, multiple=multiple)


def _probe(module, given):
    with untouched(module), torch.no_grad():
        module.eval()
        observed = observe(module, given)
        members, runs = read_stacks(module, observed)
        return members, *read_convention(observed, list(given.values()), members, runs)


def _autocasts(module, given):
    """Whether its own forward is in autocast's dtype: not where it turns that off, or converts what it returns."""
    kind = next(iter(given.values())).device.type
    dtype = torch.get_autocast_dtype(kind)
    try:
        with untouched(module), torch.no_grad(), torch.autocast(kind, dtype):
            module.eval()
            observed = observe(module, given)
    except Exception:  # what cannot run there is not made to
        return False
    return {t.dtype for t in (*[call.out for call in observed.convs], *tensors_in(observed.output))} == {dtype}


def _guarded(call, *args):
    """Whatever goes wrong in a probe is a reason to leave the module alone."""
    try:
        return call(*args)
    except Refused:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise Refused(f"a probe raised {type(error).__name__}: {said}") from error


def _waveforms(names, length, dims, like, batch=2, loudness=1.0):
    generator = torch.Generator().manual_seed(length)
    shape = (batch, 1, length) if dims == 3 else (batch, length)
    return {
        name: (loudness * torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")).to(like)
        for name in names
    }


def _lengths(periods):
    """A few lengths, each period dividing one of them. (No period divides the first probe's, a prime.)"""
    left, found = sorted(periods, reverse=True), []
    while left:
        step, taken = 1, []
        for period in left:
            if math.lcm(step, period) <= 2 * FIRST:
                step, taken = math.lcm(step, period), [*taken, period]
        found.append(_multiple(step))
        left = [period for period in left if period not in (taken or left)]
    return found


def _multiple(step):
    """The first multiple of `step` that is no shorter than the first probe."""
    return -(-FIRST // step) * step


def _described(forward, ratio):
    scales = sum(not member.folded for member in forward.members)
    periods = [member.period for member in forward.members if member.folded]
    what = [f"period{'s' * (len(periods) > 1)} {', '.join(map(str, periods))}"] if periods else []
    what += [f"{scales} scale{'s' * (scales > 1)}"] if scales else []
    passes = len(forward.groups)
    return f"{' and '.join(what)} in {passes} pass{'es' * (passes > 1)}; error {ratio:.2g} times its own"

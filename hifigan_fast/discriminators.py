"""Drop-in discriminators: the reference's modules, parameters and results; an ensemble runs as one fused pass.

The modules are the reference's, so that constructors, parameter names, order, initialisation and checkpoints cannot
differ; only `forward` is replaced. Where a fused pass cannot do what the modules would (a hook on an inner
convolution, a parametrized spectral norm), they run module by module in plain PyTorch; `explain` says so.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from . import checks, dispatch, ensembles, pooling, reference
from .ensembles import BY_MODULES, Member, slower
from .geometry import LRELU_SLOPE
from .passes.autograd import run_ensemble
from .reference.discriminators import Scored, ScoredPair
from .snapshot import has_hooks

ONE_BY_ONE = "one discriminator at a time"  # slower than in one pass


def convs_of(discriminator):
    """The convolutions of a discriminator, stem to head."""
    return [*discriminator.convs, discriminator.conv_post]


def _drop_stale_weights(discriminator):
    """Legacy weight norm leaves a `weight` with a graph on each convolution, which no deep copy survives; a fused pass
    never reads it."""
    for conv in convs_of(discriminator):
        if not isinstance(conv.weight, nn.Parameter):
            conv.weight = conv.weight.detach()


def member_of(discriminator):
    """A discriminator as the passes take it: nothing to probe."""
    convs = convs_of(discriminator)
    names = [f"convs.{i}" for i in range(len(convs) - 1)] + ["conv_post"]
    slopes = (LRELU_SLOPE,) * (len(convs) - 1) + (1.0,)
    folded = isinstance(discriminator, reference.DiscriminatorP)
    return Member(names, convs, slopes, discriminator.period if folded else 1, folded)


def stack_of(discriminator):
    """A discriminator's layers as data."""
    return member_of(discriminator).stack


def _why_not_together(discriminators):
    """Why an ensemble must call its discriminators one by one, in words; None if one pass can run them together."""
    for index, discriminator in enumerate(discriminators):
        name = f"discriminators.{index}"
        if has_hooks(discriminator):
            return f"{name} has a hook"
        if "forward" in discriminator.__dict__:
            return f"{name} has a forward of its own"
        if type(discriminator) not in (DiscriminatorP, DiscriminatorS):
            return f"{name} is a {type(discriminator).__name__}"
        reason = member_of(discriminator).why_module_by_module()
        if reason:
            return f"{name}.{reason}"
    layers = [stack_of(discriminator).layers for discriminator in discriminators]
    if not layers or any(own != layers[0] for own in layers):
        return "the discriminators differ in their layers"
    return None


def _forwards():
    return DiscriminatorP.forward, DiscriminatorS.forward


def _why_apart():
    """Why no ensemble can run its discriminators together now, in words; None if one can."""
    return None if _forwards() == FORWARDS else "the forward of a class of discriminators is patched"


def _together(ensemble):
    """Why an ensemble's discriminators cannot run together, and a `Group` of them where they can."""
    discriminators = list(ensemble.discriminators)
    reason = _why_not_together(discriminators)
    return reason, None if reason else ensembles.Group([member_of(d) for d in discriminators])


def _single(discriminator):
    """Why a discriminator must run module by module, and a `Group` of it where it need not."""
    member = member_of(discriminator)
    reason = member.why_module_by_module()
    return reason, None if reason else ensembles.Group([member])


def _read(name, x, module, read):
    """As `ensembles.reading`, without the parameters; None where no pass runs on waveform `x`, which is said.

    ValueError where the parameters are not where the waveform is, or of another dtype: as any convolution raises.
    """
    unfusible = dispatch.not_fusible(x.device)
    reason = unfusible or dispatch.no_kernels(x.device, dispatch.map_dtype(x))
    found, parameters = (None, parameters_of([module])) if reason else ensembles.reading(module, read)
    wrong = None if unfusible else ensembles.mismatch(x, parameters)
    if wrong:
        parameter, what = wrong
        ours, given = getattr(parameter, what), getattr(x, what)
        raise ValueError(f"{name}: expected the {what} of the parameters, {ours}, got {given}")
    slower(BY_MODULES, reason)
    return found


def _run_single(discriminator, x):
    checks.check_waveform("x", x)
    if isinstance(discriminator, reference.DiscriminatorP):
        checks.check_reflect_pad("x", x.shape[-1], discriminator.period)
    found = _read("x", x, discriminator, _single)
    if found is None or slower(BY_MODULES, found[0]):
        return None
    ((maps,),) = run_ensemble(*ensembles.fused(found[1], [[x]], [0]))
    return torch.flatten(maps[-1], 1, -1), maps


def fused_pair(ensemble, y, y_hat):
    """A pair's pass, as `ensembles.fused` returns it; None where the discriminators run module by module, or alone.

    Raises as calling the ensemble does.
    """
    y, y_hat = dispatch.widest_under_autocast(y, y_hat)
    checks.check_pair(y, y_hat)
    for discriminator in ensemble.discriminators:
        if isinstance(discriminator, reference.DiscriminatorP):
            checks.check_reflect_pad("y", y.shape[-1], discriminator.period)
    found = _read("y", y, ensemble, _together)
    if found is None or slower(ONE_BY_ONE, found[0] or _why_apart()):
        return None
    sides, waves = [[y], [y_hat]], [0] * len(found[1].members)
    if isinstance(ensemble, reference.MultiScaleDiscriminator):
        sides, waves = _pooled(ensemble, y, y_hat), range(len(waves))
    return ensembles.fused(found[1], sides, waves)


def _run_pair(ensemble, y, y_hat):
    call = fused_pair(ensemble, y, y_hat)
    if call is None:
        return None
    maps = run_ensemble(*call)
    logits = [[torch.flatten(own[-1], 1, -1) for own in side] for side in maps]
    return logits[0], logits[1], maps[0], maps[1]


def _pooled(ensemble, y, y_hat):
    backend = dispatch.choose(y.device, dispatch.map_dtype(y)).backend
    fuses = backend.fuses_small_work and not torch.compiler.is_compiling()  # which fuses it itself
    if fuses and pooling.poolable(ensemble, (y, y_hat)):
        return pooling.pooled_sides(backend, (y, y_hat))
    return [ensemble.pooled(y), ensemble.pooled(y_hat)]


def explain(module: nn.Module) -> str:
    """Which backend runs the layers of each discriminator in `module`, and why: a table as a string.

    Says what a call would do now: under this `use_backend` and autocast, with these hooks and dtypes. ValueError where
    there is no discriminator of this package, and none that `accelerate` made fast.
    """
    from tabulate import tabulate

    checks.check_module("module", module)
    rows, told = [], set()
    for name, child in module.named_modules():
        if child in told:
            continue
        if hasattr(child.__dict__.get("forward"), "explained"):  # an accelerated module speaks for what it holds
            rows += child.forward.explained(name)
            told.update(child.modules())
        elif isinstance(child, (reference.MultiPeriodDiscriminator, reference.MultiScaleDiscriminator)):
            rows += _explain_ensemble(name, child)
        else:
            rows += _explain_foreign(name, child)
        if isinstance(child, (DiscriminatorP, DiscriminatorS)) and child not in told:
            rows.append(_explain_discriminator(name, child))
    if not rows:
        kind = type(module).__name__
        raise ValueError(f"module: {kind} holds no discriminator of hifigan_fast; accelerate() takes other projects'")
    return tabulate(_said_once(rows), headers=("discriminator", "layers", "backend", "why"))


def _said_once(rows):
    """Why plain PyTorch runs may be long, and the same for many."""
    said = set()
    for *what, backend, why in rows:
        known = backend == dispatch.MODULES and why in said
        said.add(why)
        yield *what, backend, "the same" if known else why


def _explain_ensemble(name, ensemble):
    """A row where its members do not run together, and one for each that is not of this package."""
    members = list(ensemble.discriminators)
    reason = _why_not_together(members) or _why_apart()
    rows = [(name or type(ensemble).__name__, "all", ONE_BY_ONE, reason)] if reason else []
    for index, member in enumerate(members):
        if not isinstance(member, (DiscriminatorP, DiscriminatorS)):
            own = f"{name}.discriminators.{index}".lstrip(".")
            rows.append((own, "all", "its own forward", f"a {type(member).__name__} from elsewhere"))
    return rows


def _explain_discriminator(name, discriminator):
    """One row: a discriminator's layers run on one backend, or all module by module."""
    member = member_of(discriminator)
    layers = f"{member.names[0]}–{len(member.names) - 2}, {member.names[-1]}"
    return name or type(discriminator).__name__, layers, *ensembles.runs_on(next(discriminator.parameters()), [member])


def _explain_foreign(name, module):
    """A row for another project's module that calls several discriminators of this package one after the other."""
    held = [m for child in (module, *module.children()) if type(child) is nn.ModuleList for m in child]
    if sum(isinstance(m, (DiscriminatorP, DiscriminatorS)) for m in held) < 2 or type(module) is nn.ModuleList:
        return []
    why = f"a {type(module).__name__} from elsewhere calls them: accelerate() may run them together"
    return [(name or type(module).__name__, "all", ONE_BY_ONE, why)]


class DiscriminatorP(reference.DiscriminatorP):
    """One period discriminator; constructor, parameters and results of `reference.DiscriminatorP`.

    `forward(x)`: x [B, 1, T], floating -> logits [B, H·period], feature maps as a list: five [B, C, H, period] after
    their leaky ReLU, and the raw head's [B, 1, H, period]. ValueError or TypeError for another shape or dtype, for a
    waveform on another device than the parameters, and for one too short for its reflect pad.
    """

    def __init__(self, period: int, kernel_size: int = 5, stride: int = 3, use_spectral_norm: bool = False) -> None:
        super().__init__(period, kernel_size, stride, use_spectral_norm)
        _drop_stale_weights(self)

    def forward(self, x: torch.Tensor) -> Scored:
        result = _run_single(self, x)
        return super().forward(x) if result is None else result


class DiscriminatorS(reference.DiscriminatorS):
    """One scale discriminator; constructor, parameters and results of `reference.DiscriminatorS`.

    `forward(x)`: x [B, 1, T], floating -> logits [B, H], feature maps as a list: seven [B, C, H] after their leaky
    ReLU, and the raw head's [B, 1, H]. Errors as `DiscriminatorP`.
    """

    def __init__(self, use_spectral_norm: bool = False) -> None:
        super().__init__(use_spectral_norm)
        _drop_stale_weights(self)

    def forward(self, x: torch.Tensor) -> Scored:
        result = _run_single(self, x)
        return super().forward(x) if result is None else result


FORWARDS = _forwards()  # as `dispatch.CONV_METHODS`: a patch of a class, as of one discriminator, must see each call


class MultiPeriodDiscriminator(reference.MultiPeriodDiscriminator):
    """Period discriminators over the same waveforms, real and generated in one pass.

    `forward(y, y_hat)`: both [B, 1, T], of one dtype and device -> real logits, generated logits, real maps,
    generated maps: lists with an entry a discriminator, as each returns them (jik876/hifi-gan `models.py`). Errors as
    `DiscriminatorP`, and ValueError where y and y_hat differ in shape, dtype or device.

    Args:
        periods: any periods, each at least 1.
        use_spectral_norm: legacy spectral norm instead of legacy weight norm, in each.
    """

    member = DiscriminatorP

    def forward(self, y: torch.Tensor, y_hat: torch.Tensor) -> ScoredPair:
        result = _run_pair(self, y, y_hat)
        return super().forward(y, y_hat) if result is None else result


class MultiScaleDiscriminator(reference.MultiScaleDiscriminator):
    """Three scale discriminators, the first spectral-normed, real and generated in one pass.

    `forward(y, y_hat)`: as `MultiPeriodDiscriminator.forward`.

    Args:
        use_spectral_norm: legacy spectral norm instead of legacy weight norm in the other two as well.
    """

    member = DiscriminatorS

    def forward(self, y: torch.Tensor, y_hat: torch.Tensor) -> ScoredPair:
        result = _run_pair(self, y, y_hat)
        return super().forward(y, y_hat) if result is None else result


def parameters_of(modules):
    """All parameters of modules, one that several share as often. `Module.parameters()` takes ten times as long."""
    found, seen, left = [], set(), list(modules)
    while left:
        module = left.pop()
        if module is not None and module not in seen:
            seen.add(module)
            found += module._parameters.values()
            left += module._modules.values()
    return [parameter for parameter in found if parameter is not None]


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the block no parameter of `modules` requires a gradient; afterwards each flag is as it was.

    The generator's half of a HiFi-GAN step needs gradients through the discriminators, not of their parameters: the
    original computes the latter too and throws them away. TypeError for what is no module.
    """
    for module in modules:
        checks.check_module("modules", module)
    flags = [(parameter, parameter.requires_grad) for parameter in parameters_of(modules)]
    try:
        for parameter, _ in flags:
            parameter.requires_grad = False
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad = flag

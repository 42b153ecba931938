"""A step's losses in plain PyTorch: the discriminators, then the losses of `losses.py`."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from . import losses
from .losses import in_float32

Discriminators = nn.Module | Sequence[nn.Module]
Loss = TypeVar("Loss")


class DiscriminatorStepLoss(NamedTuple):
    """The discriminators' half of a step.

    Attributes:
        adversarial: scalar, to be differentiated: the sum of `terms`.
        terms: [discriminators, 2], detached: mean (1 - D(y))² and mean D(ŷ)² of each.
    """

    adversarial: torch.Tensor
    terms: torch.Tensor


class GeneratorStepLoss(NamedTuple):
    """The generator's half of a step, of what the discriminators say.

    Attributes:
        adversarial: scalar, to be differentiated: the sum of `terms`.
        features: scalar, to be differentiated: feature matching, as `losses.feature_loss`.
        terms: [discriminators], detached: mean (1 - D(ŷ))² of each.
    """

    adversarial: torch.Tensor
    features: torch.Tensor
    terms: torch.Tensor


def discriminator_step_loss(
    discriminators: Discriminators, y: torch.Tensor, y_hat: torch.Tensor
) -> DiscriminatorStepLoss:
    """As `hifigan_fast.discriminator_step_loss`."""
    return summed(DiscriminatorStepLoss, [discriminator_half(e, y, y_hat) for e in ensembles_of(discriminators)])


def generator_step_loss(discriminators: Discriminators, y: torch.Tensor, y_hat: torch.Tensor) -> GeneratorStepLoss:
    """As `hifigan_fast.generator_step_loss`."""
    return summed(GeneratorStepLoss, [generator_half(e, y, y_hat) for e in ensembles_of(discriminators)])


def summed(kind: Callable[..., Loss], parts: Sequence[Any]) -> Loss:
    """The losses of several ensembles together: sums of scalars, and all terms."""
    *scalars, terms = zip(*parts)
    return kind(*(sum(own[1:], own[0]) for own in scalars), torch.cat(terms))


def ensembles_of(discriminators: Discriminators) -> list[nn.Module]:
    """One module, or a sequence of them, as a list."""
    several = isinstance(discriminators, (list, tuple, nn.ModuleList))
    found: list[Any] = list(discriminators) if several else [discriminators]  # type: ignore[arg-type]
    wrong = [type(e).__name__ for e in found if not isinstance(e, nn.Module)]
    wrong += [
        f"{type(e).__name__}, which does not take two waveforms"
        for e in found
        if isinstance(e, nn.Module) and not _takes_a_pair(e)
    ]
    if wrong or not found:
        raise TypeError(
            "discriminators: expected a module or a sequence of modules, each called with y and y_hat as "
            f"MultiPeriodDiscriminator is, got {' and '.join(wrong) or 'none'}"
        )
    return found


def _takes_a_pair(module):
    if torch.compiler.is_compiling():  # it cannot look at signatures
        return True
    method = getattr(module.forward, "__func__", None)
    if method is not None and method is getattr(type(module), "forward", None):
        return _method_binds(method, 3)
    return _binds(module.forward, 2)


def _binds(function, count):
    """Whether a function can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # no signature to look at
        pass
    return True


_method_binds = functools.lru_cache(maxsize=64)(_binds)  # a signature takes longer than the rest of the checks


def _judged(ensemble, y, y_hat):
    """What calling an ensemble returns; TypeError where the losses cannot take it."""
    found = ensemble(y, y_hat)
    four = isinstance(found, (tuple, list)) and len(found) == 4 and all(map(_is_nested, found, (1, 1, 2, 2)))
    if not four or not found[0] or any(len(own) != len(found[0]) for own in found):
        raise TypeError(
            "discriminators: expected modules that return four lists with an entry a discriminator (real logits, "
            "generated logits, real maps, generated maps), as MultiPeriodDiscriminator does, got "
            f"{type(ensemble).__name__}, which returned {_shown(found)}"
        )
    return found


def _is_nested(value, depth):
    """Whether `value` is lists of lists of tensors, `depth` deep."""
    if depth == 0:
        return isinstance(value, torch.Tensor)
    return isinstance(value, (tuple, list)) and all(_is_nested(own, depth - 1) for own in value)


def _shown(found):
    """A value's type, and what it holds."""
    parts = [str(key) for key in found] if isinstance(found, dict) else []
    if isinstance(found, (tuple, list)):
        kinds = [(type(own).__name__, isinstance(own, (tuple, list))) for own in found]
        parts = [f"{kind} of {len(own)}" if listed else kind for own, (kind, listed) in zip(found, kinds)]
    return f"a {type(found).__name__}" + (f" ({', '.join(parts)})" if parts else "")


def discriminator_half(
    ensemble: nn.Module, y: torch.Tensor, y_hat: torch.Tensor, losses: Any = losses
) -> DiscriminatorStepLoss:
    """A `DiscriminatorStepLoss` of one ensemble, by the functions of `losses`."""
    real, generated, _, _ = _judged(ensemble, y, y_hat)
    adversarial, *terms = losses.discriminator_loss(in_float32(real), in_float32(generated))
    return DiscriminatorStepLoss(adversarial, torch.stack([torch.stack(list(part)) for part in terms], 1))


def generator_half(
    ensemble: nn.Module, y: torch.Tensor, y_hat: torch.Tensor, losses: Any = losses
) -> GeneratorStepLoss:
    """A `GeneratorStepLoss` of one ensemble, by the functions of `losses`."""
    _, generated, real_maps, fake_maps = _judged(ensemble, y, y_hat)
    adversarial, terms = losses.generator_loss(in_float32(generated))
    features = losses.feature_loss([in_float32(own) for own in real_maps], [in_float32(own) for own in fake_maps])
    return GeneratorStepLoss(adversarial, features, torch.stack(list(terms)).detach())

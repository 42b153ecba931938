"""A step's losses in plain PyTorch: the discriminators, then the losses of `losses.py`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from . import losses
from .discriminators import DiscriminatorP, DiscriminatorS

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
        f"{type(e).__name__}, which takes one waveform"
        for e in found
        if isinstance(e, (DiscriminatorP, DiscriminatorS))
    ]
    if wrong or not found:
        raise TypeError(
            "discriminators: expected a module or a sequence of modules, each called with y and y_hat as "
            f"MultiPeriodDiscriminator is, got {' and '.join(wrong) or 'none'}"
        )
    return found


def discriminator_half(
    ensemble: nn.Module, y: torch.Tensor, y_hat: torch.Tensor, losses: Any = losses
) -> DiscriminatorStepLoss:
    """A `DiscriminatorStepLoss` of one ensemble, by the functions of `losses`."""
    real, generated, _, _ = ensemble(y, y_hat)
    adversarial, *terms = losses.discriminator_loss(_widened(real), _widened(generated))
    return DiscriminatorStepLoss(adversarial, torch.stack([torch.stack(list(part)) for part in terms], 1))


def generator_half(
    ensemble: nn.Module, y: torch.Tensor, y_hat: torch.Tensor, losses: Any = losses
) -> GeneratorStepLoss:
    """A `GeneratorStepLoss` of one ensemble, by the functions of `losses`."""
    _, generated, real_maps, fake_maps = ensemble(y, y_hat)
    adversarial, terms = losses.generator_loss(_widened(generated))
    features = losses.feature_loss([_widened(own) for own in real_maps], [_widened(own) for own in fake_maps])
    return GeneratorStepLoss(adversarial, features, torch.stack(list(terms)).detach())


def _widened(tensors):
    """As losses are taken: in float32 at least."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]

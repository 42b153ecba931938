"""A step's losses without its maps: discriminators and losses in one pass each way.

The same values and gradients as the discriminators followed by the losses of `losses.py`, of which no map's gradient
is ever in memory. Take these in a training step; take the discriminators themselves where logits or maps are wanted.
"""

import torch

from . import losses
from .discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator, fused_pair
from .foreign.forward import FusedForward
from .passes.autograd import run_step
from .reference.step_losses import (
    Discriminators,
    DiscriminatorStepLoss,
    GeneratorStepLoss,
    discriminator_half,
    ensembles_of,
    generator_half,
    summed,
)
from .snapshot import has_hooks

KINDS = MultiPeriodDiscriminator, MultiScaleDiscriminator
FORWARDS = [kind.forward for kind in KINDS]  # a patch of a class, as of one ensemble, must see each call


def discriminator_step_loss(
    discriminators: Discriminators, y: torch.Tensor, y_hat: torch.Tensor
) -> DiscriminatorStepLoss:
    """The discriminators' loss on real and generated waveforms (HiFi-GAN, section 2.4).

    Args:
        discriminators: an ensemble (`MultiPeriodDiscriminator`, `MultiScaleDiscriminator`, any module that returns
            what they do, or an accelerated one that returns all its maps), or a sequence of them.
        y, y_hat: [B, 1, T], real and generated; detach y_hat from the generator.

    Returns a `DiscriminatorStepLoss`, taken in float32 where maps are of half precision. Raises as the discriminators.
    """
    return summed(DiscriminatorStepLoss, [_discriminator_half(e, y, y_hat) for e in ensembles_of(discriminators)])


def generator_step_loss(discriminators: Discriminators, y: torch.Tensor, y_hat: torch.Tensor) -> GeneratorStepLoss:
    """The generator's adversarial and feature-matching losses (HiFi-GAN, section 2.4), without weights.

    Args:
        discriminators: as for `discriminator_step_loss`; freeze them (`frozen`), or their gradients are computed too.
        y, y_hat: [B, 1, T], real and generated.

    Returns a `GeneratorStepLoss`, taken in float32 where maps are of half precision. Raises as the discriminators.
    """
    return summed(GeneratorStepLoss, [_generator_half(e, y, y_hat) for e in ensembles_of(discriminators)])


def _fused(ensemble, kind, y, y_hat):
    """`autograd.run_step` of an ensemble of ours, or an accelerated one; None where its modules must be called: they
    have hooks, say."""
    if _accelerated(ensemble):
        return None if has_hooks(ensemble) else _together(ensemble.forward.pair_calls(y, y_hat), kind)
    ours = isinstance(ensemble, KINDS) and type(ensemble).forward in FORWARDS and "forward" not in ensemble.__dict__
    call = fused_pair(ensemble, y, y_hat) if ours and not has_hooks(ensemble) else None
    return None if call is None else run_step(call[0], kind, *call[1:])


def _accelerated(ensemble):
    return isinstance(ensemble.__dict__.get("forward"), FusedForward)


def _together(calls, kind):
    """The losses of several passes as one's: sums, and the terms [side judged · stack] in the order of the stacks."""
    if calls is None:
        return None
    adversarial, terms, features = zip(*(run_step(call[0], kind, *call[1:]) for _, call in calls))
    columns = [column for own, (numbers, _) in zip(terms, calls) for column in own.view(-1, len(numbers)).unbind(1)]
    places = [number for numbers, _ in calls for number in numbers]
    ordered = [columns[places.index(number)] for number in range(len(places))]
    return sum(adversarial[1:], adversarial[0]), torch.stack(ordered, 1).flatten(), sum(features[1:], features[0])


def _called(ensemble):
    """What is called with both waveforms and returns what `MultiPeriodDiscriminator` does."""
    return ensemble.forward.paired if _accelerated(ensemble) else ensemble


def _discriminator_half(ensemble, y, y_hat):
    found = _fused(ensemble, "discriminator", y, y_hat)
    if found is None:
        return discriminator_half(_called(ensemble), y, y_hat, losses)
    adversarial, terms, _ = found
    return DiscriminatorStepLoss(adversarial, terms.view(2, -1).t())


def _generator_half(ensemble, y, y_hat):
    found = _fused(ensemble, "generator", y, y_hat)
    if found is None:
        return generator_half(_called(ensemble), y, y_hat, losses)
    adversarial, terms, features = found
    return GeneratorStepLoss(adversarial, features, terms)

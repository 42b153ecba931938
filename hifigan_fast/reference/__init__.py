"""HiFi-GAN's discriminators and losses in plain PyTorch, any floating dtype: every test's oracle, never optimised."""

from .discriminators import (
    LRELU_SLOPE,
    PERIODS,
    DiscriminatorP,
    DiscriminatorS,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
)
from .losses import discriminator_loss, feature_loss, generator_loss
from .step_losses import discriminator_step_loss, generator_step_loss

__all__ = [
    "LRELU_SLOPE",
    "PERIODS",
    "DiscriminatorP",
    "DiscriminatorS",
    "MultiPeriodDiscriminator",
    "MultiScaleDiscriminator",
    "discriminator_loss",
    "discriminator_step_loss",
    "feature_loss",
    "generator_loss",
    "generator_step_loss",
]

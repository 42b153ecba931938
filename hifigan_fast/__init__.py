"""HiFi-GAN's discriminators, several times faster: same parameters, same checkpoints, same results."""

from .discriminators import (
    DiscriminatorP,
    DiscriminatorS,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    explain,
    frozen,
)
from .dispatch import save, use_backend
from .foreign import accelerate, restore
from .layouts import convert_state_dict
from .losses import discriminator_loss, feature_loss, generator_loss
from .step_losses import DiscriminatorStepLoss, GeneratorStepLoss, discriminator_step_loss, generator_step_loss
from .version import __version__

__all__ = [
    "__version__",
    "DiscriminatorP",
    "DiscriminatorS",
    "DiscriminatorStepLoss",
    "GeneratorStepLoss",
    "MultiPeriodDiscriminator",
    "MultiScaleDiscriminator",
    "accelerate",
    "convert_state_dict",
    "discriminator_loss",
    "discriminator_step_loss",
    "explain",
    "feature_loss",
    "frozen",
    "generator_loss",
    "generator_step_loss",
    "restore",
    "save",
    "use_backend",
]

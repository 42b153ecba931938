"""Drop-in discriminators (being built: the fused pass goes in here)."""

from .reference import DiscriminatorP, DiscriminatorS, MultiPeriodDiscriminator, MultiScaleDiscriminator  # noqa: F401

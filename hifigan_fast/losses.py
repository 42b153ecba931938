from .reference import discriminator_loss, feature_loss, generator_loss  # noqa: F401

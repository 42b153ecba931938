"""Freezing discriminators for the generator's half of a training step."""

import contextlib


@contextlib.contextmanager
def frozen(*modules):
    """Within the block no parameter of `modules` requires a gradient; afterwards each flag is as it was.

    The generator's half of a HiFi-GAN step needs gradients through the discriminators, not of their parameters:
    the original computes the latter too and throws them away.
    """
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

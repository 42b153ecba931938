"""The adversarial and feature-matching losses, no host syncs (HiFi-GAN, section 2.4; jik876/hifi-gan `models.py`).

Of tensors of half precision they are of that, as the original's; `in_float32` is how the package takes them.
"""

from collections.abc import Sequence
from typing import Any

import torch

Maps = Sequence[Sequence[torch.Tensor]]


def in_float32(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A list of tensors, those of less than float32 in float32."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def feature_loss(fmap_r: Maps, fmap_g: Maps) -> torch.Tensor:
    """2 · the sum over all maps of the mean |real - generated|; the raw head map counts too."""
    loss: Any = 0
    for maps_r, maps_g in zip(fmap_r, fmap_g):
        for real, generated in zip(maps_r, maps_g):
            loss = loss + torch.mean(torch.abs(real - generated))
    return loss * 2


def discriminator_loss(
    disc_real_outputs: Sequence[torch.Tensor], disc_generated_outputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Least-squares loss of the discriminators: the sum of mean (1 - D(y))² + mean D(ŷ)².

    Returns the loss and, per discriminator, its real and its generated part as detached scalars (the original
    returns Python floats, at the price of a host sync each).
    """
    loss: Any = 0
    real_losses, generated_losses = [], []
    for real, generated in zip(disc_real_outputs, disc_generated_outputs):
        real_loss = torch.mean((1 - real) ** 2)
        generated_loss = torch.mean(generated**2)
        loss = loss + (real_loss + generated_loss)
        real_losses.append(real_loss.detach())
        generated_losses.append(generated_loss.detach())
    return loss, real_losses, generated_losses


def generator_loss(disc_outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Least-squares loss of the generator: the sum of mean (1 - D(ŷ))², and the list of its terms."""
    loss: Any = 0
    terms = []
    for generated in disc_outputs:
        term = torch.mean((1 - generated) ** 2)
        terms.append(term)
        loss = loss + term
    return loss, terms

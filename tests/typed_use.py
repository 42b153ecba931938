"""What a user writes, as a type checker reads it under its strictest rules (`make types`); never run."""

from typing import assert_type

import torch
from torch import Tensor, nn

import hifigan_fast as hf
from hifigan_fast import reference


def every_public_name(y: Tensor, y_hat: Tensor) -> None:
    assert_type(hf.__version__, str)
    # Calling a module is Any in PyTorch's own annotations; its forward has the types.
    assert_type(hf.DiscriminatorP(3, kernel_size=5, stride=3).forward(y), tuple[Tensor, list[Tensor]])
    assert_type(hf.DiscriminatorS(use_spectral_norm=True).forward(y), tuple[Tensor, list[Tensor]])
    mpd, msd = hf.MultiPeriodDiscriminator(periods=(2, 3)), hf.MultiScaleDiscriminator()
    with hf.use_backend("cpu"), hf.save("bf16"):
        pair = mpd.forward(y, y_hat)
    assert_type(pair, tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[list[Tensor]]])
    real, generated, real_maps, generated_maps = msd.forward(y, y_hat)
    assert_type(hf.discriminator_loss(real, generated), tuple[Tensor, list[Tensor], list[Tensor]])
    assert_type(hf.generator_loss(generated), tuple[Tensor, list[Tensor]])
    assert_type(hf.feature_loss(real_maps, generated_maps), Tensor)
    assert_type(hf.discriminator_step_loss([mpd, msd], y, y_hat).adversarial, Tensor)
    with hf.frozen(mpd, msd):
        found = hf.generator_step_loss(nn.ModuleList([mpd, msd]), y, y_hat)
        assert_type(found.adversarial + found.features, Tensor)
    assert_type(hf.explain(mpd), str)
    assert_type(bool(hf.accelerate(nn.Sequential(mpd))), bool)
    hf.restore(mpd)
    assert_type(hf.convert_state_dict(mpd.state_dict(), "dac"), dict[str, Tensor])


def the_reference_has_the_same_types(y: Tensor, y_hat: Tensor) -> None:
    ensemble: reference.MultiPeriodDiscriminator = hf.MultiPeriodDiscriminator()
    real, generated, real_maps, generated_maps = ensemble.forward(y, y_hat)
    assert_type(reference.discriminator_loss(real, generated), tuple[Tensor, list[Tensor], list[Tensor]])
    assert_type(reference.generator_loss(generated)[0], Tensor)
    assert_type(reference.feature_loss(real_maps, generated_maps), Tensor)
    assert_type(reference.generator_step_loss(ensemble, y, y_hat).terms, Tensor)


def mistakes(mpd: hf.MultiPeriodDiscriminator, y: Tensor) -> None:
    """Each is an error that a checker finds: an ignore of none would be an error itself."""
    mpd.forward(y)  # type: ignore[call-arg]
    hf.DiscriminatorP("3")  # type: ignore[arg-type]
    hf.generator_loss(y)  # type: ignore[arg-type]
    hf.frozen(torch.zeros(1))  # type: ignore[arg-type]
    hf.use_backend(1)  # type: ignore[arg-type]

import itertools

import pytest
import torch
import torch.nn.functional as F

from hifigan_fast import reference
from hifigan_fast.training.data import Clips, find_clips
from hifigan_fast.training.generator import Generator
from hifigan_fast.training.mel import mel_spectrogram
from hifigan_fast.training.step import Trainer

from . import tiny

CPU = torch.device("cpu")


@pytest.fixture
def batches(speech, tiny_config):
    """Three batches of two crops of speech."""
    clips = Clips(find_clips(speech)[0], tiny_config)
    return [torch.stack([clips[epoch, index][0] for index in (0, 1)]) for epoch in range(3)]


def originals_steps(config, kind, batches):
    """The original's loop in its order, no discriminator frozen; yields its losses and ends with its parameters."""
    torch.manual_seed(config.seed)
    generator, mpd, msd = Generator(config), kind.MultiPeriodDiscriminator(), kind.MultiScaleDiscriminator()
    settings = {"lr": config.learning_rate, "betas": [config.adam_b1, config.adam_b2]}
    optim_g = torch.optim.AdamW(generator.parameters(), **settings)
    optim_d = torch.optim.AdamW(itertools.chain(msd.parameters(), mpd.parameters()), **settings)
    losses = []
    for y in batches:
        x = mel_spectrogram(y, config, config.fmax)
        y_mel = mel_spectrogram(y, config, config.fmax_for_loss)
        y = y.unsqueeze(1)
        y_hat = generator(x)
        y_hat_mel = mel_spectrogram(y_hat.squeeze(1), config, config.fmax_for_loss)
        optim_d.zero_grad()
        real_f, generated_f, _, _ = mpd(y, y_hat.detach())
        real_s, generated_s, _, _ = msd(y, y_hat.detach())
        loss_f, _, _ = reference.discriminator_loss(real_f, generated_f)
        loss_s, _, _ = reference.discriminator_loss(real_s, generated_s)
        loss_d = loss_s + loss_f
        loss_d.backward()
        optim_d.step()
        optim_g.zero_grad()
        mel_error = F.l1_loss(y_mel, y_hat_mel)
        _, generated_f, real_maps_f, generated_maps_f = mpd(y, y_hat)
        _, generated_s, real_maps_s, generated_maps_s = msd(y, y_hat)
        loss_g = (
            reference.generator_loss(generated_s)[0]
            + reference.generator_loss(generated_f)[0]
            + reference.feature_loss(real_maps_s, generated_maps_s)
            + reference.feature_loss(real_maps_f, generated_maps_f)
            + mel_error * 45
        )
        loss_g.backward()
        optim_g.step()
        losses.append([loss_d.item(), loss_g.item(), mel_error.item()])
    return losses, {"generator": generator, "mpd": mpd, "msd": msd}


@pytest.mark.usefixtures("tiny_discriminators")
def test_steps_are_the_originals(tiny_config, batches):
    trainer = Trainer(tiny_config, CPU)
    losses = [trainer.train_step(y).read() for y in batches]
    expected_losses, networks = originals_steps(tiny_config, tiny.DISCRIMINATORS, batches)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=0)
    for name, network in networks.items():
        for key, expected in network.state_dict().items():
            torch.testing.assert_close(getattr(trainer, name).state_dict()[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("tiny_discriminators")
def test_given_mels_feed_the_generator(tiny_config, batches):
    y = batches[0]
    computed, given, other = (Trainer(tiny_config, CPU) for _ in range(3))
    losses = computed.train_step(y).read()
    assert given.train_step(y, mel_spectrogram(y, tiny_config, tiny_config.fmax)).read() == losses
    assert other.train_step(y, torch.zeros(2, 20, 16)).read() != losses


@pytest.mark.usefixtures("tiny_discriminators")
def test_generator_half_touches_no_discriminator(tiny_config, batches):
    trainer = Trainer(tiny_config, CPU)
    y = batches[0].unsqueeze(1)
    y_hat = trainer.generator(trainer.mel(batches[0], None))
    trainer._generator_half(y, y_hat, (y - y_hat).abs().mean())
    parameters = [*trainer.mpd.parameters(), *trainer.msd.parameters()]
    assert all(p.grad is None and p.requires_grad for p in parameters)
    assert all(p.grad is not None for p in trainer.generator.parameters())


@pytest.mark.usefixtures("narrow")
def test_fast_and_reference_begin_and_go_on_alike(tiny_config, batches):
    """Seed for seed: the same parameters, the same first losses to float32 rounding."""
    fast, plain = (Trainer(tiny_config, CPU, kind) for kind in ("fast", "reference"))
    for name in ("generator", "mpd", "msd"):
        ours, theirs = (getattr(trainer, name).state_dict() for trainer in (fast, plain))
        assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for y, tolerance in zip(batches[:2], (1e-5, 1e-3), strict=True):
        torch.testing.assert_close(fast.train_step(y).read(), plain.train_step(y).read(), rtol=tolerance, atol=0)


@pytest.mark.usefixtures("narrow")
def test_bf16_step(tiny_config, batches):
    """The networks run in bfloat16, the parameters, losses and mel stay float32, and the losses are close."""
    exact, rounded = (Trainer(tiny_config, CPU, precision=precision) for precision in ("fp32", "bf16"))
    seen = {}
    rounded.mpd.register_forward_hook(lambda module, args, outputs: seen.update(inputs=args, outputs=outputs))
    expected, found = exact.train_step(batches[0]), rounded.train_step(batches[0])
    assert all(loss.dtype == torch.float32 for loss in found[:3]) and found.finite
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in rounded.generator.parameters())
    assert seen["inputs"][1].dtype == torch.float32 and seen["outputs"][0][0].dtype == torch.bfloat16
    torch.testing.assert_close(found.read(), expected.read(), rtol=0.03, atol=0)
    assert found.read() != expected.read()


def test_learning_rate_decays_every_epoch(tiny_config, tiny_discriminators):
    trainer = Trainer(tiny_config, CPU)
    trainer.train_step(torch.zeros(1, 1024))
    trainer.end_epoch()
    assert [o.param_groups[0]["lr"] for o in (trainer.optim_g, trainer.optim_d)] == [1e-4, 1e-4]
    assert (trainer.step, trainer.epoch, trainer.batch) == (1, 1, 0)


def test_training_step_waits_for_nothing(tiny_config, tiny_discriminators, monkeypatch):
    """No value of a tensor is read on the host during a step."""
    trainer = Trainer(tiny_config, CPU)
    trainer.train_step(torch.zeros(1, 1024))  # AdamW's first step sets itself up

    def read(*_):
        raise AssertionError("a tensor was read on the host")

    losses = None
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "optim_g", _NoStep())  # on a CPU, AdamW reads its own counter
        patch.setattr(trainer, "optim_d", _NoStep())
        for name in ("item", "tolist", "__bool__", "__float__", "numpy"):
            patch.setattr(torch.Tensor, name, read)
        losses = trainer.train_step(torch.zeros(1, 1024))
    assert len(losses.read()) == 3


class _NoStep:
    def zero_grad(self):
        pass

    def step(self):
        pass


def test_unknown_kinds(tiny_config):
    with pytest.raises(ValueError, match=r"discriminators: expected one of \['fast', 'reference'\], got 'quick'"):
        Trainer(tiny_config, CPU, "quick")
    with pytest.raises(ValueError, match=r"precision: expected one of \['fp32', 'bf16'\], got 'fp16'"):
        Trainer(tiny_config, CPU, precision="fp16")

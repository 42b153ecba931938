"""bfloat16 maps: held against plain PyTorch in bfloat16, by the ratio rule (any geometry: test_backends.py)."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import parity, reference
from hifigan_fast.backends import cpu

library, reason = cpu.extension()
pytestmark = pytest.mark.skipif(library is None, reason=str(reason))


@pytest.mark.parametrize(
    "name, length", [("mpd", 2048), *(pytest.param(n, 4096, marks=pytest.mark.exhaustive) for n in ("mpd", "msd"))]
)
def test_the_real_shapes_under_autocast(name, length):
    """Forward and every gradient; parameters and waveforms are float32."""
    pair = parity.build_pair(name, trained=True)
    (verdict,) = parity.compare(*pair, *parity.waveforms(1, length), autocast=torch.bfloat16).values()
    assert verdict.passed, verdict.worst


def test_the_feature_loss_reads_bfloat16_maps():
    torch.manual_seed(0)
    real, generated = ([[torch.randn(2, 3, n, dtype=torch.bfloat16) for n in (5, 70, 5000)]] for _ in range(2))
    for maps in (real, generated):
        for m in maps[0]:
            m.requires_grad_()
    ours, plain = (loss(real, generated) for loss in (hf.feature_loss, reference.feature_loss))
    assert ours.dtype == torch.float32 and plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain.float(), rtol=2e-2, atol=0)
    grads = [torch.autograd.grad(loss, [*real[0], *generated[0]]) for loss in (ours, plain)]
    for a, b in zip(*grads):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=2e-2, atol=0)


def test_a_gradient_penalty_under_autocast():
    discriminator = hf.DiscriminatorP(3)
    y = parity.waveforms(1, 500)[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = discriminator(y)
    (grad,) = torch.autograd.grad(logits.float().sum(), y, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in discriminator.parameters() if p.grad is not None)


def test_a_generators_half_output_under_autocast():
    """y comes from a file, ŷ from a generator under the same autocast: eager takes both."""
    ours, _ = parity.build_pair("msd")
    y, y_hat = parity.waveforms(1, 1024)
    half = y_hat.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = ours.eval()(y, half)
        right = ours(y, half.detach().float())
    assert all(torch.equal(a, b) for a, b in zip(found[1], right[1]))
    sum(score.float().sum() for score in found[1]).backward()
    assert half.grad.dtype == torch.bfloat16 and half.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="y_hat: expected the dtype of y"):
        ours(y, half)


def test_halves_that_are_half_already_under_autocast():
    """A discriminator of its own meets the generator's output alone."""
    discriminator, mpd = hf.DiscriminatorP(3), hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = (x.bfloat16() for x in parity.waveforms(1, 1024))
    y_hat.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = [discriminator(y_hat)[0], *mpd(y, y_hat)[1]]
        right = [discriminator(y_hat.float())[0], *mpd(y.float(), y_hat.float())[1]]
    assert all(map(torch.equal, found, right))
    grads = [torch.autograd.grad(sum(s.float().sum() for s in scores), y_hat)[0] for scores in (found, right)]
    assert grads[0].dtype == torch.bfloat16 and torch.equal(*grads)

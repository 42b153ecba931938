"""The package's losses on accelerated modules."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import step_losses as steps
from hifigan_fast.passes import autograd
from hifigan_fast.reference import losses

from ..needs import needs_extension
from ..small import assert_alike
from .parts import Period
from .test_parity import built, waves

pytestmark = needs_extension


def expected(module, count, y, y_hat):
    """HiFi-GAN's losses by a set's own forward, scores and maps [side][discriminator]."""
    if count == 2:
        real, generated, maps_r, maps_g = module(y, y_hat)
    else:
        (real, maps_r), (generated, maps_g) = module(y), module(y_hat)
    adversarial, of_real, of_generated = losses.discriminator_loss(real, generated)
    judged, terms = losses.generator_loss(generated)
    discriminator = adversarial, torch.stack([torch.stack(of_real), torch.stack(of_generated)], 1)
    return discriminator, (judged, losses.feature_loss(maps_r, maps_g), torch.stack(terms))


@pytest.mark.parametrize("name", ["vits", "jik876 scales", "coqui vocoder", "audiocraft periods"])
@pytest.mark.parametrize("hooked", [False, True])
def test_step_losses_are_those_of_its_own_forward(name, hooked, monkeypatch):
    module, count, passes = built(name)
    state, (y, y_hat) = {k: v.clone() for k, v in module.state_dict().items()}, waves(2)
    assert hf.accelerate(module)
    ran, run = [], autograd.run_step
    monkeypatch.setattr(steps, "run_step", lambda *args: ran.append(1) or run(*args))
    if hooked:
        module.register_forward_hook(lambda *_: None)
    found = []
    for half in range(2):
        results = []
        for fused in (True, False):
            module.load_state_dict(state)
            if not fused:
                hf.restore(module)
            x = y_hat.clone().requires_grad_()
            step_loss = (hf.discriminator_step_loss, hf.generator_step_loss)[half]
            loss = step_loss(module, y, x) if fused else expected(module, count, y, x)[half]
            total = loss[0] + (loss[1] if half else 0)
            results.append([*(t.detach() for t in loss), *torch.autograd.grad(total, [x, *module.parameters()])])
            if not fused:
                hf.accelerate(module)
        found.append(results)
    for ours, own in found:
        assert_alike(ours, own)
    assert len(ran) == (0 if hooked else 2 * passes)


@pytest.mark.parametrize("change", [lambda own: own[::-1], lambda own: own[:1], lambda own: [*own, Period(5)]])
def test_a_set_that_holds_others_than_when_it_was_accelerated(change):
    """Which of its maps are scores would be another's: a scale has fewer than a period."""
    module, _, _ = built("vits")
    assert hf.accelerate(module)
    module.discriminators = torch.nn.ModuleList(change(list(module.discriminators)))
    for loss in (hf.discriminator_step_loss, hf.generator_step_loss):
        with pytest.raises(ValueError, match="Pair returns other lists than when it was accelerated"):
            loss(module, *waves(2))


def test_sets_that_omit_maps_have_losses_of_their_own():
    module, _, _ = built("vocos")
    assert hf.accelerate(module)
    with pytest.raises(ValueError, match="VocosPair does not return all maps of its discriminators"):
        hf.generator_step_loss(module, *(x.squeeze(1) for x in waves(2)))


def test_the_losses_take_what_it_returns():
    module, count, _ = built("vits")
    own = expected(module, count, *waves(2))
    hf.accelerate(module)
    real, generated, maps_r, maps_g = module(*waves(2))
    found = hf.discriminator_loss(real, generated)[0], hf.generator_loss(generated)[0], hf.feature_loss(maps_r, maps_g)
    assert_alike([t.detach() for t in found], [t.detach() for t in (own[0][0], own[1][0], own[1][1])])

"""Each ensemble: forward, the discriminators' step, the generator's step; and the losses alone."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import reference
from hifigan_fast.bench.steps import ORIGINAL, OURS, PASSES, WAYS
from hifigan_fast.bench.workloads import ENSEMBLES, build


@pytest.mark.parametrize("step", list(PASSES))
@pytest.mark.parametrize("name", [ORIGINAL, OURS])
@pytest.mark.parametrize("ensemble", list(ENSEMBLES))
def test_step(timed, benchmark, waveforms, ensemble, name, step):
    benchmark.group = f"{ensemble}, {step}"
    way = WAYS[name]
    timed(way.call(step, build(ENSEMBLES[ensemble], plain=not way.ours), *waveforms))


@pytest.mark.parametrize("implementation", ["ours", "plain"])
def test_feature_loss(timed, benchmark, waveforms, implementation):
    benchmark.group = "feature loss and its gradient"
    module, function = {
        "ours": (hf.MultiPeriodDiscriminator, hf.feature_loss),
        "plain": (reference.MultiPeriodDiscriminator, reference.feature_loss),
    }[implementation]
    with torch.no_grad():
        _, _, real, fake = module()(*waveforms)
    fake = [[m.detach().requires_grad_() for m in own] for own in fake]
    timed(lambda: torch.autograd.grad(function(real, fake), [m for own in fake for m in own]))

"""Each ensemble: forward, the discriminators' step, the generator's step; and the losses alone."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import bench, reference

IMPLEMENTATIONS = {"ours": (0, bench.FastLosses), "plain": (1, reference)}


@pytest.mark.parametrize("step", list(bench.STEPS))
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
@pytest.mark.parametrize("ensemble", list(bench.ENSEMBLES))
def test_step(timed, benchmark, waveforms, ensemble, implementation, step):
    benchmark.group = f"{ensemble}, {step}"
    index, losses = IMPLEMENTATIONS[implementation]
    modules = bench.build(bench.ENSEMBLES[ensemble], plain=implementation == "plain")
    timed(lambda: bench.STEPS[step][index](modules, *waveforms, losses))


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

"""Published packages' own discriminators, accelerated: what they return, send back and hold is what it was."""

import copy

import pytest
import torch

import hifigan_fast as hf

from . import real
from .test_parity import nesting, results, same_state, waves


@pytest.mark.parametrize("name", real.SETS)
def test_a_published_set_is_taken_whole_and_stays_itself(name):
    torch.manual_seed(0)
    *_, count, passes = real.SETS[name]
    module = real.build(name).double()
    state = copy.deepcopy(module.state_dict())
    inputs = [waves(count, n, torch.float64, 2 if name == "vocos" else 3) for n in (373, 462)]
    found = []
    with hf.use_backend("reference"):
        for fused in (True, False):
            module.load_state_dict(state)
            if fused:
                (entry,) = hf.accelerate(module).entries
                assert entry.outcome == "accelerated" and f"in {passes} pass" in entry.why
                same_state(module.state_dict(), state)
            found.append([results(module, x) for x in inputs])
            hf.restore(module)
    for (output, ours), (own_output, own) in zip(*found):
        assert nesting(output) == nesting(own_output)
        for a, b in zip(ours, own, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_spectrogram_discriminators_are_left_alone():
    vocos = real.load("vocos", "discriminators.py")
    with pytest.warns(FutureWarning, match="weight_norm"):
        module = vocos.DiscriminatorR(64, channels=4)
    with pytest.warns(UserWarning, match="a spectrogram discriminator"):
        assert not hf.accelerate(module)

"""Published packages' own discriminators, accelerated: what they return, send back and hold is what it was."""

import pytest
import torch

import hifigan_fast as hf

from . import real
from .test_parity import taken_whole_and_stays_itself, waves


@pytest.mark.parametrize("name", real.SETS)
def test_a_published_set_is_taken_whole_and_stays_itself(name):
    torch.manual_seed(0)
    *_, count, passes = real.SETS[name]
    module = real.build(name).double()
    dims = 2 if name == "vocos" else 3
    taken_whole_and_stays_itself(module, passes, [waves(count, length, torch.float64, dims) for length in (373, 462)])


def test_spectrogram_discriminators_are_left_alone():
    vocos = real.load("vocos", "discriminators.py")
    with pytest.warns(FutureWarning, match="weight_norm"):
        module = vocos.DiscriminatorR(64, channels=4)
    with pytest.warns(UserWarning, match="a spectrogram discriminator"):
        assert not hf.accelerate(module)

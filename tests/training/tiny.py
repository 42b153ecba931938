"""Small networks for the loop's tests, and `hifigan-fast train` on them: `python tiny.py --out DIR …`."""

import argparse
import sys
import warnings
from types import SimpleNamespace

from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from hifigan_fast import reference
from hifigan_fast.training import command, step

CONFIG = {
    "upsample_rates": [8, 8],
    "upsample_kernel_sizes": [16, 16],
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "segment_size": 1024,
    "num_mels": 20,
    "n_fft": 256,
    "hop_size": 64,
    "win_size": 256,
    "batch_size": 4,
    "lr_decay": 0.5,
    "num_workers": 0,
}


class Discriminator(nn.Module):
    """Two layers with the ensembles' interface, in either norm."""

    def __init__(self, norm):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv = norm(nn.Conv1d(1, 4, 5, 2, padding=2))
            self.conv_post = norm(nn.Conv1d(4, 1, 3, padding=1))

    def forward(self, y, y_hat):
        outputs = []
        for waveform in (y, y_hat):
            hidden = nn.functional.leaky_relu(self.conv(waveform), 0.1)
            outputs.append((self.conv_post(hidden), hidden))
        (real, real_map), (generated, generated_map) = outputs
        return [real.flatten(1)], [generated.flatten(1)], [[real_map, real]], [[generated_map, generated]]


DISCRIMINATORS = SimpleNamespace(
    MultiPeriodDiscriminator=lambda periods=None, use_spectral_norm=False: Discriminator(weight_norm),
    MultiScaleDiscriminator=lambda use_spectral_norm=False: Discriminator(spectral_norm),
    discriminator_step_loss=reference.discriminator_step_loss,
    generator_step_loss=reference.generator_step_loss,
)

if __name__ == "__main__":
    step.DISCRIMINATORS["fast"] = DISCRIMINATORS
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    sys.exit(command.run(parser.parse_args()))

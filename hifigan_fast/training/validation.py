"""What the held-out clips say of a generator: their mel error, and samples to hear and see."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .data import Clips
from .log import Log
from .step import Trainer
from .synthesis import generate_whole

SAMPLES = 5  # held-out clips to hear and see, as in the original


@torch.no_grad()
def validate(trainer: Trainer, clips: Clips, stopped: Callable[[], Any] = lambda: False) -> float | None:
    """The mean over whole clips of the L1 between the log-mels (up to fmax_for_loss) of a clip and its reconstruction.

    Args:
        trainer: a `step.Trainer`; its generator runs in float32, one clip at a time, in chunks.
        clips: a `data.Clips`.
        stopped: () -> whether to give up.

    Returns: a float, or None where it gave up. Raises FloatingPointError, naming the clip, for an error that is not
    finite.
    """
    fmax = trainer.config.fmax_for_loss
    found = []
    for index in range(len(clips)):
        if stopped():
            return None
        y, x = _whole(trainer, clips, index)
        real, generated = trainer.mel(y, fmax), trainer.mel(_generated(trainer, x), fmax)
        frames = min(real.shape[2], generated.shape[2])  # a fine-tuning mel may have a frame more than its clip
        found.append(F.l1_loss(real[..., :frames], generated[..., :frames]))
    errors: list[float] = torch.stack(found).tolist()
    for path, error in zip(clips.paths, errors, strict=True):
        if not math.isfinite(error):
            raise FloatingPointError(f"step {trainer.step}: the validation's mel error is {error} on {path}")
    return sum(errors) / len(errors)


@torch.no_grad()
def show_samples(trainer: Trainer, clips: Clips, log: Log, generated: bool) -> None:
    """Hand the first clips to `log`, or what the generator makes of them."""
    for index in range(min(SAMPLES, len(clips))):
        y, x = _whole(trainer, clips, index)
        if generated:
            y = _generated(trainer, x)
            x = trainer.mel(y, trainer.config.fmax)
        group, name = ("generated", "y_hat") if generated else ("gt", "y")
        log.sample(trainer.step, group, name, index, y[0].cpu().numpy(), x[0].cpu().numpy())


def _generated(trainer, x):
    return generate_whole(trainer.generator, trainer.config, x)


def _whole(trainer, clips, index):
    """A whole clip as a batch: waveform [1, T] and the generator's input [1, num_mels, frames]."""
    audio, *mel = (part.to(trainer.device).unsqueeze(0) for part in clips.whole(index))
    return audio, (mel[0] if mel else trainer.mel(audio, trainer.config.fmax))

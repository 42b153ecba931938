"""What a run reports: the progress bar, TensorBoard, and `metrics.jsonl`."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require


class Log:
    """Reports of one run into `folder`: `logs/` for TensorBoard (names as in the original) and `metrics.jsonl`.

    Args:
        folder: the run's folder.
        step: steps already done; what an interrupted run reported beyond them is dropped.
        steps: the total.
        sampling_rate: in Hz, of the audio.
    """

    def __init__(self, folder: str | Path, step: int, steps: int, sampling_rate: int) -> None:
        require("training", "train", "tensorboard", "tqdm", "matplotlib")
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.sampling_rate = sampling_rate
        self._path = Path(folder) / "metrics.jsonl"
        _keep_rows(self._path, step)
        self._board = SummaryWriter(os.path.join(folder, "logs"), purge_step=step + 1)
        layout = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(total=steps, initial=step, unit="step", bar_format=layout, mininterval=0, miniters=1)
        self._since = time.perf_counter(), step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()
        self._board.close()

    def advance(self) -> None:
        """One step done; asks nothing of the device."""
        self._bar.update()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text)

    def losses(self, step: int, losses: Any) -> None:
        """The losses of a step (`step.Losses`): one wait for the device."""
        discriminator, generator, mel_error = losses.read()
        (then, earlier), now = self._since, time.perf_counter()
        seconds = (now - then) / (step - earlier)
        self._since = now, step
        self._bar.set_postfix_str(
            f"{seconds:.3f} s/step, D {discriminator:.3f}, G {generator:.3f}, mel {mel_error:.3f}"
        )
        self._board.add_scalar("training/disc_loss_total", discriminator, step)
        self._board.add_scalar("training/gen_loss_total", generator, step)
        self._board.add_scalar("training/mel_spec_error", mel_error, step)
        self._row(step=step, disc_loss=discriminator, gen_loss=generator, mel_error=mel_error, seconds_per_step=seconds)

    def validation(self, step: int, mel_error: float) -> None:
        """The mean mel error over the held-out clips."""
        self._board.add_scalar("validation/mel_spec_error", mel_error, step)
        self._row(step=step, validation_mel_error=mel_error)
        self.say(f"step {step}: validation mel error {mel_error:.4f}")

    def sample(self, step: int, group: str, name: str, index: int, audio: np.ndarray, mel: np.ndarray) -> None:
        """Clip `index`, the arrays audio [T] and log-mel [num_mels, frames], to be heard and seen."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 2), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(mel, aspect="auto", origin="lower", interpolation="none"), ax=axes)
        self._board.add_audio(f"{group}/{name}_{index}", audio, step, self.sampling_rate)
        self._board.add_figure(f"{group}/{name}_spec_{index}", figure, step)

    def restart_clock(self, step: int) -> None:
        """Leave the time since the last report, and its steps, out of the next report's s/step."""
        self._since = time.perf_counter(), step

    def _row(self, **values):
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")


def _keep_rows(path, step):
    """Drop the rows beyond `step`, and a last line that a kill cut short."""
    if not path.exists():
        return
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            beyond = json.loads(line)["step"] > step
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"out: {path}, line {len(rows) + 1}: expected an object with a step, got {line[:80]!r}; "
                "mend the file or move it away"
            ) from None
        if beyond:
            break
        rows.append(line)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(b"".join(rows))
    os.replace(temporary, path)

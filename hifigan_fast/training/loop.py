"""The training loop (HiFi-GAN, Kong et al. 2020; jik876/hifi-gan `train.py`)."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..voice import write_clips
from .checkpoint import newest_checkpoint, save_checkpoint
from .config import save_config
from .data import Order, endless_batches, open_clips
from .log import Log
from .processes import check_same_step, joined, pick_device
from .resume import resume
from .step import Trainer

SAMPLES = 5  # held-out clips to hear and see, as in the original
SYNTHETIC_CLIPS, SYNTHETIC_SECONDS = 24, 2.0


class Schedule(NamedTuple):
    """The total of steps, and after how many of them each report comes."""

    steps: int
    checkpoint: int = 5000
    validation: int = 1000
    log: int = 10

    def due(self, report, step):
        """Whether `report` comes after `step`; after the last step all do."""
        return step % getattr(self, report) == 0 or step == self.steps


def train(config, data, out, schedule, *, device=None, fine_tune=None, **how):
    """Train until `schedule.steps` steps are done, from the newest checkpoint in `out` where there is one.

    Args:
        config: a `Config`; batch_size is the total over all processes.
        data: folder of wavs (see `files.find_clips`), or None for synthetic voice.
        out: folder for checkpoints, config.json, metrics.jsonl and logs/; one for all processes.
        schedule: a `Schedule`, in steps, those before a resume included.
        device: "cpu", "cuda", "cuda:N", or None for CUDA where there is any.
        fine_tune: folder of mels to fine-tune on, or None.
        how: precision, discriminators and cuda_graph, as for `step.Trainer`.

    Raises ValueError or TypeError for bad input, and OSError where a file cannot be written.
    """
    for name, value in schedule._asdict().items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1 step, got {value}")
    device = pick_device(device)
    torch.backends.cudnn.benchmark = True
    with joined(device) as processes:
        first = processes.rank == 0
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        data = _synthetic_data(out, config, first) if data is None else data
        training, held_out = open_clips(data, config, fine_tune)
        order = Order(len(training), config, processes.rank, processes.ranks)
        trainer = Trainer(config, device, distributed=processes.ranks > 1, **how)
        _resume(trainer, out, order, first)
        check_same_step(trainer.step)
        if trainer.step >= schedule.steps:
            _say(first, f"{out} is at step {trainer.step} of {schedule.steps}: finished, nothing to do")
            return
        if first:
            save_config(config, out / "config.json")
        with Log(out, trainer.step, schedule.steps, config.sampling_rate) if first else contextlib.nullcontext() as log:
            if log:
                _show_samples(trainer, held_out, log, generated=False)
            for y, *mels in endless_batches(training, order, device):
                losses = trainer.train_step(y, *mels)
                if trainer.batch == order.batches_per_epoch:
                    trainer.end_epoch()
                if log:
                    _report(trainer, losses, held_out, out, log, schedule)
                if trainer.step == schedule.steps:
                    break
        _say(first, f"step {trainer.step} of {schedule.steps}: finished; checkpoints in {out}")


def _synthetic_data(out, config, first):
    folder = out / "synthetic_voice"
    _say(first, f"no data folder given: training on {SYNTHETIC_CLIPS} clips of synthetic voice in {folder}")
    if first:
        write_clips(folder, SYNTHETIC_CLIPS, SYNTHETIC_SECONDS, config.sampling_rate)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return folder


def _resume(trainer, out, order, first):
    """Load the newest checkpoint, if any, and set `order` to where it left off."""
    found = newest_checkpoint(out)
    if found:
        changes = resume(trainer, *found)
        _say(
            first, "\n".join([f"resuming after step {trainer.step} from {found[0].name} and {found[1].name}", *changes])
        )
    if trainer.batch >= order.batches_per_epoch:  # the batch size changed since
        trainer.end_epoch()
    order.begin(trainer.epoch, trainer.batch)


def _say(first, text):
    if first:
        print(text, flush=True)


def _report(trainer, losses, held_out, out, log, schedule):
    step = trainer.step
    log.advance()
    if schedule.due("log", step):
        log.losses(step, losses)
    if schedule.due("validation", step):
        log.validation(step, validate(trainer, held_out))
        _show_samples(trainer, held_out, log, generated=True)
        log.restart_clock(step)
    if schedule.due("checkpoint", step):  # last: what a kill loses is then all done again
        save_checkpoint(out, trainer)
        log.restart_clock(step)


@torch.no_grad()
def validate(trainer, clips):
    """The mean over whole clips of the L1 between the log-mels (up to fmax_for_loss) of a clip and its reconstruction.

    Args:
        trainer: a `step.Trainer`; its generator runs in float32, one clip at a time.
        clips: a `data.Clips`.

    Returns: a float.
    """
    fmax = trainer.config.fmax_for_loss
    total = torch.zeros((), dtype=torch.float32, device=trainer.device)
    for index in range(len(clips)):
        y, x = _whole(trainer, clips, index)
        real, generated = trainer.mel(y, fmax), trainer.mel(trainer.generator(x).squeeze(1), fmax)
        frames = min(real.shape[2], generated.shape[2])  # a fine-tuning mel may have a frame more than its clip
        total += F.l1_loss(real[..., :frames], generated[..., :frames])
    return (total / len(clips)).item()


@torch.no_grad()
def _show_samples(trainer, clips, log, generated):
    for index in range(min(SAMPLES, len(clips))):
        y, x = _whole(trainer, clips, index)
        if generated:
            y = trainer.generator(x).squeeze(1)
            x = trainer.mel(y, trainer.config.fmax)
        group, name = ("generated", "y_hat") if generated else ("gt", "y")
        log.sample(trainer.step, group, name, index, y[0].cpu().numpy(), x[0].cpu().numpy())


def _whole(trainer, clips, index):
    """A whole clip as a batch: waveform [1, T] and the generator's input [1, num_mels, frames]."""
    audio, *mel = (part.to(trainer.device).unsqueeze(0) for part in clips.whole(index))
    return audio, (mel[0] if mel else trainer.mel(audio, trainer.config.fmax))

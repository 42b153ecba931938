"""The training loop (HiFi-GAN, Kong et al. 2020; jik876/hifi-gan `train.py`)."""

import contextlib
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..voice import write_clips
from . import checkpoint
from .config import Config, save_config
from .data import Clips, Order, endless_batches, open_clips
from .guard import Guard
from .header import header
from .interrupts import Interrupts
from .log import Log
from .processes import Processes, check_same_step, in_any, joined, pick_device, wait_for_all
from .resume import resume
from .step import Trainer
from .validation import show_samples, validate

SYNTHETIC_CLIPS, SYNTHETIC_SECONDS = 24, 2.0


class Schedule(NamedTuple):
    """The total of steps, after how many of them each report comes, and which checkpoints stay.

    The newest `keep` pairs stay, and those of every `keep_every`-th step; None: all stay.
    """

    steps: int
    checkpoint: int = 5000
    validation: int = 1000
    log: int = 10
    keep: int | None = None
    keep_every: int | None = None

    def due(self, report: str, step: int) -> bool:
        """Whether `report` comes after `step`; after the last step all do."""
        return step % getattr(self, report) == 0 or step == self.steps

    def check(self) -> None:
        """Raise ValueError for a number below 1, and for a keep_every without a keep."""
        for name, value in self._asdict().items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1{' step' * (name != 'keep')}, got {value}")
        if self.keep_every is not None and self.keep is None:
            raise ValueError(f"keep_every: expected a keep beside it, got {self.keep_every} and no keep: all are kept")


class Run(NamedTuple):
    """What one process of a run works with."""

    trainer: Trainer
    training: Clips
    held_out: Clips
    order: Order
    out: Path
    schedule: Schedule
    processes: Processes

    def files(self, epoch: int, batch: int) -> list[str]:
        """The names of the clips that all processes train on in this batch of this epoch."""
        return [str(self.training.paths[index]) for index in self.order.whole_batch(epoch, batch)]


def train(
    config: Config,
    data: str | Path | None,
    out: str | Path,
    schedule: Schedule,
    *,
    device: str | None = None,
    fine_tune: str | Path | None = None,
    init: Sequence[str | Path] = (),
    skip_non_finite: int = 0,
    **how: Any,
) -> int:
    """Train until `schedule.steps` steps are done, from the newest checkpoint in `out` where there is one.

    The first Ctrl-C or SIGTERM ends the run after the step at hand, with a checkpoint.

    Args:
        config: a `Config`; batch_size is the total over all processes.
        data: folder of wavs (see `files.find_clips`), or None for synthetic voice.
        out: folder for checkpoints, config.json, metrics.jsonl and logs/; one for all processes.
        schedule: a `Schedule`, in steps, those before a resume included.
        device: "cpu", "cuda", "cuda:N", or None for CUDA where there is any.
        fine_tune: folder of mels to fine-tune on, or None.
        init: where `out` has no checkpoint, what to begin with at step 0: a generator's file, or both files of a pair.
        skip_non_finite: how many steps that are not finite are undone and passed over (`guard.Guard`).
        how: precision, discriminators and cuda_graph, as for `step.Trainer`.

    Returns: the number of the signal that ended the run, or 0. Raises ValueError or TypeError for bad input, OSError
    where a file cannot be written, FloatingPointError for a step that is not finite.
    """
    schedule.check()
    if skip_non_finite < 0:
        raise ValueError(f"skip_non_finite: expected at least 0 steps, got {skip_non_finite}")
    if fine_tune is not None and data is None:
        raise ValueError(f"fine-tune: expected a data folder, of the clips of these mels, got {str(fine_tune)!r} alone")
    place, folder = pick_device(device), Path(out)
    torch.backends.cudnn.benchmark = True
    with joined(place) as processes, contextlib.ExitStack() as stack:
        with _new_folder(folder, processes.first):
            if _nothing_to_do(folder, checkpoint.newest_step(folder), schedule, processes):  # loads nothing
                return 0
            data = _synthetic_data(folder, config, processes.first) if data is None else data
            training, held_out = open_clips(data, config, fine_tune)
            order = Order(len(training), config, processes.rank, processes.ranks)
            trainer = Trainer(config, place, distributed=processes.ranks > 1, **how)
            run = Run(trainer, training, held_out, order, folder, schedule, processes)
            _begin(run, init)
            if _nothing_to_do(folder, trainer.step, schedule, processes):  # files may have been renamed
                return 0
            run.processes.say(header(run))
            log = None
            if run.processes.first:
                log = stack.enter_context(Log(folder, trainer.step, schedule.steps, config.sampling_rate))
                save_config(config, folder / "config.json")
        guard = Guard(trainer, run.files, skip_non_finite, log.say if log else lambda _: None)
        ended_by = _train(run, guard, log)
    run.processes.say(_farewell(run, ended_by))
    return ended_by


@contextlib.contextmanager
def _new_folder(folder, first):
    """`folder`, made by the first process; where it was not there before, it goes again where the block fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()] if first else []
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            if path == folder:
                shutil.rmtree(path)
            else:  # another run may have begun there
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise


def _synthetic_data(out, config, first):
    folder = out / "synthetic_voice"
    if first:
        print(f"no data folder given: training on {SYNTHETIC_CLIPS} clips of synthetic voice in {folder}", flush=True)
        write_clips(folder, SYNTHETIC_CLIPS, SYNTHETIC_SECONDS, config.sampling_rate)
    wait_for_all()
    return folder


def _begin(run, init):
    """Load the newest checkpoint, or else `init`, and set the order of clips to where it left off."""
    trainer, order, say = run.trainer, run.order, run.processes.say
    for path in checkpoint.half_pairs(run.out):
        say(f"{path} is half of a checkpoint and is not used; --init-generator begins with a g_ file alone")
    found = checkpoint.newest_checkpoint(run.out)
    if found:
        changes = resume(trainer, *found)
        unused = f"; {' and '.join(map(str, init))} not used" if init else ""
        resumed = f"resuming after step {trainer.step} from {found[0].name} and {found[1].name}{unused}"
        say("\n".join([resumed, *changes]))
    elif init:
        load = checkpoint.load_pair if len(init) == 2 else checkpoint.load_generator
        load(trainer if len(init) == 2 else trainer.generator, *init)
        say(f"beginning at step 0 with {' and '.join(map(str, init))}")
    check_same_step(trainer.step)
    if trainer.batch >= order.batches_per_epoch:  # the batch size changed since
        trainer.end_epoch()
    order.begin(trainer.epoch, trainer.batch)


def _train(run, guard, log):
    """Step until the last one, or until a signal comes to one of the processes. Returns its number, or 0."""
    trainer, schedule, begun = run.trainer, run.schedule, run.trainer.step
    with Interrupts(say=run.processes.first) as interrupts:
        if log:
            show_samples(trainer, run.held_out, log, generated=False)
            log.restart_clock(trainer.step)
        for y, *mels in _batches(run, guard, log):
            losses = guard.train_step(y, *mels)
            if trainer.batch == run.order.batches_per_epoch:
                trainer.end_epoch()
            if losses is not None:
                _report(run, guard, losses, log, interrupts)
                if log and trainer.step == begun + 1 and not schedule.due("log", trainer.step):
                    log.restart_clock(trainer.step)  # the first step waits for workers, first-used memory and kernels
            ended_by = in_any(interrupts.signal)
            if (losses is not None and schedule.due("checkpoint", trainer.step)) or (ended_by and trainer.step):
                guard.check()
                _save(run, log)  # last: what a kill loses is then all done again
            if ended_by or trainer.step == schedule.steps:
                break
        wait_for_all()  # a launcher stops all when one has ended by a signal: not while the first still writes
    return ended_by


def _batches(run, guard, log):
    """The batches without end; where a clip cannot be used, a checkpoint of the steps done comes before the error.

    In one process: the others of several would wait in another collective.
    """
    try:
        yield from endless_batches(run.training, run.order, run.trainer.device)
    except (ValueError, OSError):
        if run.trainer.step and run.processes.ranks == 1:
            guard.check()
            _save(run, log)
        raise


def _report(run, guard, losses, log, interrupts):
    step, schedule = run.trainer.step, run.schedule
    if log:
        log.advance()
    if schedule.due("log", step):
        guard.check()
        if log:
            log.losses(step, losses)
    if schedule.due("validation", step):
        guard.check()
        if log:
            mel_error = validate(run.trainer, run.held_out, lambda: interrupts.signal)
            if mel_error is not None:
                log.validation(step, mel_error)
                show_samples(run.trainer, run.held_out, log, generated=True)
            log.restart_clock(step)


def _save(run, log):
    if log:
        checkpoint.save_checkpoint(run.out, run.trainer)
        if run.schedule.keep:
            checkpoint.thin(run.out, run.schedule.keep, run.schedule.keep_every)
        log.restart_clock(run.trainer.step)


def _nothing_to_do(out, step, schedule, processes):
    """Whether a run at `step` has all its steps, which the first process says."""
    steps = schedule.steps
    if step < steps:
        return False
    finished = f"{out} is at step {step} of {steps}: finished, nothing to do"
    beyond = f"{out} is at step {step}, beyond the {steps} steps asked for: nothing was done"
    processes.say(finished if step == steps else beyond)
    return True


def _farewell(run, ended_by):
    step, out = run.trainer.step, run.out
    if not ended_by:
        return f"step {step} of {run.schedule.steps}: finished; checkpoints in {out}"
    name = signal.Signals(ended_by).name
    if not step:
        return f"{name} before the first step was done: no checkpoint was written"
    return f"{name} after step {step}: g_{step:08d} and do_{step:08d} are in {out}; the same command goes on from them"

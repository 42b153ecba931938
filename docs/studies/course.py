"""The course of a run, a few steps at a time, and several runs side by side in one process."""

import contextlib
import dataclasses
import gc
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import hifigan_fast
from hifigan_fast.training import checkpoint, step
from hifigan_fast.training.data import Clips, Order, endless_batches
from hifigan_fast.training.files import find_clips
from hifigan_fast.training.guard import Guard
from hifigan_fast.training.interrupts import Interrupts

from . import probes, results
from .clips import Data
from .runs import LOSSES, PERIODS, WAYS, Plan, Run, config_of, kind_of

ABREAST = {"cpu": 1, "cuda": 5}  # a step of a small batch leaves most of a GPU idle


class Read(Clips):
    """Clips that are read once and stay in memory."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._audio = [super(Read, self).whole(index) for index in range(len(self))]

    def whole(self, index):
        """As `Clips.whole`."""
        return self._audio[index]


class Course:
    """A run under way: its trainer and clips, and what was found so far.

    Begins at the newest checkpoint in `out` where there is one; ValueError where that is of other clips. Of a plan
    without checkpoints nothing is written there.
    """

    def __init__(self, run: Run, plan: Plan, data: Data, out: Path, device: torch.device) -> None:
        self.run, self.plan, self.out = run, plan, out
        self.conditions = results.conditions(device)
        config = config_of(run, plan)
        step.DISCRIMINATORS[run.name] = kind_of(run)
        self.trainer = step.Trainer(config, device, run.name, WAYS[run.way].precision, cuda_graph=None)
        training, self.held_out = (Read(paths, config) for paths in find_clips(data.folder))
        found = checkpoint.newest_checkpoint(out)
        so_far = results.read(out / "course.json") if found else None
        if found and so_far:
            if so_far["data"] != data.digest:
                raise ValueError(f"{out} was begun on other clips: train on those, or delete it")
            checkpoint.load_checkpoint(self.trainer, *found)
        at = self.trainer.step  # a kill may have come between the two files
        self.losses = so_far["losses"][:at] if so_far else []
        self.seconds = so_far["seconds"] if so_far else []
        self.probed = [row for row in so_far["probed"] if row["step"] <= at] if so_far else []
        self.digest, self.order = data.digest, Order(len(training), config)
        self.order.begin(self.trainer.epoch, self.trainer.batch)
        self.batches = endless_batches(training, self.order, device)
        self.guard = Guard(
            self.trainer, lambda *batch: [str(training.paths[i]) for i in self.order.whole_batch(*batch)]
        )

    def _marks_passed(self):
        return [row["step"] for row in self.probed]

    @property
    def finished(self) -> bool:
        """Whether all of it is done, the last probe, too."""
        return set(self.plan.marks) <= set(self._marks_passed())

    def turns(self, stopped: Callable[[], Any]) -> Iterator[None]:
        """Train to the end, or until `stopped`; other runs may go on at each yield, while a GPU works on this one."""
        trainer, plan = self.trainer, self.plan
        while True:
            if trainer.step in plan.marks and trainer.step not in self._marks_passed():
                found = probes.probe(trainer, self.held_out, speech=trainer.step == plan.steps)
                self.probed.append({"step": trainer.step} | found)
            if self.finished:
                return
            begun = time.perf_counter()
            taken = self._steps(plan.turn(trainer.step), stopped)
            yield
            self.guard.check()
            self.losses += torch.stack([torch.stack(own[:3]) for own in taken]).tolist() if taken else []
            self.seconds += [(time.perf_counter() - begun) / len(taken)] if taken else []
            ended = stopped()
            if plan.checkpoint and trainer.step and (ended or trainer.step % plan.checkpoint == 0):
                self._save()
            if ended:
                return

    def _steps(self, last, stopped):
        """Steps up to number `last`; what they return, which nobody waits for here."""
        torch.backends.cudnn.benchmark = True  # as the package's own loop has it
        taken = []
        while self.trainer.step < last and not stopped():
            [y] = next(self.batches)
            taken.append(self.guard.train_step(y))
            if self.trainer.batch == self.order.batches_per_epoch:
                self.trainer.end_epoch()
        return taken

    def _save(self):
        """What was found first: of a kill in between, what is beyond the older checkpoint is found again."""
        so_far = {"losses": self.losses, "seconds": self.seconds, "probed": self.probed}
        results.write(self.out / "course.json", {"data": self.digest} | so_far)
        checkpoint.save_checkpoint(self.out, self.trainer)
        checkpoint.thin(self.out, 1)

    def result(self) -> dict[str, Any]:
        """What is kept of a finished run; seconds are those of a step of this run while others ran beside it."""
        plan = self.plan
        points = range(0, plan.steps, plan.mean)
        columns = zip(LOSSES, zip(*self.losses))
        return {
            "run": dataclasses.asdict(self.run) | {"periods": PERIODS[self.run.periods]},
            "plan": dataclasses.asdict(plan),
            "data": self.digest,
            "conditions": self.conditions,
            "seconds_per_step": round(statistics.median(self.seconds), 4),
            "curve": {"step": plan.points}
            | {name: [round(statistics.fmean(own[p : p + plan.mean]), 6) for p in points] for name, own in columns},
            "probes": [row for row in self.probed if row["step"] <= plan.steps],
        }


def work(
    wanted: list[Run],
    plan: Plan,
    data: Data,
    scratch: Path,
    folder: Path = results.RESULTS,
    device: torch.device | None = None,
) -> int:
    """Train those of `wanted` that have no result of `plan` in `folder` yet: on a CPU one after the other, on a GPU
    several side by side, each on a stream of its own.

    A run that fails is reported, and the others go on. Checkpoints lie in `scratch`, the newest of each run only, and
    go when its result is written. Returns an exit status: 0, 1 where a run failed, 128 + the number of the signal that
    ended it.
    """
    device = device or torch.device("cpu")
    waiting = [run for run in wanted if run.name not in results.of_plan(plan, [run], folder)]
    going: dict[Run, tuple[Iterator[None], Any]] = {}
    failed = False
    with Interrupts(say=plan.checkpoint is not None) as interrupts:
        while going or (waiting and not interrupts.signal):
            while waiting and len(going) < ABREAST[device.type]:
                gc.collect()  # a trainer and its graph refer to each other, and no capture may see their end
                run = waiting.pop(0)
                stream = torch.cuda.Stream(device) if device.type == "cuda" else None
                going[run] = _whole(run, plan, data, scratch, folder, device, lambda: interrupts.signal), stream
            for run, (turns, stream) in list(going.items()):
                try:
                    with torch.cuda.stream(stream), hifigan_fast.save(WAYS[run.way].save):
                        next(turns)
                except StopIteration:
                    del going[run]
                except Exception as error:
                    del going[run]
                    failed = True
                    _report(run, error)
    return 128 + interrupts.signal if interrupts.signal else int(failed)


def _whole(run, plan, data, scratch, folder, device, stopped):
    """The turns of a run, from its start to its result."""
    begun, out = time.perf_counter(), scratch / plan.name / run.name
    with _alone(out) if plan.checkpoint else contextlib.nullcontext():
        print(f"{run.name}: {plan.steps} steps, {WAYS[run.way].title}", flush=True)
        course = Course(run, plan, data, out, device)
        yield from course.turns(stopped)
        if not course.finished:
            return
        results.write(folder / plan.name / f"{run.name}.json", course.result())
        shutil.rmtree(out, ignore_errors=True)
    print(f"{run.name}: done, {(time.perf_counter() - begun) / 60:.1f} minutes of this session", flush=True)


@contextlib.contextmanager
def _alone(out):
    """Within the block no other process trains in `out`: each would thin out the other's checkpoints."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(f"{out.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another process trains it, in {out}: wait for that, or take another --scratch") from None


def _report(run, error):
    expected = isinstance(error, (ValueError, OSError, ImportError, FloatingPointError))
    said = str(error) if expected else "".join(traceback.format_exception(error))
    print(f"{run.name}: failed: {said}", file=sys.stderr, flush=True)

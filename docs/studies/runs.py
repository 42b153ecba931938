"""The training runs: by which discriminators, of which seed, how long; and one run, which goes on where it stopped."""

import contextlib
import dataclasses
import json
import shutil
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import hifigan_fast
from hifigan_fast import losses, reference
from hifigan_fast.reference.step_losses import discriminator_half, ensembles_of, generator_half, summed
from hifigan_fast.training import step
from hifigan_fast.training.checkpoint import load_checkpoint, newest_checkpoint
from hifigan_fast.training.config import Config, load_config
from hifigan_fast.training.data import open_clips
from hifigan_fast.training.loop import Schedule, train

from . import probes, results
from .clips import Data

SEEDS = (1, 2, 3)
LOSSES = ("disc_loss", "gen_loss", "mel_error")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long the runs are: `steps`, a probe every `mark`, a point of the curves for every `mean` steps."""

    name: str
    steps: int
    mark: int
    mean: int
    checkpoint: int = 100
    batch_size: int = 2
    segment_size: int = 4096
    config: str = "v2"

    @property
    def marks(self) -> list[int]:
        """The steps after which a run is probed."""
        return [*range(0, self.steps, self.mark), self.steps]


WHOLE = Plan("whole", steps=1500, mark=250, mean=25)
SHORT = Plan("short", steps=20, mark=10, mean=1, checkpoint=10)
PLANS = {plan.name: plan for plan in (WHOLE, SHORT)}


@dataclasses.dataclass(frozen=True)
class Way:
    """An implementation: as the figures call it, its discriminators and losses, and how it runs."""

    title: str
    kind: Any
    precision: str = "fp32"
    save: str = "maps"


def _by_functions(kind, half):
    """A step's loss by calling the modules, then the package's loss functions on what they return."""
    return lambda modules, y, y_hat: summed(kind, [half(e, y, y_hat, losses) for e in ensembles_of(modules)])


_FUNCTIONS = SimpleNamespace(
    **{name: getattr(hifigan_fast, name) for name in ("MultiPeriodDiscriminator", "MultiScaleDiscriminator")},
    DiscriminatorS=hifigan_fast.DiscriminatorS,
    discriminator_step_loss=_by_functions(reference.step_losses.DiscriminatorStepLoss, discriminator_half),
    generator_step_loss=_by_functions(reference.step_losses.GeneratorStepLoss, generator_half),
)
WAYS = {
    "plain": Way("plain PyTorch, float32", reference),
    "functions": Way("ours, float32, modules and loss functions", _FUNCTIONS),
    "step-losses": Way("ours, float32, step losses", hifigan_fast),
    "save-bf16": Way('ours, save("bf16")', hifigan_fast, save="bf16"),
    "autocast": Way("ours, bf16 autocast", hifigan_fast, precision="bf16"),
}
PERIODS = {
    "primes": (2, 3, 5, 7, 11),
    "even": (2, 4, 6, 8, 10),
    "odd": (3, 5, 7, 11, 13),
    "pitch": (66, 82, 95, 108, 128),  # where the clips' own pitch repeats (`periods.pitch_set`)
}
SPECTRAL = ("first", "none", "all")  # which of MSD's scales are spectral-normed


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: `way` of `WAYS`, `periods` of `PERIODS`, `spectral` of `SPECTRAL`."""

    way: str
    seed: int
    periods: str = "primes"
    spectral: str = "first"

    @property
    def name(self) -> str:
        """Of its result and its folder: what differs from the standard, and the seed."""
        changes = [f"periods-{self.periods}"] * (self.periods != "primes")
        changes += [f"spectral-{self.spectral}"] * (self.spectral != "first")
        return "-".join([*changes, str(self.seed)] if changes else [self.way, str(self.seed)])


FIDELITY = [Run(way, seed) for seed in SEEDS for way in WAYS]
OF_PERIODS = [Run("step-losses", seed, periods=name) for seed in SEEDS for name in PERIODS]
OF_SPECTRAL = [Run("step-losses", seed, spectral=name) for seed in SEEDS for name in SPECTRAL]
RUNS = list(dict.fromkeys([*FIDELITY, *OF_PERIODS, *OF_SPECTRAL]))


def kind_of(run: Run) -> SimpleNamespace:
    """The discriminators and losses of a run, as `step.DISCRIMINATORS` has them."""
    kind = WAYS[run.way].kind

    def scales(use_spectral_norm=False):
        ensemble = kind.MultiScaleDiscriminator(run.spectral == "all")
        if run.spectral == "none":
            ensemble.discriminators[0] = kind.DiscriminatorS()
        return ensemble

    return SimpleNamespace(
        MultiPeriodDiscriminator=kind.MultiPeriodDiscriminator,
        MultiScaleDiscriminator=scales,
        discriminator_step_loss=kind.discriminator_step_loss,
        generator_step_loss=kind.generator_step_loss,
    )


def config_of(run: Run, plan: Plan) -> Config:
    """The run's configuration. Clips are read by the process itself: no worker's timing, nothing to clean up."""
    return load_config(
        plan.config,
        seed=run.seed,
        batch_size=plan.batch_size,
        segment_size=plan.segment_size,
        num_workers=0,
        discriminator_periods=list(PERIODS[run.periods]),
    )


def execute(run: Run, plan: Plan, data: Data, scratch: Path, folder: Path = results.RESULTS) -> int:
    """Train a run to its end, from its newest checkpoint where there is one, and write its result to `folder`.

    Its checkpoint lies in `scratch`, the newest only, and goes when the result is written. Returns the number of the
    signal that ended it, or 0. Raises what `loop.train` does.
    """
    out, way = scratch / plan.name / run.name, WAYS[run.way]
    config = config_of(run, plan)
    step.DISCRIMINATORS[run.name] = kind_of(run)
    how = {"precision": way.precision, "discriminators": run.name}
    probed = {row["step"]: row for row in _rows(out / "probes.jsonl")}
    with contextlib.closing(_file(out / "probes.jsonl", probed)) as file, hifigan_fast.save(way.save):
        for mark in plan.marks:
            if mark in probed:
                continue
            if mark:
                schedule = Schedule(mark, plan.checkpoint, validation=plan.steps, log=1, keep=1)
                ended_by = train(config, data.folder, out, schedule, device="cpu", cuda_graph=False, **how)
                if ended_by:
                    return ended_by
            probed[mark] = _probed(config, data, out, how)
            print(json.dumps(probed[mark]), file=file, flush=True)
    results.write(folder / plan.name / f"{run.name}.json", _result(run, plan, data, out, probed))
    shutil.rmtree(out)
    return 0


def _file(path, rows):
    """A file of rows to append to, without a last one that a kill cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _rows(path):
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _probed(config, data, out, how):
    """What is measured of the networks where the run is now."""
    trainer = step.Trainer(config, torch.device("cpu"), **how)
    found = newest_checkpoint(out)
    if found:
        load_checkpoint(trainer, *found)
    return {"step": trainer.step} | probes.probe(trainer, open_clips(data.folder, config)[1])


def _result(run, plan, data, out, probed):
    rows = [row for row in _rows(out / "metrics.jsonl") if "gen_loss" in row]
    chunks = [rows[start : start + plan.mean] for start in range(0, len(rows), plan.mean)]
    curve = {name: [round(statistics.fmean(row[name] for row in chunk), 6) for chunk in chunks] for name in LOSSES}
    return {
        "run": dataclasses.asdict(run) | {"periods": PERIODS[run.periods]},
        "plan": dataclasses.asdict(plan),
        "data": data.digest,
        "conditions": results.conditions(),
        "seconds_per_step": round(statistics.median(row["seconds_per_step"] for row in rows), 3),
        "curve": {"step": [chunk[-1]["step"] for chunk in chunks]} | curve,
        "probes": [probed[mark] for mark in plan.marks],
    }


def work(runs: list[Run], plan: Plan, data: Data, scratch: Path, folder: Path = results.RESULTS) -> int:
    """Execute those of `runs` that have no result yet, one at a time; returns as `execute` does."""
    for run in runs:
        if run.name in results.of_plan(plan, [run], folder):
            continue
        begun = time.perf_counter()
        print(f"{run.name}: {plan.steps} steps, {WAYS[run.way].title}", flush=True)
        ended_by = execute(run, plan, data, scratch, folder)
        if ended_by:
            return ended_by
        print(f"{run.name}: done, {(time.perf_counter() - begun) / 60:.0f} minutes of this session", flush=True)
    return 0

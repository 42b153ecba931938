"""How fast do two runs of plain PyTorch part that differ in rounding only, and do ours part faster?

Training a GAN is chaotic: AdamW turns the sign of a gradient near zero into a full step. So a fast implementation is
held against plain PyTorch that sums in another order: on two threads instead of one, or without oneDNN's convolutions;
one in bfloat16 against plain PyTorch in bfloat16.
"""

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

import hifigan_fast
from hifigan_fast.training import step
from hifigan_fast.training.data import Order, endless_batches, open_clips
from hifigan_fast.training.step import Trainer

from . import results
from .clips import Data
from .runs import LOSSES, SEEDS, WAYS, Plan, Run, config_of, kind_of

PARTING = Plan("parting", steps=20, mark=20, mean=1)
RUNS = [Run("plain", seed) for seed in SEEDS]  # what all others of the seed are held against
EVERY = 64  # of the discriminators' parameters this part is compared; of the generator's all


class Rival(NamedTuple):
    """Whose training is held against plain PyTorch's: `way` of `WAYS`, and what is else about it."""

    way: str
    title: str
    threads: int = 1
    onednn: bool = True
    precision: str | None = None


CONTROLS = {
    "threads": Rival("plain", "plain PyTorch, 2 threads", threads=2),
    "no-onednn": Rival("plain", "plain PyTorch, without oneDNN", onednn=False),
    "plain-autocast": Rival("plain", "plain PyTorch, bf16 autocast", precision="bf16"),
}
OURS = {name: Rival(name, way.title) for name, way in WAYS.items() if name != "plain"}
RIVALS = CONTROLS | OURS


def measure(run: Run, plan: Plan, data: Data, folder: Path = results.RESULTS) -> None:
    """Train plain PyTorch and all rivals from one seed, and write how far each is from plain PyTorch to `folder`."""
    result = {"plan": dataclasses.asdict(plan), "data": data.digest, "conditions": results.conditions()}
    plain = list(_steps(run, plan, data, Rival("plain", "")))
    start = next(_steps(run, dataclasses.replace(plan, steps=0), data, Rival("plain", "")))
    travelled = [_distances(parameters, start[0]) for parameters, _ in plain]
    rivals: dict[str, Any] = {}
    for name, rival in tqdm(RIVALS.items(), desc=f"parting, seed {run.seed}"):
        rows = [
            {part: own / way[part] for part, own in _distances(parameters, reference).items()}
            | {loss: abs(a / b - 1) for loss, a, b in zip(LOSSES, losses, expected)}
            for (parameters, losses), (reference, expected), way in zip(
                _steps(run, plan, data, rival), plain, travelled
            )
        ]
        rivals[name] = {key: [float(f"{row[key]:.3g}") for row in rows] for key in rows[0]}
    results.write(folder / plan.name / f"{run.name}.json", result | {"rivals": rivals})


def _distances(parameters, others):
    return {part: float((own - others[part]).norm()) for part, own in parameters.items()}


def _steps(run: Run, plan: Plan, data: Data, rival: Rival) -> Iterator[tuple[dict[str, torch.Tensor], list[float]]]:
    """After each step: parameters of {generator, discriminators}, and losses. Of 0 steps: the start's, once."""
    way = WAYS[rival.way]
    step.DISCRIMINATORS["rival"] = kind_of(dataclasses.replace(run, way=rival.way))
    config = config_of(run, plan)
    trainer = Trainer(config, torch.device("cpu"), "rival", rival.precision or way.precision)
    if not plan.steps:
        yield _parameters(trainer), []
    training, _ = open_clips(data.folder, config)
    order = Order(len(training), config)
    with _as(rival.threads, rival.onednn), hifigan_fast.save(way.save):
        for (y,) in itertools.islice(endless_batches(training, order, trainer.device), plan.steps):
            losses = trainer.train_step(y).read()
            yield _parameters(trainer), losses


def _parameters(trainer):
    parts = {"generator": [trainer.generator], "discriminators": [trainer.mpd, trainer.msd]}
    every = {"generator": 1, "discriminators": EVERY}
    return {
        part: torch.cat([p.detach().flatten()[:: every[part]].clone() for module in held for p in module.parameters()])
        for part, held in parts.items()
    }


@contextlib.contextmanager
def _as(threads, onednn):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration")  # which torch's flags set, too
            with torch.backends.mkldnn.flags(enabled=onednn):
                yield
    finally:
        torch.set_num_threads(before)


def ratios(found: dict[str, dict[str, Any]], part: str, name: str, control: str) -> list[float]:
    """After the last step, seed by seed: a rival's distance from plain PyTorch over a control's."""
    ends = ([result["rivals"][own][part][-1] for result in found.values()] for own in (name, control))
    return [own / other if other else math.inf for own, other in zip(*ends)]

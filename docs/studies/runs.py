"""The training runs: by which discriminators, of which seed, how long."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import hifigan_fast
from hifigan_fast import losses, reference
from hifigan_fast.reference.step_losses import discriminator_half, ensembles_of, generator_half, summed
from hifigan_fast.training.config import Config, load_config

SEEDS = (1, 2, 3)
LOSSES = ("disc_loss", "gen_loss", "mel_error")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long the runs are: `steps`, a probe every `mark`, a point of the curves for every `mean` steps.

    And a checkpoint every so many; None: a run that is killed begins anew.
    """

    name: str
    steps: int
    mark: int
    mean: int
    checkpoint: int | None = 100
    batch_size: int = 1
    segment_size: int = 4096
    config: str = "v2"

    @property
    def marks(self) -> list[int]:
        """The steps after which a run is probed."""
        return [*range(0, self.steps, self.mark), self.steps]

    @property
    def points(self) -> list[int]:
        """The steps after which a curve has a point: the mean of those since the last."""
        return [min(first + self.mean, self.steps) for first in range(0, self.steps, self.mean)]

    def turn(self, step: int) -> int:
        """The next step after `step` at which there is something to read, measure or write."""
        every = filter(None, (self.mark, self.mean, self.checkpoint))
        return min(self.steps, *(step - step % number + number for number in every))


WHOLE = Plan("whole", steps=1500, mark=250, mean=25)
THIRD = dataclasses.replace(WHOLE, steps=500)  # the first third of a whole run, which counts as one
GPU = Plan("gpu", steps=1500, mark=750, mean=25, checkpoint=None, batch_size=2)  # a run takes a minute there
SHORT = Plan("short", steps=20, mark=10, mean=1, checkpoint=10, batch_size=2)
PLANS = {"whole": WHOLE, "third": THIRD, "gpu": GPU, "short": SHORT}
OF_FIDELITY, OF_QUESTIONS = (WHOLE, GPU), (THIRD, GPU)  # the plans of either page: it shows the one with more results


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


ALIKE = "functions"  # as step losses bit for bit, by tests/training/test_study_pages.py: one run stands for both
FIDELITY = [Run(way, seed) for seed in SEEDS for way in WAYS if way != ALIKE]
OF_PERIODS = [Run("step-losses", seed, periods=name) for seed in SEEDS for name in PERIODS]
OF_SPECTRAL = [Run("step-losses", seed, spectral=name) for seed in SEEDS for name in SPECTRAL]
RUNS = list(dict.fromkeys([*FIDELITY, *OF_PERIODS, *OF_SPECTRAL]))


def plan_of(run: Run, device: str) -> Plan:
    """The plan by which a run is trained on a device unless another is asked for."""
    if device.startswith("cuda"):
        return GPU
    return WHOLE if run in FIDELITY else THIRD


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

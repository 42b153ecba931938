"""Whole training steps, a generator around the discriminators, by this package's own loop."""

import contextlib
import functools

import torch

from .. import reference
from ..training.config import load_config
from ..training.generator import Generator
from ..training.graph import WARM_UP
from ..training.step import Trainer
from .cases import Case, forward_work, work_of
from .steps import DISCRIMINATOR, GENERATOR, ORIGINAL_STEPS, PASSES, TRAINING

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
GENERATOR_PASSES = 3  # over the generator's convolutions: forward, to the input's and to the weight's gradient


class OriginalTrainer(Trainer):
    """The original's loop, which does not freeze the discriminators in the generator's half."""

    @staticmethod
    def frozen(*modules):
        return contextlib.nullcontext()


def config_of(step, batch, length):
    """The configuration of a step of `TRAINING` on so many waveforms of so many samples; ValueError for what it cannot
    take.
    """
    try:
        return load_config(TRAINING[step], batch_size=batch, segment_size=length)
    except ValueError as error:
        raise ValueError(str(error).replace("segment_size", "segment")) from None  # as the command calls it


class Step:
    """A training step on the waveforms y [B, T], done and waited for when it is called; config: a `Config`."""

    def __init__(self, config, way, y):
        kind = OriginalTrainer if way.steps is ORIGINAL_STEPS else Trainer
        how = "fast" if way.ours else "reference", PRECISIONS[way.dtype]
        self.trainer = kind(config, y.device, *how, cuda_graph=way.graph)
        if way.prepare:
            way.prepare([self.trainer.mpd, self.trainer.msd])

        def step():
            self.trainer.train_step(y).read()  # which waits for the device

        self.run = way._replace(graph=False, dtype="float32").under_flags(step, y.device, [])
        for _ in range(WARM_UP if self.trainer.cuda_graph else 0):
            self.run()

    def __call__(self):
        self.run()

    def forget(self):
        """Let go of gradients and of the optimizers' states: the next call makes them anew."""
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()


def _work(config, y, y_hat):
    """The `Work` of a training step: the discriminators' two halves, and the generator's passes."""
    modules = [reference.MultiPeriodDiscriminator(), reference.MultiScaleDiscriminator()]
    halves = forward_work([module.to(y.device) for module in modules], y, y_hat)
    generator = Generator(config).to(y.device)
    frames = config.segment_size // config.hop_size
    mel = torch.zeros(len(y), config.num_mels, frames, dtype=y.dtype, device=y.device)
    made = work_of([generator], functools.partial(generator, mel))
    return halves.times(PASSES[DISCRIMINATOR] + PASSES[GENERATOR]).plus(made.times(GENERATOR_PASSES))


def cases(waves, steps, ways):
    """Yield the cases of whole training steps: of `steps` those of `TRAINING`."""
    y, y_hat = waves
    for step in (step for step in steps if step in TRAINING):
        config = config_of(step, len(y), y.shape[-1])
        # Made at the first call: what there is no memory for fails there.
        made = {n: functools.cache(functools.partial(Step, config, w, y.squeeze(1))) for n, w in ways.items()}
        calls = {name: lambda of=made[name]: of()() for name, way in ways.items() if way.does(step)}
        forget = {name: lambda of=made[name]: of().forget() for name in calls}
        yield Case("both", step, _work(config, y, y_hat), calls, forget)
        for of in made, calls, forget:
            of.clear()  # their networks are gone before the next are made

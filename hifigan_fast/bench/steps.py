"""What is timed: the discriminators' parts of a training step, and the ways to do them, PyTorch's and ours."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch

from .. import losses as fast_losses
from .. import reference, step_losses
from ..discriminators import frozen

FORWARD, DISCRIMINATOR, GENERATOR = "forward", "discriminator step", "generator step"
# Passes over every convolution, forward or to its input's or its weight's gradient.
PASSES = {FORWARD: 1, DISCRIMINATOR: 3, GENERATOR: 2}


class FastLosses:
    """The package's losses under the names that `reference` has."""

    discriminator_loss = staticmethod(fast_losses.discriminator_loss)
    generator_loss = staticmethod(fast_losses.generator_loss)
    feature_loss = staticmethod(fast_losses.feature_loss)
    discriminator_step_loss = staticmethod(step_losses.discriminator_step_loss)
    generator_step_loss = staticmethod(step_losses.generator_step_loss)


def forward(modules, y, y_hat, losses):
    """Both halves forward, no graph, no losses."""
    with torch.no_grad():
        for module in modules:
            module(y, y_hat)


def discriminator_step(modules, y, y_hat, losses):
    """The discriminators' half of a training step, without the optimizer."""
    _forget_gradients(modules)
    loss = 0
    for module in modules:
        real, generated, _, _ = module(y, y_hat)
        loss = loss + losses.discriminator_loss(real, generated)[0]
    loss.backward()


def generator_step(modules, y, y_hat, losses):
    """The discriminators' part of the generator's half: adversarial and feature losses, down to the waveform."""
    y_hat = y_hat.detach().requires_grad_()
    loss = 0
    for module in modules:
        _, generated, real_maps, generated_maps = module(y, y_hat)
        loss = loss + losses.generator_loss(generated)[0] + losses.feature_loss(real_maps, generated_maps)
    loss.backward()


def frozen_generator_step(modules, y, y_hat, losses):
    """As `generator_step`, the discriminators frozen: no gradient that nobody uses."""
    with frozen(*modules):
        generator_step(modules, y, y_hat, losses)


def discriminator_step_by_one_loss(modules, y, y_hat, losses):
    """As `discriminator_step`, by the loss that a step has in one call."""
    _forget_gradients(modules)
    losses.discriminator_step_loss(modules, y, y_hat).adversarial.backward()


def generator_step_by_one_loss(modules, y, y_hat, losses):
    """As `generator_step`, by the loss that a step has in one call."""
    found = losses.generator_step_loss(modules, y, y_hat.detach().requires_grad_())
    (found.adversarial + found.features).backward()


def frozen_generator_step_by_one_loss(modules, y, y_hat, losses):
    """As `generator_step_by_one_loss`, the discriminators frozen."""
    with frozen(*modules):
        generator_step_by_one_loss(modules, y, y_hat, losses)


def _forget_gradients(modules):
    for module in modules:
        module.zero_grad(set_to_none=True)


def channels_last(modules):
    """Keep the inputs of 2-D convolutions channels-last.

    `module.to(memory_format=...)` would not: weight norm makes each weight anew, contiguous, and a single channel has
    no order to keep. With it besides, the step takes longer. 1-D convolutions have no such format.
    """

    def convert(conv, args):
        return (args[0].contiguous(memory_format=torch.channels_last),)

    for module in modules:
        for conv in module.modules():
            if isinstance(conv, torch.nn.Conv2d):
                conv.register_forward_pre_hook(convert)
    return modules


def compiled(modules):
    """Each by torch.compile."""
    return [torch.compile(module) for module in modules]


ORIGINAL_STEPS = {FORWARD: forward, DISCRIMINATOR: discriminator_step, GENERATOR: generator_step}
FROZEN_STEPS = ORIGINAL_STEPS | {GENERATOR: frozen_generator_step}


class Way(NamedTuple):
    """One way to do the steps.

    ours: on this package's discriminators, with its losses; otherwise plain PyTorch's.
    steps: {step: the function that does it}.
    dtype: "float32", or "bfloat16" under autocast; only ways of one dtype compute the same.
    prepare: what is done with the modules, once.
    """

    ours: bool = False
    steps: dict[str, Callable] = FROZEN_STEPS
    dtype: str = "float32"
    prepare: Callable | None = None

    def call(self, step, modules, y, y_hat):
        """A callable that does `step` once."""
        run, losses = self.steps[step], FastLosses if self.ours else reference
        rounded = self.dtype == "bfloat16"

        def once():
            with torch.autocast("cpu", torch.bfloat16) if rounded else contextlib.nullcontext():
                run(modules, y, y_hat, losses)

        return once


ORIGINAL, OURS = "original", "hifigan_fast"
WAYS = {
    ORIGINAL: Way(steps=ORIGINAL_STEPS),  # which does not freeze the discriminators in the generator's half
    "frozen": Way(steps={GENERATOR: frozen_generator_step}),
    "channels_last": Way(prepare=channels_last),
    "compile": Way(prepare=compiled),
    "bf16": Way(dtype="bfloat16"),
    OURS: Way(ours=True),
    f"{OURS} step losses": Way(
        ours=True,
        steps={DISCRIMINATOR: discriminator_step_by_one_loss, GENERATOR: frozen_generator_step_by_one_loss},
    ),
    f"{OURS} bf16": Way(ours=True, dtype="bfloat16"),
}
RIVALS = tuple(name for name, way in WAYS.items() if not way.ours)
QUICK_RIVALS = (ORIGINAL, "frozen")

"""What is timed: the discriminators' parts of a training step, and the ways to do them, PyTorch's and ours."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

from .. import losses as fast_losses
from .. import reference, step_losses
from ..discriminators import frozen, parameters_of
from .graphs import captured

FORWARD, DISCRIMINATOR, GENERATOR = "forward", "discriminator step", "generator step"
# Passes over every convolution, both sides, that a step cannot do without: forward, to the input's or the weight's
# gradient. The generator's needs the gradient of one side only.
PASSES = {FORWARD: 1, DISCRIMINATOR: 3, GENERATOR: 1.5}
TRAINING = {f"training step {config.upper()}": config for config in ("v1", "v2", "v3")}
STEPS = {"forward": FORWARD, "discriminator": DISCRIMINATOR, "generator": GENERATOR}  # by their names in a command
STEPS |= {config: step for step, config in TRAINING.items()}


def progress(step):
    """What a step counts on a progress bar: passes over the discriminators."""
    return PASSES.get(step, PASSES[DISCRIMINATOR] + PASSES[GENERATOR])


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
    forget_gradients(modules)
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
    forget_gradients(modules)
    losses.discriminator_step_loss(modules, y, y_hat).adversarial.backward()


def generator_step_by_one_loss(modules, y, y_hat, losses):
    """As `generator_step`, by the loss that a step has in one call."""
    found = losses.generator_step_loss(modules, y, y_hat.detach().requires_grad_())
    (found.adversarial + found.features).backward()


def frozen_generator_step_by_one_loss(modules, y, y_hat, losses):
    """As `generator_step_by_one_loss`, the discriminators frozen."""
    with frozen(*modules):
        generator_step_by_one_loss(modules, y, y_hat, losses)


def forget_gradients(modules):
    """As an optimizer does, which has the parameters at hand: `Module.zero_grad` takes longer to find them."""
    for parameter in parameters_of(modules):
        parameter.grad = None


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


def compiled(modules):
    """Call each by torch.compile."""
    for module in modules:
        module.compile()


ORIGINAL_STEPS = {FORWARD: forward, DISCRIMINATOR: discriminator_step, GENERATOR: generator_step}
FROZEN_STEPS = ORIGINAL_STEPS | {GENERATOR: frozen_generator_step}


class Way(NamedTuple):
    """One way to do the steps.

    ours: on this package's discriminators, with its losses; otherwise plain PyTorch's.
    steps: {step: the function that does it}.
    dtype: "float32", or "bfloat16" under autocast.
    prepare: what is done with the discriminators, once, in place.
    tf32, benchmark: cuDNN's flags of these names; graph: captured once as a CUDA graph, and replayed. All three are as
    here on a CPU.
    trains: whether whole training steps are done so, too.
    """

    ours: bool = False
    steps: dict[str, Callable] = FROZEN_STEPS
    dtype: str = "float32"
    prepare: Callable | None = None
    tf32: bool = True
    benchmark: bool = True  # as the original's train.py has it
    graph: bool = False
    trains: bool = True

    @property
    def needs_cuda(self):
        """Whether it differs from its likes on a CUDA device only."""
        return self.graph or not (self.tf32 and self.benchmark)

    def arithmetic(self, kind):
        """What a device of this kind ("cpu", "cuda") multiplies in; only ways of one arithmetic compute the same."""
        return "tf32" if self.dtype == "float32" and self.tf32 and kind == "cuda" else self.dtype

    def does(self, step):
        """Whether it is a way to do this step."""
        return self.trains if step in TRAINING else step in self.steps

    def call(self, step, modules, y, y_hat):
        """A callable that does `step` once, on the waveforms' device."""
        losses = FastLosses if self.ours else reference
        return self.under_flags(functools.partial(self.steps[step], modules, y, y_hat, losses), y.device, modules)

    def under_flags(self, run, device, modules):
        """`run` under this way's autocast and flags; captured at its first call, where it is a graph."""
        kind = device.type

        def once():
            with torch.autocast(kind, torch.bfloat16) if self.dtype == "bfloat16" else contextlib.nullcontext():
                run()

        if kind != "cuda":
            return once
        step = captured(once, modules) if self.graph else once

        def flagged():
            with torch.backends.cudnn.flags(enabled=True, benchmark=self.benchmark, allow_tf32=self.tf32):
                step()

        return flagged


ORIGINAL, OURS, STEP_LOSSES = "original", "hifigan_fast", "hifigan_fast step losses"
BY_ONE_LOSS = {DISCRIMINATOR: discriminator_step_by_one_loss, GENERATOR: frozen_generator_step_by_one_loss}
WAYS = {
    ORIGINAL: Way(steps=ORIGINAL_STEPS),  # which does not freeze the discriminators in the generator's half
    "frozen": Way(steps={GENERATOR: frozen_generator_step}),
    "channels_last": Way(prepare=channels_last),
    "compile": Way(prepare=compiled),
    "bf16": Way(dtype="bfloat16"),
    "no_tf32": Way(tf32=False),
    "no_benchmark": Way(benchmark=False),
    "graph": Way(graph=True),
    "bf16_graph": Way(dtype="bfloat16", graph=True),
    OURS: Way(ours=True),
    STEP_LOSSES: Way(ours=True, steps=BY_ONE_LOSS, trains=False),
    f"{OURS} bf16": Way(ours=True, dtype="bfloat16"),
    f"{OURS} no_tf32": Way(ours=True, tf32=False),
    f"{OURS} graph": Way(ours=True, steps=BY_ONE_LOSS, graph=True),
    f"{OURS} bf16_graph": Way(ours=True, steps=BY_ONE_LOSS, dtype="bfloat16", graph=True),
}
RIVALS = tuple(name for name, way in WAYS.items() if not way.ours)
QUICK_RIVALS = {"cpu": (ORIGINAL, "frozen"), "cuda": tuple(name for name in RIVALS if name != "compile")}


def asked_ways(rivals, full, kind):
    """{name: way} to measure on a device of this kind: the original loop and ours always, PyTorch's ways `rivals`
    (None: the quick ones, or if `full` all), and ours that compute as one of them does; by step losses if `full`.

    Raises ValueError for a rival that needs another device.
    """
    here = {name: way for name, way in WAYS.items() if kind == "cuda" or not way.needs_cuda}
    for name in rivals or ():
        if name not in here:
            said = ", ".join(name for name in RIVALS if name in here)
            raise ValueError(f"rivals: expected of {said} on this device, got {name}, which needs a CUDA device")
    wanted = {ORIGINAL, OURS, *(rivals or (RIVALS if full else QUICK_RIVALS[kind]))}
    alike = {(WAYS[name].arithmetic(kind), WAYS[name].graph) for name in wanted}

    def is_asked(name, way):
        likewise = way.ours and (way.arithmetic(kind), way.graph) in alike
        return name in wanted or (likewise and (full or name != STEP_LOSSES))

    return {name: way for name, way in here.items() if is_asked(name, way)}

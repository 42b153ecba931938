"""How long a training step takes at least on a GPU that is not there: a model of its datasheet, no measurement.

Each operation of PyTorch takes its arithmetic at the datasheet's rate, or the bytes that it reads and writes at its
bandwidth, whichever is longer. Plain PyTorch runs every operation; of ours only convolutions move anything, since all
else is done where they store. What kernels lose against these rates, and the host's time, is in neither.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .. import reference
from ..training.generator import Generator
from .steps import discriminator_step, frozen_generator_step, generator_step

ADAM_BYTES = 4 * 7  # a parameter: itself, two means and the gradient are read, all but the gradient written
META = torch.device("meta")
CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}


class Bounds(TorchDispatchMode):
    """Sums the seconds that the operations within it take at least: `all`, and of the convolutions alone."""

    def __init__(self, sheet, arithmetic):
        super().__init__()
        self.rate, self.bandwidth = 1e12 * sheet.rate(arithmetic), 1e9 * sheet.bandwidth
        self.size = 2 if arithmetic in ("bfloat16", "float16") else 4
        self.all = self.convolutions = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        moved = self.size * sum(t.numel() for t in tensors)
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        seconds = max(flops / self.rate, moved / self.bandwidth)
        self.all += seconds
        self.convolutions += seconds * (func in CONVOLUTIONS)
        return out


def _bounded(sheet, arithmetic, call):
    with Bounds(sheet, arithmetic) as found:
        call()
    return found


def _generator_pass(generator, mel):
    generator(mel).sum().backward()


def seconds_per_step(config, sheet, arithmetic):
    """{"hifigan_fast", "frozen", "original": seconds of a training step at least} on a device of this datasheet.

    config: a `training.config.Config`; arithmetic: "tf32" or "bfloat16".
    """
    with META:
        periods, spectral = config.discriminator_periods, config.use_spectral_norm
        modules = [reference.MultiPeriodDiscriminator(periods, spectral), reference.MultiScaleDiscriminator(spectral)]
        generator = Generator(config)
    y, y_hat = (torch.empty(config.batch_size, 1, config.segment_size, dtype=torch.float32, device=META) for _ in "ab")
    frames = config.segment_size // config.hop_size
    mel = torch.empty(config.batch_size, config.num_mels, frames, dtype=torch.float32, device=META)

    def bounded(step):
        return _bounded(sheet, arithmetic, lambda: step(modules, y, y_hat, reference))

    halves = {step: bounded(step) for step in (discriminator_step, frozen_generator_step, generator_step)}
    parameters = sum(p.numel() for module in (*modules, generator) for p in module.parameters())
    rest = _bounded(sheet, arithmetic, lambda: _generator_pass(generator, mel)).all
    rest += ADAM_BYTES * parameters / (1e9 * sheet.bandwidth)
    first, frozen, unfrozen = halves.values()
    return {
        "hifigan_fast": rest + first.convolutions + frozen.convolutions,
        "frozen": rest + first.all + frozen.all,
        "original": rest + first.all + unfrozen.all,
    }

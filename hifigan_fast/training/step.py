"""One training step: the discriminators' half, then the generator's (jik876/hifi-gan `train.py`)."""

import itertools
import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

import hifigan_fast
import hifigan_fast.reference

from .config import Config
from .generator import Generator
from .graph import GraphedStep
from .mel import mel_spectrogram

MEL_WEIGHT = 45
DISCRIMINATORS = {"fast": hifigan_fast, "reference": hifigan_fast.reference}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class Losses(NamedTuple):
    """Scalars on the device, detached; `finite`: whether the losses and the gradients' norms of the step are."""

    discriminator: torch.Tensor
    generator: torch.Tensor
    mel_error: torch.Tensor
    finite: torch.Tensor

    def read(self) -> list[float]:
        """The three losses as floats, in one wait for the device."""
        return torch.stack(self[:3]).tolist()


class Trainer:
    """The three networks, their optimizers, and how far they are: `step` steps done, `batch` of them in `epoch`.

    Args:
        config: a `Config`.
        device: torch.device.
        discriminators: "fast" or "reference"; both begin with the same parameters.
        precision: "fp32", or "bf16" for autocast in the networks; mel and losses are float32 in both.
        distributed: average gradients over the processes of torch.distributed's default group.
        cuda_graph: replay steps as a CUDA graph (`graph.GraphedStep`): on a CUDA device, in one process; None: there.
    """

    frozen = staticmethod(hifigan_fast.frozen)  # what the discriminators are in the generator's half

    def __init__(
        self,
        config: Config,
        device: torch.device,
        discriminators: str = "fast",
        precision: str = "fp32",
        distributed: bool = False,
        cuda_graph: bool | None = False,
    ) -> None:
        if discriminators not in DISCRIMINATORS:
            raise ValueError(f"discriminators: expected one of {list(DISCRIMINATORS)}, got {discriminators!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {list(PRECISIONS)}, got {precision!r}")
        lacking = "several processes" if distributed else None if device.type == "cuda" else f"device {device}"
        if cuda_graph and lacking:
            raise ValueError(f"cuda_graph: expected one process on a CUDA device, got {lacking}")
        self.cuda_graph = not lacking if cuda_graph is None else cuda_graph
        self.config, self.device = config, device
        self.kind, self.dtype = DISCRIMINATORS[discriminators], PRECISIONS[precision]
        torch.manual_seed(config.seed)
        self.generator = Generator(config).to(device)
        spectral = config.use_spectral_norm
        self.mpd = self.kind.MultiPeriodDiscriminator(config.discriminator_periods, spectral).to(device)
        self.msd = self.kind.MultiScaleDiscriminator(spectral).to(device)
        # The original's order, msd first: optimizer states transfer by index.
        chain = itertools.chain(self.msd.parameters(), self.mpd.parameters())
        betas = config.adam_b1, config.adam_b2
        settings: dict[str, Any] = {"lr": config.learning_rate, "betas": betas, "weight_decay": 0.01}
        settings["fused"] = True  # one pass over all of it, where the default reads and writes it several times
        self.optim_g = torch.optim.AdamW(self.generator.parameters(), **settings)
        self.optim_d = torch.optim.AdamW(chain, **settings)
        self.optimizers = [self.optim_g, self.optim_d]
        self.schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, config.lr_decay) for o in self.optimizers]
        self.step = self.epoch = self.batch = 0
        wrap = self._distribute if distributed else (lambda module: module)
        self._synced = {name: wrap(getattr(self, name)) for name in ("generator", "mpd", "msd")}
        self._run = GraphedStep(self._both_halves, self.optimizers, device) if self.cuda_graph else self._both_halves

    def _distribute(self, module):
        # Buffers are spectral norm's vectors. They follow from the weights alone, so every process computes the same
        # ones; a broadcast would overwrite in place what an earlier forward saved for its backward.
        ids = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():  # torch 2.13 deprecates the flag for one that 2.4 does not have
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def train_step(self, y: torch.Tensor, x: torch.Tensor | None = None) -> Losses:
        """One step on waveforms y [B, segment_size] and the mels x [B, num_mels, frames]; None computes x from y."""
        x = None if x is None else x.to(self.device, non_blocking=True)
        losses = self._run(y.to(self.device, non_blocking=True), x)
        self.step += 1
        self.batch += 1
        return losses

    def _both_halves(self, y, x):
        x = self.mel(y, self.config.fmax) if x is None else x
        y_mel = self.mel(y, self.config.fmax_for_loss)
        y = y.unsqueeze(1)
        with self._autocast():
            y_hat = self._synced["generator"](x)
        y_hat = y_hat.float()
        mel_error = F.l1_loss(y_mel, self.mel(y_hat.squeeze(1), self.config.fmax_for_loss))
        discriminator, right_d = self._discriminator_half(y, y_hat.detach())
        generator, right_g = self._generator_half(y, y_hat, mel_error)
        return Losses(discriminator.detach(), generator.detach(), mel_error.detach(), right_d & right_g)

    def _discriminator_half(self, y, y_hat):
        self.optim_d.zero_grad()
        with self._autocast():
            found = self.kind.discriminator_step_loss([self._synced["mpd"], self._synced["msd"]], y, y_hat)
        loss = found.adversarial
        loss.backward()
        self.optim_d.step()
        return loss, _all_finite(loss, self.mpd, self.msd)

    def _generator_half(self, y, y_hat, mel_error):
        self.optim_g.zero_grad()
        # The bare modules, not their distributed wrappers: no discriminator gradient exists here to be averaged.
        with self.frozen(self.mpd, self.msd):
            with self._autocast():
                found = self.kind.generator_step_loss([self.mpd, self.msd], y, y_hat)
            loss = found.adversarial + found.features + MEL_WEIGHT * mel_error
            loss.backward()
        self.optim_g.step()
        return loss, _all_finite(loss, self.generator)

    def mel(self, y: torch.Tensor, fmax: float | None) -> torch.Tensor:
        """`mel_spectrogram` with the trainer's configuration."""
        return mel_spectrogram(y, self.config, fmax)

    def end_epoch(self) -> None:
        """Decay the learning rates and begin the next epoch."""
        for scheduler in self.schedulers:
            scheduler.step()
        self.epoch += 1
        self.batch = 0


def _all_finite(loss, *modules):
    """Whether a loss and the norm of the modules' gradients are finite: a scalar on the device.

    The norm, not the largest: on a CPU that takes a tenth of a step. It overflows at 1e19, where AdamW's squares do.
    """
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    return torch.isfinite(loss.detach() + get_total_norm(gradients))

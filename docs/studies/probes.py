"""What is measured of a run's networks now and then: reconstructions, singular values, gradients at the waveforms."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import hifigan_fast
from hifigan_fast.discriminators import convs_of
from hifigan_fast.extras import require
from hifigan_fast.training.data import Clips
from hifigan_fast.training.step import Trainer
from hifigan_fast.training.synthesis import generate_whole

ROWS, ITERATIONS = 64, 20  # of the power iteration: a layer's input, and how often
PESQ_RATE = 16000


def required() -> None:
    """Raise ImportError, with what to install, where a library that measures is missing."""
    require("the STFT distance", "studies", "auraloss")
    require("PESQ", "studies", "pesq")


def probe(trainer: Trainer, held_out: Clips, speech: bool) -> dict[str, Any]:
    """{mel_error, stft, pesq, layers: {name: [matrix, gain]}, gradients: {name: [real, generated]}}.

    pesq, which takes a second, is None unless `speech` is asked for, and where it finds none. The trainer goes on as if
    it had not been probed.
    """
    with _cudnn(benchmark=False):  # each clip has another length
        with torch.no_grad():
            pairs = [_reconstructed(trainer, held_out.whole(index)[0]) for index in range(len(held_out))]
            quality = {
                "mel_error": _mean(_mel_error(trainer, *pair) for pair in pairs),
                "stft": _stft(pairs),
                "pesq": _pesq(pairs, trainer.config.sampling_rate) if speech else None,
            }
        return quality | {"layers": singular_values(trainer), "gradients": gradient_norms(trainer, pairs)}


@contextlib.contextmanager
def _cudnn(**settings: bool) -> Iterator[None]:
    """PyTorch's settings of cuDNN, within the block."""
    cudnn = torch.backends.cudnn
    before = {name: getattr(cudnn, name) for name in settings}
    for name, value in settings.items():
        setattr(cudnn, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Spectral norm's vectors are afterwards what they were, in place: a CUDA graph holds their addresses."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])


def _reconstructed(trainer, audio):
    """A clip and what the generator makes of its mel, [1, T] both."""
    y = audio.to(trainer.device).unsqueeze(0)
    generated = generate_whole(trainer.generator, trainer.config, trainer.mel(y, trainer.config.fmax))
    return y[:, : generated.shape[1]], generated


def _mean(values):
    listed = [float(value) for value in values]
    return round(sum(listed) / len(listed), 6)


def _mel_error(trainer, real, generated):
    fmax = trainer.config.fmax_for_loss
    return F.l1_loss(trainer.mel(real, fmax), trainer.mel(generated, fmax))


def _stft(pairs):
    """Auraloss's multi-resolution STFT distance: spectral convergence and log magnitudes at three windows."""
    from auraloss.freq import MultiResolutionSTFTLoss

    distance = MultiResolutionSTFTLoss()
    return _mean(distance(generated.unsqueeze(1), real.unsqueeze(1)) for real, generated in pairs)


def _pesq(pairs, rate):
    """Wide-band PESQ (ITU-T P.862.2), 1 to 4.64; None where it finds no utterance."""
    from pesq import PesqError, pesq
    from scipy.signal import resample_poly

    found, common = [], math.gcd(PESQ_RATE, rate)
    for pair in pairs:
        real, generated = (resample_poly(x[0].cpu().numpy(), PESQ_RATE // common, rate // common) for x in pair)
        found.append(float(pesq(PESQ_RATE, real, generated, "wb", on_error=PesqError.RETURN_VALUES)))
    return _mean(found) if min(found) > 0 else None


def _discriminators(trainer):
    for name in ("mpd", "msd"):
        for index, discriminator in enumerate(getattr(trainer, name).discriminators):
            yield f"{name}.{index}", discriminator


@torch.no_grad()
def singular_values(trainer: Trainer) -> dict[str, list[float]]:
    """{"mpd.0.3": [matrix, gain]} of each layer's effective weight.

    matrix: the largest singular value of the weight as [out, in · taps], what spectral norm divides by. gain: that of
    the convolution itself, on `ROWS` rows, by power iteration from below: what it lengthens a signal by at most.
    """
    with _cudnn(allow_tf32=False):
        return {
            f"{name}.{index}": [round(_largest(weight.flatten(1)), 4), round(_gain(conv, weight), 4)]
            for name, discriminator in _discriminators(trainer)
            for index, conv in enumerate(convs_of(discriminator))
            for weight in [_effective(conv)]
        }


def _largest(matrix):
    """The largest singular value, by the small Gram matrix: a tenth of the time of a decomposition."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    return math.sqrt(float(torch.linalg.eigvalsh((matrix @ matrix.t()).double())[-1]))


def _effective(conv: nn.Module) -> torch.Tensor:
    """The weight that the next forward pass takes, [out, in, taps], by the norms' own hooks.

    In training, where spectral norm iterates first: its first vectors are random. The vectors stay as they are.
    """
    with _buffers_kept(conv):
        for hook in conv._forward_pre_hooks.values():
            hook(conv, ())
    weight = conv.weight.detach()
    return weight.reshape(*weight.shape[:2], -1)


def _gain(conv, weight):
    stride, padding = conv.stride[0], conv.padding[0]
    rows = max(ROWS, weight.shape[2])
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, conv.in_channels, rows, generator=random, dtype=torch.float32, device="cpu").to(weight.device)
    lost = (rows + 2 * padding - weight.shape[2]) % stride  # rows that no output reads
    for _ in range(ITERATIONS):
        x = x / x.norm()
        y = F.conv1d(x, weight, None, stride, padding, groups=conv.groups)
        x = F.conv_transpose1d(y, weight, None, stride, padding, lost, groups=conv.groups)
    return float(y.norm())


def gradient_norms(trainer: Trainer, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, list[float]]:
    """{"msd.0": [real, generated]}: the length of the gradient of a discriminator's mean logit at a waveform.

    Root mean square over a segment of the middle of each clip.
    """
    size = trainer.config.segment_size
    middles = [max(0, (pair[0].shape[1] - size) // 2) for pair in pairs]
    sides = [
        torch.stack([pair[side][:, start : start + size] for pair, start in zip(pairs, middles)]).requires_grad_()
        for side in (0, 1)
    ]
    with hifigan_fast.frozen(trainer.mpd, trainer.msd), _buffers_kept(trainer.mpd), _buffers_kept(trainer.msd):
        return {
            f"{name}.{index}": [_significant(_gradient_norm(own, x)) for own, x in zip(logits, sides)]
            for name in ("mpd", "msd")
            for index, logits in enumerate(zip(*getattr(trainer, name)(*sides)[:2]))
        }


def _gradient_norm(logits, x):
    [gradient] = torch.autograd.grad(logits.flatten(1).mean(1).sum(), x, retain_graph=True)
    return math.sqrt(float(gradient.flatten(1).square().sum(1).mean()))


def _significant(value):
    return float(f"{value:.4g}")

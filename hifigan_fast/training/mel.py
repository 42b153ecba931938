"""The log-mel spectrogram (jik876/hifi-gan `meldataset.py`)."""

import functools

import torch
import torch.nn.functional as F

from ..extras import require
from .config import Config


def mel_spectrogram(y: torch.Tensor, config: Config, fmax: float | None) -> torch.Tensor:
    """Log-mel magnitudes of waveforms.

    Reflect pad of (n_fft - hop_size)/2 a side, Hann window, sqrt(re² + im² + 1e-9), librosa's slaney filterbank,
    log(max(·, 1e-5)).

    Args:
        y: [B, T], float32 or float64, in [-1, 1] by convention.
        config: a `Config`; its n_fft, num_mels, sampling_rate, hop_size, win_size and fmin are read.
        fmax: the highest mel frequency in Hz, or None for half the sampling rate.

    Returns: [B, num_mels, T // hop_size], dtype and device of `y`. Raises TypeError or ValueError for another dtype or
    shape, or a T that the reflect pad does not fit.
    """
    pad = (config.n_fft - config.hop_size) // 2
    if y.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"y: expected float32 or float64, got {y.dtype}")
    if y.dim() != 2 or y.shape[1] <= pad:
        raise ValueError(f"y: expected [B, T] with T > {pad} for the reflect pad, got {list(y.shape)}")
    window = _window(config.win_size, y.dtype, y.device)
    bank = _filterbank(
        config.sampling_rate, config.n_fft, config.num_mels, config.fmin, fmax, dtype=y.dtype, device=y.device
    )
    y = F.pad(y.unsqueeze(1), (pad, pad), "reflect").squeeze(1)
    spectrum = torch.stft(y, config.n_fft, config.hop_size, config.win_size, window, center=False, return_complex=True)
    magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
    return torch.log(torch.clamp(bank @ magnitude, min=1e-5))


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # a table of inference mode would be of no use in training
def _window(size, dtype, device):
    return torch.hann_window(size, dtype=dtype, device=device)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def _filterbank(sampling_rate, n_fft, num_mels, fmin, fmax, *, dtype, device):
    require("training", "train", "librosa")
    from librosa.filters import mel

    bank = mel(sr=sampling_rate, n_fft=n_fft, n_mels=num_mels, fmin=fmin, fmax=fmax)
    return torch.from_numpy(bank).to(device, dtype)

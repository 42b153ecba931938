"""The generator (HiFi-GAN, Kong et al. 2020, section 2.2; jik876/hifi-gan `models.py`), V1, V2 and V3.

Parameter names, shapes and order are the original's, so its `g_*` checkpoints load strictly.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import remove_weight_norm, weight_norm

LRELU_SLOPE = 0.1


def _normalised(conv):
    # The original's init_weights writes `weight`, which weight norm recomputes from g and v before every use: it has no
    # effect there and is left out here.
    with warnings.catch_warnings():  # the legacy norm is deprecated, but it is the checkpoints' format
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(conv)


def _same_conv(channels, kernel_size, dilation):
    padding = dilation * (kernel_size - 1) // 2
    return _normalised(nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=padding))


class ResBlock1(nn.Module):
    """Residual pairs of a dilated and a plain convolution, length kept: [B, channels, T] -> [B, channels, T]."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList([_same_conv(channels, kernel_size, dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([_same_conv(channels, kernel_size, 1) for _ in dilations])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            update = dilated(F.leaky_relu(x, LRELU_SLOPE))
            x = x + plain(F.leaky_relu(update, LRELU_SLOPE))
        return x


class ResBlock2(nn.Module):
    """Residual dilated convolutions, length kept: [B, channels, T] -> [B, channels, T]."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_same_conv(channels, kernel_size, dilation) for dilation in dilations])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, LRELU_SLOPE))
        return x


class Generator(nn.Module):
    """Log-mel spectrogram to waveform: transposed convolutions, each followed by the mean of several residual blocks.

    Args:
        config: a `Config`, or any object with its generator keys.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        block = {"1": ResBlock1, "2": ResBlock2}[config.resblock]
        channels = config.upsample_initial_channel
        self.conv_pre = _normalised(nn.Conv1d(config.num_mels, channels, 7, padding=3))
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(_normalised(up))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(block(channels, size, dilations))
        self.conv_post = _normalised(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, num_mels, frames] -> [B, 1, frames · hop_size] in (-1, 1), in the dtype of `x`."""
        x = self.conv_pre(x)
        width = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, LRELU_SLOPE))
            outputs = [block(x) for block in self.resblocks[i * width : (i + 1) * width]]
            x = functools.reduce(torch.add, outputs) / width
        # PyTorch's default slope here, as the original has it.
        return torch.tanh(self.conv_post(F.leaky_relu(x)))

    def remove_weight_norm(self) -> None:
        """Fold every g and v into a plain weight, for inference; the state_dict then has `weight` keys."""
        for module in self.modules():
            if hasattr(module, "weight_g"):
                remove_weight_norm(module)

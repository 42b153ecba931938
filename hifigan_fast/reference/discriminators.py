"""The period and scale discriminators (HiFi-GAN, Kong et al. 2020, section 2.3; jik876/hifi-gan `models.py`).

Parameter names, shapes, order and initialisation are the original's, so its `do_*` checkpoints load strictly.
"""

import warnings
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from .norm_keys import translate_norm_keys

LRELU_SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)

Scored = tuple[torch.Tensor, list[torch.Tensor]]  # logits, feature maps
# Real logits, generated logits, real maps, generated maps: an entry a discriminator.
ScoredPair = tuple[list[torch.Tensor], list[torch.Tensor], list[list[torch.Tensor]], list[list[torch.Tensor]]]


def _shown(value):
    """A wrong argument, by its type where it is long."""
    text = repr(value)
    return text if len(text) < 60 else f"a {type(value).__name__}"


def _check_flag(name, value):
    """ValueError for what is neither True nor False: a configuration, which other projects' classes take first."""
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{name}: expected True or False, got {_shown(value)}")


def _normalised(conv, use_spectral_norm):
    """Wrap `conv` in the legacy norm whose key layout the official checkpoints have."""
    with warnings.catch_warnings():  # the legacy norm is deprecated, but it is the checkpoints' format
        warnings.simplefilter("ignore", FutureWarning)
        return spectral_norm(conv) if use_spectral_norm else weight_norm(conv)


class DiscriminatorP(nn.Module):
    """One period discriminator: fold the waveform at `period`, then six (k×1) convolutions along time.

    Args:
        period: samples between neighbouring elements of a folded column, at least 1.
        kernel_size: taps of the first five layers; their padding stays 2 whatever it is, as in the original.
        stride: stride of the first four layers.
        use_spectral_norm: legacy spectral norm instead of legacy weight norm.
    """

    def __init__(self, period: int, kernel_size: int = 5, stride: int = 3, use_spectral_norm: bool = False) -> None:
        super().__init__()
        for name, value in (("period", period), ("kernel_size", kernel_size), ("stride", stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {_shown(value)}")
        _check_flag("use_spectral_norm", use_spectral_norm)
        self.period = period

        def layer(in_channels: int, out_channels: int, taps: int, step: int, padding: int) -> nn.Module:
            conv = nn.Conv2d(in_channels, out_channels, (taps, 1), (step, 1), padding=(padding, 0))
            return _normalised(conv, use_spectral_norm)

        self.convs = nn.ModuleList(
            [
                layer(1, 32, kernel_size, stride, 2),
                layer(32, 128, kernel_size, stride, 2),
                layer(128, 512, kernel_size, stride, 2),
                layer(512, 1024, kernel_size, stride, 2),
                layer(1024, 1024, kernel_size, 1, 2),
            ]
        )
        self.conv_post = layer(1024, 1, 3, 1, 1)
        self.register_load_state_dict_pre_hook(translate_norm_keys)

    def forward(self, x: torch.Tensor) -> Scored:
        """[B, 1, T] -> logits [B, H·period] (H-major), feature maps: five [B, C, H, period] and the raw head's."""
        batch, channels, length = x.shape
        if length % self.period:
            padding = self.period - length % self.period
            x = F.pad(x, (0, padding), "reflect")
            length += padding
        return _run_stack(self, x.view(batch, channels, length // self.period, self.period))


class DiscriminatorS(nn.Module):
    """One scale discriminator: eight convolutions along time, the 41-tap ones grouped."""

    def __init__(self, use_spectral_norm: bool = False) -> None:
        super().__init__()
        _check_flag("use_spectral_norm", use_spectral_norm)

        def layer(in_channels: int, out_channels: int, taps: int, step: int, groups: int = 1) -> nn.Module:
            conv = nn.Conv1d(in_channels, out_channels, taps, step, padding=taps // 2, groups=groups)
            return _normalised(conv, use_spectral_norm)

        self.convs = nn.ModuleList(
            [
                layer(1, 128, 15, 1),
                layer(128, 128, 41, 2, groups=4),
                layer(128, 256, 41, 2, groups=16),
                layer(256, 512, 41, 4, groups=16),
                layer(512, 1024, 41, 4, groups=16),
                layer(1024, 1024, 41, 1, groups=16),
                layer(1024, 1024, 5, 1),
            ]
        )
        self.conv_post = layer(1024, 1, 3, 1)
        self.register_load_state_dict_pre_hook(translate_norm_keys)

    def forward(self, x: torch.Tensor) -> Scored:
        """[B, 1, T] -> logits [B, H], feature maps: seven [B, C, H] and the raw head's."""
        return _run_stack(self, x)


def _run_stack(discriminator, x):
    feature_maps = []
    for conv in discriminator.convs:
        x = F.leaky_relu(conv(x), LRELU_SLOPE)
        feature_maps.append(x)
    x = discriminator.conv_post(x)
    feature_maps.append(x)
    return torch.flatten(x, 1, -1), feature_maps


def _listed(periods):
    """As a list; ValueError for what other projects' classes take first: a configuration, or `use_spectral_norm`."""
    listed = isinstance(periods, Iterable) and not isinstance(periods, (str, bytes, Mapping))
    found = list(periods) if listed else []
    if not found:
        raise ValueError(
            f"periods: expected at least one period, got {_shown(periods)}: "
            "pass integers, periods=(2, 3, 5, 7, 11), or a configuration's, periods=h.mpd_reshapes"
        )
    return found


class MultiPeriodDiscriminator(nn.Module):
    """Five period discriminators over the same waveforms."""

    member: type[nn.Module] = DiscriminatorP

    def __init__(self, periods: Iterable[int] = PERIODS, use_spectral_norm: bool = False) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            [self.member(period, use_spectral_norm=use_spectral_norm) for period in _listed(periods)]
        )

    def forward(self, y: torch.Tensor, y_hat: torch.Tensor) -> ScoredPair:
        """Real and generated waveforms, each [B, 1, T] -> real logits, generated logits, real maps, generated maps.

        Each is a list with an entry a discriminator.
        """
        return _discriminate((d, y, y_hat) for d in self.discriminators)


class MultiScaleDiscriminator(nn.Module):
    """Three scale discriminators: the waveform, and the waveform average-pooled once and twice by 2."""

    member: type[nn.Module] = DiscriminatorS

    def __init__(self, use_spectral_norm: bool = False) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            [self.member(spectral) for spectral in (True, use_spectral_norm, use_spectral_norm)]
        )
        self.meanpools = nn.ModuleList([nn.AvgPool1d(4, 2, padding=2), nn.AvgPool1d(4, 2, padding=2)])

    def forward(self, y: torch.Tensor, y_hat: torch.Tensor) -> ScoredPair:
        """As `MultiPeriodDiscriminator.forward`."""
        levels = zip(self.pooled(y), self.pooled(y_hat), strict=True)
        return _discriminate((d, *level) for d, level in zip(self.discriminators, levels, strict=True))

    def pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The waveform at each scale; the poolings count their zero padding and accumulate."""
        levels = [x]
        for index in range(1, len(self.discriminators)):
            levels.append(self.meanpools[index - 1](levels[-1]))
        return levels


def _discriminate(calls):
    real_logits, fake_logits, real_maps, fake_maps = [], [], [], []
    for discriminator, y, y_hat in calls:
        # Real first: spectral norm iterates once a call, so the order decides each half's sigma.
        for x, logits, maps in ((y, real_logits, real_maps), (y_hat, fake_logits, fake_maps)):
            score, feature_maps = discriminator(x)
            logits.append(score)
            maps.append(feature_maps)
    return real_logits, fake_logits, real_maps, fake_maps

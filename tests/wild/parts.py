"""Discriminators of one waveform, as projects write them; of few channels, since recognition is structural."""

import functools
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

NORMS = {
    None: lambda conv: conv,
    "weight": nn.utils.weight_norm,
    "spectral": nn.utils.spectral_norm,
    "parametrized": parametrizations.weight_norm,
    "parametrized spectral": parametrizations.spectral_norm,
}
PERIOD_CHANNELS = (1, 4, 6, 8, 8, 8)
SCALE_LAYERS = (  # (in, out, taps, stride, padding, groups), of VITS's shape: strides of 4, many groups
    (1, 8, 15, 1, 7, 1),
    (8, 16, 41, 4, 20, 4),
    (16, 16, 41, 4, 20, 4),
    (16, 16, 5, 1, 2, 1),
)


def normed(conv, norm="weight"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return NORMS[norm](conv)


def period_convs(channels=PERIOD_CHANNELS, strides=(3, 3, 3, 3, 1), kernel=5, norm="weight"):
    return [
        normed(nn.Conv2d(a, b, (kernel, 1), (s, 1), (kernel // 2, 0)), norm)
        for a, b, s in zip(channels, channels[1:], strides)
    ]


def scale_convs(norm="weight", layers=SCALE_LAYERS):
    return [normed(nn.Conv1d(*sizes, groups=groups), norm) for *sizes, groups in layers]


def fold(x, period):
    """Padded on the right only if it must be, as most do."""
    batch, channels, length = x.shape
    if length % period:
        x = F.pad(x, (0, period - length % period), "reflect")
    return x.view(batch, channels, -1, period)


def activated(x):
    return F.leaky_relu(x, 0.1)


def scored(x, convs, head, activate=activated):
    """The raw scores, and all maps: each convolution's after its activation, and the scores."""
    fmap = []
    for conv in convs:
        x = activate(conv(x))
        fmap.append(x)
    x = head(x)
    fmap.append(x)
    return x, fmap


def flat(x, fmap):
    return torch.flatten(x, 1, -1), fmap


class Period(nn.Module):
    """jik876's, VITS's, BigVGAN's: scores and maps, of which the last is the raw scores."""

    def __init__(self, period, norm="weight", **shape):
        super().__init__()
        self.period, self.slope = period, 0.1
        self.convs = nn.ModuleList(period_convs(norm=norm, **shape))
        self.conv_post = normed(nn.Conv2d(self.convs[-1].out_channels, 1, (3, 1), 1, (1, 0)), norm)

    def forward(self, x):
        activate = functools.partial(F.leaky_relu, negative_slope=self.slope)
        return flat(*scored(fold(x, self.period), self.convs, self.conv_post, activate))


class Scale(nn.Module):
    def __init__(self, norm="weight", layers=SCALE_LAYERS):
        super().__init__()
        self.convs = nn.ModuleList(scale_convs(norm, layers))
        self.conv_post = normed(nn.Conv1d(self.convs[-1].out_channels, 1, 3, 1, 1), norm)

    def forward(self, x):
        return flat(*scored(x, self.convs, self.conv_post))


def both_scored(calls):
    """Scores and maps of (discriminator, y, y_hat)s, each called twice: real and generated scores, then maps."""
    real, generated, maps_r, maps_g = [], [], [], []
    for d, y, y_hat in calls:
        for x, scores, maps in ((y, real, maps_r), (y_hat, generated, maps_g)):
            score, fmap = d(x)
            scores.append(score)
            maps.append(fmap)
    return real, generated, maps_r, maps_g


class Pair(nn.Module):
    """A set called on both waveforms, each discriminator twice."""

    def __init__(self, *discriminators):
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, y, y_hat):
        return both_scored((d, y, y_hat) for d in self.discriminators)


class Single(nn.Module):
    """A set called on one waveform."""

    def __init__(self, *discriminators):
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, x):
        found = [d(x) for d in self.discriminators]
        return [score for score, _ in found], [fmap for _, fmap in found]

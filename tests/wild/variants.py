"""Sets of discriminators as other projects have them: what they take and return, and what is peculiar to each."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from .parts import (
    SCALE_LAYERS,
    Pair,
    Period,
    Scale,
    Single,
    both_scored,
    flat,
    fold,
    normed,
    period_convs,
    scale_convs,
    scored,
)


class PooledPair(nn.Module):
    """jik876's scales: the first spectral-normed, pooled cumulatively."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([Scale("spectral"), Scale(), Scale()])
        self.meanpools = nn.ModuleList([nn.AvgPool1d(4, 2, padding=2), nn.AvgPool1d(4, 2, padding=2)])

    def forward(self, y, y_hat):
        return both_scored(self._calls(y, y_hat))

    def _calls(self, y, y_hat):
        for i, d in enumerate(self.discriminators):
            if i:
                y, y_hat = self.meanpools[i - 1](y), self.meanpools[i - 1](y_hat)
            yield d, y, y_hat


class CoquiScales(nn.Module):
    """Coqui's: one waveform, legacy spectral norm beside parametrized weight norm."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([Scale("spectral"), Scale("parametrized")])
        self.meanpools = nn.ModuleList([nn.AvgPool1d(4, 2, padding=2)])

    def forward(self, x):
        scores, feats = [], []
        for i, d in enumerate(self.discriminators):
            if i:
                x = self.meanpools[i - 1](x)
            score, feat = d(x)
            scores.append(score)
            feats.append(feat)
        return scores, feats


class CoquiVocoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mpd = Single(Period(2, "parametrized"), Period(3, "parametrized"))
        self.msd = CoquiScales()

    def forward(self, x):
        scores, feats = self.mpd(x)
        scores_, feats_ = self.msd(x)
        return scores + scores_, feats + feats_


class CoquiVits(nn.Module):
    """One waveform or two; None for what was not given."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList([Scale(), Period(2), Period(3)])

    def forward(self, x, x_hat=None):
        scores, feats = [], []
        hat_scores, hat_feats = ([], []) if x_hat is not None else (None, None)
        for net in self.nets:
            score, feat = net(x)
            scores.append(score)
            feats.append(feat)
            if x_hat is not None:
                score, feat = net(x_hat)
                hat_scores.append(score)
                hat_feats.append(feat)
        return scores, feats, hat_scores, hat_feats


class ApplioPeriod(nn.Module):
    """The activation is a module."""

    def __init__(self, period):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList(period_convs(norm="parametrized"))
        self.conv_post = normed(nn.Conv2d(8, 1, (3, 1), 1, (1, 0)), "parametrized")
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, x):
        return flat(*scored(fold(x, self.period), self.convs, self.conv_post, self.lrelu))


class GanPeriod(nn.Module):
    """ParallelWaveGAN's and espnet's: Sequential(conv, activation), a post kernel of 2 padded by 1, one list."""

    def __init__(self, period, taps=2, **shape):
        super().__init__()
        self.period = period
        convs = period_convs(**shape)
        self.convs = nn.ModuleList([nn.Sequential(conv, nn.LeakyReLU(0.1)) for conv in convs])
        self.output_conv = normed(nn.Conv2d(convs[-1].out_channels, 1, (taps, 1), 1, padding=(1, 0)))

    def forward(self, x):
        x, outs = fold(x, self.period), []
        for layer in self.convs:
            x = layer(x)
            outs.append(x)
        x = self.output_conv(x)
        outs.append(torch.flatten(x, 1, -1))
        return outs


class GanScale(nn.Module):
    """The head is the last of one list."""

    def __init__(self, norm="weight", layers=SCALE_LAYERS):
        super().__init__()
        convs = scale_convs(norm, layers)
        head = normed(nn.Conv1d(convs[-1].out_channels, 1, 3, 1, 1), norm)
        self.layers = nn.ModuleList([*(nn.Sequential(conv, nn.LeakyReLU(0.1)) for conv in convs), head])

    def forward(self, x):
        outs = []
        for layer in self.layers:
            x = layer(x)
            outs.append(x)
        return outs


class GanSet(nn.Module):
    """Pools once more after the last scale; a list of lists, scales first."""

    def __init__(self, scales, periods):
        super().__init__()
        self.scales, self.periods = nn.ModuleList(scales), nn.ModuleList(periods)
        self.pooling = nn.AvgPool1d(4, 2, padding=2)

    def forward(self, x):
        outs, pooled = [], x
        for scale in self.scales:
            outs.append(scale(pooled))
            pooled = self.pooling(pooled)
        return outs + [period(x) for period in self.periods]


class DacPeriod(nn.Module):
    """DAC's: padded by a whole period where it is one already; maps only."""

    def __init__(self, period):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList([nn.Sequential(conv, nn.LeakyReLU(0.1)) for conv in period_convs()])
        self.conv_post = normed(nn.Conv2d(8, 1, (3, 1), padding=(1, 0)))

    def forward(self, x):
        fmap = []
        x = F.pad(x, (0, self.period - x.shape[-1] % self.period), mode="reflect")
        x = x.reshape(*x.shape[:2], -1, self.period)
        for layer in self.convs:
            x = layer(x)
            fmap.append(x)
        fmap.append(self.conv_post(x))
        return fmap


class DacSet(nn.Module):
    def __init__(self, *discriminators):
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, x):
        return [d(x) for d in self.discriminators]


class AmphionPair(nn.Module):
    """Amphion's: stride 3 in the fifth layer too; here as the variant that returns a dict."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([Period(2, strides=(3,) * 5), Period(3, strides=(3,) * 5)])

    def forward(self, y, y_hat):
        found = {"y_d_rs": [], "y_d_gs": [], "fmap_rs": [], "fmap_gs": []}
        for d in self.discriminators:
            for x, side in ((y, "r"), (y_hat, "g")):
                score, fmap = d(x)
                found[f"y_d_{side}s"].append(score)
                found[f"fmap_{side}s"].append(fmap)
        return found


class NormConv(nn.Module):
    """audiocraft's wrapper."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.norm = conv, nn.Identity()

    def forward(self, x):
        return self.norm(self.conv(x))


class AudiocraftPeriod(nn.Module):
    """Slope 0.2; the scores are not flattened."""

    def __init__(self, period):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList(map(NormConv, period_convs()))
        self.activation = nn.LeakyReLU(0.2)
        self.conv_post = NormConv(normed(nn.Conv2d(8, 1, (3, 1), padding=(1, 0))))

    def forward(self, x):
        return scored(fold(x, self.period), self.convs, self.conv_post, self.activation)


class AudiocraftScale(nn.Module):
    """The waveform is padded by reflection at both ends, the first convolution pads nothing."""

    def __init__(self):
        super().__init__()
        (_, channels, taps, *_), *_ = SCALE_LAYERS
        _, *convs = map(NormConv, scale_convs())
        stem = nn.Sequential(nn.ReflectionPad1d(taps // 2), NormConv(normed(nn.Conv1d(1, channels, taps))))
        self.convs = nn.ModuleList([stem, *convs])
        self.activation = nn.LeakyReLU(0.2)
        self.conv_post = NormConv(normed(nn.Conv1d(16, 1, 3, padding=1)))

    def forward(self, x):
        return scored(x, self.convs, self.conv_post, self.activation)


class AudiocraftScales(nn.Module):
    """Pools, and goes on with what it had: all scales run at full rate."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([AudiocraftScale(), AudiocraftScale()])
        self.downsample = nn.AvgPool1d(4, 2, 2)

    def forward(self, x):
        scores, fmaps = [], []
        for d in self.discriminators:
            score, fmap = d(x)
            scores.append(score)
            fmaps.append(fmap)
            self.downsample(x)
        return scores, fmaps


class VocosPeriod(nn.Module):
    """Vocos's: [batch, samples]; the first map is omitted, and the last changed in place (by 0 without classes)."""

    def __init__(self, period, classes=None):
        super().__init__()
        self.period = period
        self.convs = nn.ModuleList(period_convs())
        self.emb = nn.Embedding(classes, 8) if classes else None
        self.conv_post = normed(nn.Conv2d(8, 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, x, which=None):
        x, (_, *fmap) = scored(fold(x.unsqueeze(1), self.period), self.convs, self.conv_post)
        x += 0 if which is None else (self.emb(which).view(1, -1, 1, 1) * fmap[-2]).sum(1, keepdims=True)
        return flat(x, fmap)


class VocosPair(nn.Module):
    def __init__(self, classes=None):
        super().__init__()
        self.discriminators = nn.ModuleList([VocosPeriod(2, classes), VocosPeriod(3, classes)])

    def forward(self, y, y_hat, bandwidth_id=None):
        calls = [functools.partial(d, which=bandwidth_id) for d in self.discriminators]
        return both_scored((call, y, y_hat) for call in calls)


class InPlacePeriod(Period):
    """openvpi's: the activation is in place, and so is what the map was before it."""

    def forward(self, x):
        activate = functools.partial(F.leaky_relu, negative_slope=0.1, inplace=True)
        return flat(*scored(fold(x, self.period), self.convs, self.conv_post, activate))


class NemoPair(Pair):
    """NeMo's is called by keyword."""

    def forward(self, audio_real, audio_gen):
        return super().forward(audio_real, audio_gen)


class Spectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([normed(nn.Conv2d(1, 4, (3, 9), padding=(1, 4))), normed(nn.Conv2d(4, 4, (3, 3)))])
        self.conv_post = normed(nn.Conv2d(4, 1, (3, 3), padding=1))

    def forward(self, x):
        x = torch.stft(x.squeeze(1), 64, window=torch.hann_window(64), return_complex=True).abs().unsqueeze(1)
        return flat(*scored(x, self.convs, self.conv_post))


class ReflectConv(nn.Module):
    """speechbrain's wrapper: reflects at both ends of what a convolution reads."""

    def __init__(self, conv):
        super().__init__()
        self.padding, conv.padding = conv.padding[0], (0, 0)
        self.conv = conv

    def forward(self, x):
        return self.conv(F.pad(x, (0, 0, self.padding, self.padding), "reflect"))


class SpeechBrain(CoquiVocoder):
    """Periods that pad by reflection in every layer, beside plain scales."""

    def __init__(self):
        super().__init__()
        self.mpd = Single(Period(2), Period(3))
        for d in self.mpd.discriminators:
            d.convs, d.conv_post = nn.ModuleList(map(ReflectConv, d.convs)), ReflectConv(d.conv_post)


class CosyVoice(nn.Module):
    """A wrapper that joins the lists of a period set and of a spectrogram set."""

    def __init__(self):
        super().__init__()
        self.mpd, self.mrd = Pair(Period(2), Period(3)), Pair(Spectrogram())

    def forward(self, y, y_hat):
        return [a + b for a, b in zip(self.mpd(y, y_hat), self.mrd(y, y_hat))]


# Every set that is taken whole: how to build it, how many waveforms a call takes, how many passes it is.
TAKEN = {
    "jik876 periods": (lambda: Pair(Period(2), Period(3)), 2, 1),
    "jik876 scales": (PooledPair, 2, 1),
    "vits": (lambda: Pair(Scale(), Period(2), Period(3)), 2, 2),
    "vits, spectral norm": (lambda: Pair(Scale("spectral"), Period(2, "spectral"), Period(3, "spectral")), 2, 2),
    "rvc": (lambda: Pair(Scale(), *(Period(p) for p in (2, 17, 37))), 2, 2),
    "bigvgan": (lambda: Pair(*(Period(p, channels=(1, 2, 3, 4, 4, 4)) for p in (2, 3))), 2, 1),
    "no norm": (lambda: Pair(Period(2, None), Period(3, None)), 2, 1),
    "coqui vocoder": (CoquiVocoder, 1, 2),
    "coqui vits": (CoquiVits, 2, 2),
    "coqui vits, one waveform": (CoquiVits, 1, 2),
    "applio": (lambda: Pair(Scale("parametrized"), ApplioPeriod(2), ApplioPeriod(3)), 2, 2),
    "parallel wavegan": (lambda: GanSet([GanScale(), GanScale()], [GanPeriod(2), GanPeriod(3)]), 1, 2),
    "dac": (lambda: DacSet(DacPeriod(2), DacPeriod(3)), 1, 1),
    "amphion": (AmphionPair, 2, 1),
    "audiocraft periods": (lambda: Single(AudiocraftPeriod(2), AudiocraftPeriod(3)), 1, 1),
    "audiocraft scales": (AudiocraftScales, 1, 1),
    "vocos": (VocosPair, 2, 1),
    "openvpi": (lambda: Single(InPlacePeriod(3), InPlacePeriod(5)), 1, 1),
    "nemo": (lambda: NemoPair(Period(2), Period(3)), 2, 1),
    "kernel of 3": (lambda: Pair(Period(2, kernel=3), Period(3, kernel=3)), 2, 1),
    "one period": (lambda: Period(3), 1, 1),
}

"""Discriminators that look like those that are taken: some are, all others are left alone, with a reason."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from .parts import Pair, Period, fold, normed
from .variants import Spectrogram, VocosPair


class Written(Period):
    """A period discriminator whose forward is written out, for variants of it."""

    def pad(self, x):
        return fold(x, self.period)

    def activate(self, x, depth):
        return F.leaky_relu(x, 0.1)

    def keep(self, fmap, x, before):
        fmap.append(x)

    def score(self, x):
        return torch.flatten(x, 1, -1)

    def forward(self, x):
        x, fmap = self.pad(x), []
        for depth, conv in enumerate(self.convs):
            before = conv(x)
            x = self.activate(before, depth)
            self.keep(fmap, x, before)
        x = self.conv_post(x)
        fmap.append(x)
        return self.score(x), fmap


class OneOtherSlope(Written):
    def activate(self, x, depth):
        return F.leaky_relu(x, 0.2 if depth == 2 else 0.1)


class OmitsTheFirst(Written):
    def forward(self, x):
        score, fmap = super().forward(x)
        return score, fmap[1:]


class Relu(Written):
    def activate(self, x, depth):
        return F.relu(x)


class Rebuilt(Written):
    """Tuples within dicts, a number and None among them."""

    def forward(self, x):
        score, fmap = super().forward(x)
        return {"scores": (score, None), "maps": tuple(fmap), "count": len(fmap)}


class PadsNothing(Written):
    def pad(self, x):
        return x.view(*x.shape[:2], -1, self.period)


def shared_weight():
    """One convolution in two members; another that shares a parameter only."""
    pair = Pair(Period(2), Period(3))
    pair.discriminators[1].convs[2] = pair.discriminators[0].convs[2]
    pair.discriminators[1].convs[3].weight_v = pair.discriminators[0].convs[3].weight_v
    return pair


def equal_members():
    pair = Pair(Period(2, None), Period(2, None))
    pair.discriminators[1].load_state_dict(pair.discriminators[0].state_dict())
    return pair


def positive():
    """A layer without anything negative in a call of small waveforms: no slope shows there, and it is not 1."""
    module = Written(3)
    with torch.no_grad():
        module.convs[3].bias.fill_(0.3)
    return module


RIGHT = {
    "a slope of 0.2 in one layer": lambda: Pair(OneOtherSlope(2), OneOtherSlope(3)),
    "one member of another slope": lambda: Pair(Period(2), OneOtherSlope(3)),
    "the first map omitted": lambda: Pair(OmitsTheFirst(2), OmitsTheFirst(3)),
    "relu": lambda: Pair(Relu(2), Relu(3)),
    "other nesting": lambda: Rebuilt(3),
    "shared weights": shared_weight,
    "equal weights": equal_members,
    "positive layers": positive,
    "no padding": lambda: Pair(PadsNothing(3), PadsNothing(7)),
    "a sequential": lambda: nn.Sequential(nn.Conv1d(1, 4, 5), nn.LeakyReLU(0.3), nn.Conv1d(4, 1, 3)),
}


class PoolsAndPadsNothing(Written):
    """What it folds is half as long: which lengths it takes is another question."""

    def __init__(self, period):
        super().__init__(period)
        self.pooling = nn.AvgPool1d(2)

    def pad(self, x):
        x = self.pooling(x)
        return x.view(*x.shape[:2], -1, self.period)


class PadsLeft(Written):
    def pad(self, x):
        x = F.pad(x, (-x.shape[-1] % self.period, 0), "reflect")
        return x.view(*x.shape[:2], -1, self.period)


class ZeroPads(Written):
    def pad(self, x):
        x = F.pad(x, (0, -x.shape[-1] % self.period))
        return x.view(*x.shape[:2], -1, self.period)


class Transposed(Written):
    def pad(self, x):
        x = F.pad(x, (0, -x.shape[-1] % self.period), "reflect")
        return x.view(*x.shape[:2], self.period, -1).transpose(2, 3)


class Louder(Written):
    def pad(self, x):
        return super().pad(x / x.abs().max())


class ChangingPeriod(Written):
    calls = 0

    @property
    def period(self):
        ChangingPeriod.calls += 1
        return 2 + ChangingPeriod.calls % 2

    @period.setter
    def period(self, value):
        pass


class PeriodByLength(Written):
    def pad(self, x):
        return fold(x, self.period if x.shape[-1] % 2 else self.period + 1)


class Noisy(Written):
    def pad(self, x):
        return super().pad(x + 1e-3 * torch.randn_like(x))


class NoisyInTraining(Written):
    def score(self, x):
        return torch.flatten(x + torch.randn_like(x) if self.training else x, 1, -1)


class NoisyByPython(Written):
    def score(self, x):
        return torch.flatten(x, 1, -1) if random.random() < 2 else x


class OtherInTraining(Written):
    def score(self, x):
        return torch.flatten(2 * x if self.training else x, 1, -1)


class DetachesInTraining(Written):
    def keep(self, fmap, x, before):
        fmap.append(x.detach() if self.training else x)


class Detaches(Written):
    def activate(self, x, depth):
        x = F.leaky_relu(x, 0.1)
        return x.detach() if depth == 3 else x


class Tanh(Written):
    def score(self, x):
        return torch.tanh(torch.flatten(x, 1, -1))


class Mean(Written):
    def score(self, x):
        return x.mean((1, 2, 3))


class Gelu(Written):
    def activate(self, x, depth):
        return F.gelu(x)


class Clipped(Written):
    def activate(self, x, depth):
        return F.leaky_relu(x, 0.1).clamp(max=0.5)


class Before(Written):
    def keep(self, fmap, x, before):
        fmap.append(before)


class InPlace(Written):
    def score(self, x):
        x += 1
        return torch.flatten(x, 1, -1)


class Counts(Written):
    seen = 0

    def score(self, x):
        self.seen += 1
        return torch.flatten(x, 1, -1)


class Residual(Written):
    def activate(self, x, depth):
        return F.leaky_relu(x + x.mean(), 0.1)


class Partly(Written):
    """One convolution is there and is not used."""

    def __init__(self, period):
        super().__init__(period)
        self.spare = normed(nn.Conv2d(8, 8, (3, 1)))


class Scripted(Written):
    def score(self, x):
        return torch.flatten(F.conv2d(x, torch.ones(1, 1, 1, 1)), 1, -1)


class Batched(nn.Module):
    """Both waveforms as one batch."""

    def __init__(self):
        super().__init__()
        self.discriminators = nn.ModuleList([Spectrogram(), Period(3)])

    def forward(self, y, y_hat):
        found = [d(torch.cat([y, y_hat])) for d in self.discriminators]
        return [score.chunk(2) for score, _ in found]


def within(change):
    def build():
        module = Written(3)
        change(module)
        return module

    return build


def dropped(module):
    module.convs[2] = nn.Sequential(module.convs[2], nn.Dropout(0.3))


def reflects(module):
    module.convs[1] = normed(nn.Conv2d(4, 6, (5, 1), (3, 1), (2, 0), padding_mode="reflect"))


def by_layer_norm(module):
    module.convs[2] = nn.Sequential(module.convs[2], nn.GroupNorm(1, 8))


REFUSED = {
    "a pad on the left": (lambda: PadsLeft(3), "reads something else than a waveform"),
    "no padding after pooling": (lambda: PoolsAndPadsNothing(3), "it pads nothing, and folds what was pooled"),
    "zeros for a pad": (lambda: ZeroPads(3), "reads something else"),
    "folded the other way": (lambda: Transposed(3), "reads something else"),
    "a normalised waveform": (lambda: Louder(3), "reads something else"),
    "a period that changes": (lambda: ChangingPeriod(3), "."),
    "a period by length": (lambda: PeriodByLength(3), "differ from call to call"),
    "noise": (lambda: Noisy(3), "draws random numbers"),
    "noise in training": (lambda: NoisyInTraining(3), "draws random numbers"),
    "a random branch": (lambda: NoisyByPython(3), "draws random numbers"),
    "another output in training": (lambda: OtherInTraining(3), "none of its maps"),
    "a detached map in training": (lambda: DetachesInTraining(3), "would differ"),
    "detached in the middle": (lambda: Detaches(3), "would differ|of other tensors"),
    "tanh": (lambda: Tanh(3), "none of its maps"),
    "a mean": (lambda: Mean(3), "none of its maps"),
    "gelu": (lambda: Gelu(3), "what follows convs.0 is no leaky ReLU"),
    "clipped": (lambda: Clipped(3), "is no leaky ReLU"),
    "maps before the activation": (lambda: Before(3), "before their activation"),
    "a map changed in place": (lambda: InPlace(3), "changes the shape or the values of map 5"),
    "a count of calls": (lambda: Counts(3), "its forward changes its attributes"),
    "a sum before the activation": (lambda: Residual(3), "is no leaky ReLU"),
    "an unused convolution": (lambda: Partly(3), "spare is not called"),
    "a functional convolution": (lambda: Scripted(3), "."),
    "dropout": (within(dropped), "convs.2.1 drops out \\(p = 0.3\\)"),
    "reflect padding inside": (within(reflects), "convs.1 pads or dilates in another way"),
    "another normalisation": (within(by_layer_norm), "convs.2.1 is a GroupNorm with parameters"),
    "an embedding": (lambda: VocosPair(classes=4).discriminators[0], "emb is a Embedding with parameters"),
    "parametrized spectral norm": (lambda: Period(3, "parametrized spectral"), "a parametrization that is not weight"),
    "a spectrogram": (Spectrogram, "a spectrogram discriminator"),
    "a hook on a convolution": (
        within(lambda m: m.convs[1].register_forward_hook(lambda *_: None)),
        "convs.1 has a forward hook",
    ),
    "no bias": (within(lambda m: setattr(m.convs[1], "bias", None)), "has no bias"),
    "not finite": (within(lambda m: m.convs[1].bias.data.fill_(float("nan"))), "not finite"),
    "a patched forward": (within(lambda m: setattr(m, "forward", m.forward)), "replaced on the instance"),
    "on the meta device": (lambda: Written(3).to("meta"), "meta device"),
    "float16": (lambda: Written(3).half(), "no fused pass would run.*float16"),
}

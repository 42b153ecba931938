"""Whose discriminators are timed, on which shapes; plain PyTorch's and ours always with equal parameters."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import weight_norm

from .. import discriminators as fast
from .. import parity, reference
from ..foreign import accelerate
from ..foreign.report import LEFT

ENSEMBLES = {"mpd": ["mpd"], "msd": ["msd"], "both": ["mpd", "msd"]}
# (in, out, taps, stride, padding, groups): DiscriminatorS of jaywalnut310/vits, models.py
VITS_SCALE = (
    (1, 16, 15, 1, 7, 1),
    (16, 64, 41, 4, 20, 4),
    (64, 256, 41, 4, 20, 16),
    (256, 1024, 41, 4, 20, 64),
    (1024, 1024, 41, 4, 20, 256),
    (1024, 1024, 5, 1, 2, 1),
)


def build(names, plain, device="cpu"):
    """Discriminator ensembles of "mpd" and "msd": plain PyTorch's or the drop-in's, always of equal parameters."""
    module = reference if plain else fast
    builders = {"mpd": module.MultiPeriodDiscriminator, "msd": module.MultiScaleDiscriminator}
    torch.manual_seed(0)
    return [builders[name]().to(device) for name in names]


class OneSet(nn.Module):
    """VITS's way to hold its discriminators: the scale and all periods in one list (models.py of the same)."""

    def __init__(self, periods):
        super().__init__()
        scale = reference.DiscriminatorS()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scale.convs = nn.ModuleList(weight_norm(nn.Conv1d(*of[:5], groups=of[5])) for of in VITS_SCALE)
            scale.conv_post = weight_norm(nn.Conv1d(VITS_SCALE[-1][1], 1, 3, 1, padding=1))
        self.discriminators = nn.ModuleList([scale, *(reference.DiscriminatorP(period) for period in periods)])

    def forward(self, y, y_hat):
        real, generated = ([d(x) for d in self.discriminators] for x in (y, y_hat))
        return [r[0] for r in real], [g[0] for g in generated], [r[1] for r in real], [g[1] for g in generated]


class AcceleratedSet(OneSet):
    """The same, accelerated where it is made; a copy is made so too. left: what was not, and why, in words."""

    def __init__(self, periods):
        super().__init__(periods)
        found = accelerate(self)
        left = [f"left {e.name or type(self).__name__}: {e.why}" for e in found.entries if e.outcome == LEFT]
        self.left = "; ".join(left or ([] if found else [str(found)]))


def left(modules):
    """What `accelerate` left as it was of modules, or of their parts, and why, in words; "" where all are fast."""
    return "; ".join(filter(None, (getattr(module, "left", "") for module in modules)))


def _hifigan(plain, device):
    built = dict(zip(ENSEMBLES["both"], build(ENSEMBLES["both"], plain, device)))
    return {name: [built[part] for part in parts] for name, parts in ENSEMBLES.items()}


def _bigvgan(plain, device):
    return {"mpd": build(["mpd"], plain, device)}


class Workload(NamedTuple):
    """One project's discriminators, and the batch and segment (samples) that it trains with.

    cpu_batch: the batch that fits a CPU.
    build: (plain, device) -> {ensemble: modules}, of each of `ensembles`.
    judged: {name: (makes ours, makes plain PyTorch's)} of the modules that these are made of, for the parity gate.
    """

    what: str
    ensembles: tuple[str, ...]
    batch: int
    cpu_batch: int
    segment: int
    build: Callable[[bool, torch.device], dict[str, list[nn.Module]]]
    judged: Mapping[str, tuple[Callable, Callable]]


def _one_set(what, name, periods, *shape):
    pair = functools.partial(AcceleratedSet, periods), functools.partial(OneSet, periods)

    def built(plain, device):
        torch.manual_seed(0)
        with device:
            return {name: [pair[plain]()]}

    return Workload(what, (name,), *shape, built, {name: pair})


MPD = {"mpd": parity.ENSEMBLES["mpd"]}
WORKLOADS = {
    "hifigan": Workload("HiFi-GAN's MPD and MSD", tuple(ENSEMBLES), 16, 4, 8192, _hifigan, parity.ENSEMBLES),
    "vits": _one_set("VITS's set", "vits", (2, 3, 5, 7, 11), 8, 2, 8192),
    "rvc": _one_set("RVC v2's set, 48 kHz", "rvc", (2, 3, 5, 7, 11, 17, 23, 37), 4, 1, 17280),
    "bigvgan": Workload("BigVGAN's MPD", ("mpd",), 4, 1, 65536, _bigvgan, MPD),
}


def modules_of(workload, ways, device):
    """{way: {ensemble: modules}}; ways that prepare nothing share theirs."""
    shared, found = {}, {}
    for name, way in ways.items():
        key = way.ours, way.prepare
        if key not in shared:
            built = workload.build(not way.ours, device)
            if way.prepare:
                way.prepare(dict.fromkeys(module for of in built.values() for module in of))
            shared[key] = built
        found[name] = shared[key]
    return found

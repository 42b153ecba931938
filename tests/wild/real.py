"""Discriminators of packages as they are published: loaded by file, so that the rest of a package is not imported.

Each package is installed without its dependencies (`make wild`); what a file imports besides torch is stood in for.
"""

import contextlib
import importlib.util
import math
import sys
import types
import warnings
from pathlib import Path
from unittest import mock

import pytest
from torch import nn


def _module(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    return module


def _rearrange(x, pattern, p):
    assert pattern == "b c (l p) -> b c l p"
    return x.reshape(*x.shape[:2], -1, p)


class _Absent(nn.Module):
    """A front end of another package: what needs it cannot be called, and is not to be accelerated either."""

    def __init__(self, *args, **kwargs):
        super().__init__()


def _stand_ins():
    padding = {"get_padding": lambda kernel_size, dilation=1: (kernel_size * dilation - dilation) // 2}
    audio = _module("audiotools", AudioSignal=None, STFTParams=mock.MagicMock(), ml=_module("ml", BaseModel=nn.Module))
    return {
        "einops": _module("einops", rearrange=_rearrange),
        "audiotools": audio,
        "torchaudio": _module("torchaudio"),
        "torchaudio.transforms": _module("torchaudio.transforms", Spectrogram=_Absent),
        "TTS": _module("TTS"),
        "TTS.vocoder": _module("TTS.vocoder"),
        "TTS.vocoder.models": _module("TTS.vocoder.models"),
        "TTS.vocoder.models.hifigan_generator": _module("hifigan_generator", **padding),
        "so_vits_svc_fork": _module("so_vits_svc_fork"),
        "so_vits_svc_fork.modules": _module("so_vits_svc_fork.modules", modules=_module("modules", LRELU_SLOPE=0.1)),
        "so_vits_svc_fork.modules.commons": _module("so_vits_svc_fork.modules.commons", **padding),
    }


# The set of each package: its package, the file, how to build it, waveforms in a call, passes, [batch, samples] or not.
SETS = {
    "so-vits-svc-fork": ("so_vits_svc_fork", "modules/descriminators.py", lambda m: m.MultiPeriodDiscriminator(), 2, 2),
    "so-vits-svc-fork's scales": (
        "so_vits_svc_fork",
        "modules/descriminators.py",
        lambda m: m.MultiScaleDiscriminator(),
        2,
        1,
    ),
    "coqui-tts vocoder": ("TTS", "vocoder/models/hifigan_discriminator.py", lambda m: m.HifiganDiscriminator(), 1, 2),
    "coqui-tts vits": ("TTS", "tts/layers/vits/discriminator.py", lambda m: m.VitsDiscriminator(), 2, 2),
    "descript-audio-codec": ("dac", "model/discriminator.py", lambda m: m.MPD(7), 1, 1),
    "vocos": ("vocos", "discriminators.py", lambda m: m.MultiPeriodDiscriminator(), 2, 1),
}


def _load(package, path):
    name = ".".join((package, *Path(path).with_suffix("").parts))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed: make wild")
    file = Path(spec.submodule_search_locations[0]) / path
    own = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module


def load(package, path):
    """The module of a file of an installed package; skips where that is not installed."""
    with mock.patch.dict(sys.modules):  # the stand-ins are gone afterwards, and never hide what is to be found
        found = importlib.util.find_spec(package)
        sys.modules.update(_stand_ins())
        if package == "TTS" and "vits" in path:  # takes a class from this one
            sys.modules.pop(package)
            _load(package, SETS["coqui-tts vocoder"][1])
        sys.modules.pop(package, None)
        return _load(package, path) if found else pytest.skip(f"{package} is not installed: make wild")


def build(name, full=False):
    """A set of a package; of an eighth of the channels unless `full`."""
    package, path, make, *_ = SETS[name]
    module = load(package, path)
    kinds = {kind: getattr(nn, kind) for kind in ("Conv1d", "Conv2d")}
    narrow = {} if full else {kind: _narrow(own) for kind, own in kinds.items()}
    patched = [mock.patch.multiple(nn, **narrow)] if narrow else []
    patched += [mock.patch.object(module, kind, own) for kind, own in narrow.items() if hasattr(module, kind)]
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the legacy norms are deprecated
        for patch in patched:
            stack.enter_context(patch)
        return make(module)


def _narrow(kind):
    """A constructor of convolutions of an eighth of the channels."""

    def build(channels, out, *args, groups=1, **kwargs):
        channels, out = -(-channels // 8), -(-out // 8)
        if len(args) > 4:  # dilation, groups
            groups = args[5]
            args = args[:5]
        return kind(channels, out, *args, groups=math.gcd(groups, channels, out), **kwargs)

    return build

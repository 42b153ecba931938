"""Shared by all tests: real speech where it is there, NaN-poisoned allocations, few channels; Triton's interpreter
without a GPU."""

import functools
import json
import os
from collections import Counter

# All workers' threads together are one a core; read where torch is first imported.
os.environ.setdefault(
    "OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))
)

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils import _device

os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # they do not know that an operator has changed
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read where Triton's kernels are first imported

from hifigan_fast import discriminators, parity, reference, self_check
from hifigan_fast.voice import synthetic_voice

from . import ways

SPEECH = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ljspeech"


def pytest_terminal_summary(terminalreporter):
    """What was not tested here, and why: a line a reason, where pytest has one a test."""
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())
    )
    for reason, count in skipped.items():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter(request):
    """Triton's language stays patched: the interpreter does that anew at each call of a function, nine tenths of its
    time. And no sum of integers is checked, a third of the rest, but where tests are exhaustive."""
    if not find_spec("triton"):
        return
    from triton.runtime import interpreter

    builder, patched = interpreter.interpreter_builder, set()
    patch = getattr(interpreter, "_patch_lang", None)
    if request.config.option.markexpr:
        builder.options = replace(builder.options, sanitize_overflow=False)

    def patch_once(fn):
        languages = interpreter.tl, interpreter.tl.core
        spelled = tuple(any(value is language for value in fn.__globals__.values()) for language in languages)
        if spelled not in patched:
            patch(fn)
            patched.add(spelled)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_once


@pytest.fixture(scope="session")
def clips():
    """Clips as arrays: real speech where the checkout has it beside it, the synthetic voice otherwise."""
    paths = sorted(SPEECH.glob("*.wav"))[:4]
    if not paths:
        return [synthetic_voice(2.0, seed=seed) for seed in range(4)]
    soundfile = pytest.importorskip("soundfile", reason="reads the real speech")
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


@pytest.fixture
def poisoned(monkeypatch):
    """Every buffer that the package allocates is full of NaN: an element that no kernel wrote shows."""

    def poison(allocate):
        def allocated(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            if tensor.is_floating_point():
                tensor.detach().fill_(float("nan"))
            return tensor

        return allocated

    _device._device_constructors()  # which PyTorch finds once: these, not what stands for them here
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    for name in ("empty", "empty_like", "frombuffer"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture
def narrow():
    """Discriminators that a test builds have an eighth of their channels: all else is theirs, and a call is cheap."""

    def with_fewer(conv):
        return lambda ins, outs, *args, **options: conv(-(-ins // 8), -(-outs // 8), *args, **options)

    few = vars(nn) | {name: with_fewer(getattr(nn, name)) for name in ("Conv1d", "Conv2d")}
    with pytest.MonkeyPatch.context() as patch:  # its own: a test may undo the other's changes
        patch.setattr(reference.discriminators, "nn", SimpleNamespace(**few))
        yield


@pytest.fixture
def small_check(monkeypatch, narrow):
    """A check at first contact has a short waveform and one period of few channels; the flags it sets are put back."""
    monkeypatch.setattr(self_check, "LENGTH", 150)
    pair = tuple(functools.partial(m.MultiPeriodDiscriminator, (2,)) for m in (discriminators, reference))
    monkeypatch.setattr(parity, "ENSEMBLES", {"mpd": pair})
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def by_library():
    """The Triton backend leaves every layer class that it may to PyTorch's own convolution."""
    with ways.by("library"):
        yield


@pytest.fixture
def tiny(monkeypatch, narrow, tmp_path):
    """V1 is a small network, with small discriminators; its configuration."""
    pytest.importorskip("librosa")
    from hifigan_fast.training import config as configuration

    from .training.tiny import CONFIG

    built_in = json.loads(configuration.BUILT_IN["v1"].read_text())
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(built_in | CONFIG))
    monkeypatch.setitem(configuration.BUILT_IN, "v1", path)
    return configuration.load_config("v1")

"""Kernels compiled ahead: packed, unpacked and found again; those of a pass side by side, before any is launched."""

import contextlib
import itertools
import json
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import triton
import triton.language as tl
from torch import nn
from triton import knobs
from triton.runtime.jit import JITFunction

import hifigan_fast as hf
from hifigan_fast import dispatch, warm
from hifigan_fast.backends.cuda import compiler
from hifigan_fast.backends.gpu import compilers
from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.triton import adversarial, ahead, configs, convolution, launch, stem, weights
from hifigan_fast.bench.steps import FastLosses, discriminator_step
from hifigan_fast.cli import main

from .. import ways


def small():
    """An ensemble of one short discriminator."""
    made = hf.MultiPeriodDiscriminator((2,))
    convs = [nn.Conv2d(i, o, (5, 1), (3, 1), (2, 0)) for i, o in ((1, 8), (8, 8), (8, 1))]
    made.discriminators[0].convs, made.discriminators[0].conv_post = nn.ModuleList(convs[:-1]), convs[-1]
    return [made]


def step(modules, y, y_hat):
    discriminator_step(modules, y, y_hat, FastLosses)


def forget():
    """As in a new process."""
    for module in (adversarial, convolution, stem, weights):
        for kernel in vars(module).values():
            if isinstance(kernel, JITFunction):
                kernel.device_caches.clear()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(a cache, the kernels of a small step in it)."""
    where = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(where))
        forget()
        kernels = warm.compiled("sm_80", "bf16", small(), step)
    yield where, kernels
    forget()


@pytest.fixture
def compilations(monkeypatch):
    """(whether it was in the cache, whether a thread of its own did it) of all that Triton is asked to compile."""
    found = []

    def listen(cache_hit, **_):
        found.append((cache_hit, threading.current_thread() is not threading.main_thread()))

    monkeypatch.setattr(knobs.compilation, "listener", listen)
    return found


def test_a_pack_is_found_again(kept, compilations, monkeypatch, tmp_path, capsys):
    _, kernels = kept
    warm.pack(tmp_path / "pack.zip", kernels, "sm_80")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert main(["warm", "--from", str(tmp_path / "pack.zip")]) == 0
    assert capsys.readouterr().out == f"unpacked {len(kernels)} kernels for sm_80\n"
    forget()
    again = warm.compiled("sm_80", "bf16", small(), step)
    assert {kernel.hash for kernel in again} == {kernel.hash for kernel in kernels}
    assert len(kernels) > 8 and compilations == [(True, True)] * len(kernels)
    assert not list((tmp_path / "elsewhere").rglob("*.ttir"))


def test_a_pack_has_the_cuda_kernels_too(monkeypatch, tmp_path, capsys):
    """Those that run layers of the Triton backend: found again, none is compiled anew."""
    path = str(tmp_path / "pack.zip")

    def elsewhere(name):
        for variable in ("TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.setenv(variable, str(tmp_path / name))
        forget()
        compiler._compiled.cache_clear()

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")  # one thread: two cannot parse at once before Python 3.11.9, 3.12.3
    elsewhere("here")
    with ways.by("cuda"):
        kernels = warm.compiled("sm_80", "bf16", small(), step)
    files = {kernel.name: kernel for kernel in kernels if isinstance(kernel, Path)}
    assert sorted(name.split("-")[0] for name in files) == [f"convolution_{own}" for own in configs.DIRECTIONS]
    warm.pack(path, kernels + kernels, "sm_80")  # as of two precisions
    elsewhere("there")
    assert main(["warm", "--from", path]) == 0
    assert capsys.readouterr().out == f"unpacked {len(kernels)} kernels for sm_80\n"
    monkeypatch.setattr(compiler, "compile_", None)
    with ways.by("cuda"):
        again = {kernel for kernel in warm.compiled("sm_80", "bf16", small(), step) if isinstance(kernel, Path)}
    assert all(file.read_bytes() == files[file.name].read_bytes() for file in again) and len(again) == 3
    forget()


def test_what_is_no_pack_is_refused(tmp_path, capsys):
    path = tmp_path / "pack.zip"

    def refused(name, text):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, text)
        assert main(["warm", "--from", str(path)]) == 2
        return capsys.readouterr().err

    assert "a zip file without manifest.json" in refused("other", "")
    older = json.dumps({"hifigan_fast": hf.__version__, "triton": "3.1", "target": "sm_90"})
    assert f"made with triton 3.1, here is {triton.__version__}: pack it again" in refused("manifest.json", older)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", json.dumps(warm._versions() | {"target": "sm_90"}))
        file.writestr("cuda/somewhere.py", "")
    assert main(["warm", "--from", str(path)]) == 2
    assert "a damaged pack: cuda has the files somewhere.py" in capsys.readouterr().err
    for damaged in ("[]", json.dumps(warm._versions()), "no json"):
        assert "a damaged pack" in refused("manifest.json", damaged)
    path.write_text("no zip")
    assert main(["warm", "--from", str(path)]) == 2 and "another kind of file" in capsys.readouterr().err
    assert main(["warm", "--from", str(tmp_path / "none.zip")]) == 2 and "No such file" in capsys.readouterr().err
    assert main(["warm", "--from", str(path), "--target", "sm_90"]) == 2
    assert "error: from: expected no target beside a pack" in capsys.readouterr().err


@pytest.mark.parametrize("flags, said", [([], "none can be used here"), (["--target", "sm_70"], "got 'sm_70'")])
def test_devices_that_cannot_be_compiled_for_are_refused(flags, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["warm", *flags]) == 2 and said in capsys.readouterr().err


class Recording(ahead.Driver):
    """Stands for the driver of a device that runs nothing, and keeps the names of the kernels that it was given."""

    def __init__(self, target):
        super().__init__(target)
        self.launched = []
        loaded = None, 1, 0, 0, 1024  # module, function, registers, spills, threads
        properties = {"max_shared_mem": 2**18}
        self.utils = SimpleNamespace(load_binary=lambda *_: loaded, get_device_properties=lambda _: properties)

    def launcher_cls(self, source, metadata):
        return lambda *_: self.launched.append(metadata.name)


@pytest.fixture
def device(monkeypatch):
    made = []
    monkeypatch.setattr(launch.Compiled, "driven", lambda *_: None)  # there is no driver
    monkeypatch.setattr(ahead, "Driver", lambda target: made.append(Recording(target)) or made[0])
    monkeypatch.setattr(launch.Compiled, "driven", lambda *_: None)  # by a driver that is not Triton's
    with ahead.pretending(Absent("sm_80")), hf.use_backend("triton"):
        yield made[0]


def test_a_pass_is_compiled_as_a_whole_before_it_is_launched(kept, compilations, device, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(kept[0]))
    forget()
    y, modules, tried, whole = torch.zeros(2, 2, 1, 1024, dtype=torch.float32, device="cpu"), small(), [], ahead.whole
    monkeypatch.setattr(ahead, "whole", lambda run: whole(lambda: tried.append(1) or run()))
    # Of the first step forward and backward are begun, compiled as a whole, and run; of the second they run.
    for passes in (6, 8):
        device.launched.clear()
        with torch.autocast("cpu", torch.bfloat16):
            step(modules, *y)
        losses = ["squared_means", "gradients"]
        backward = ["weight_grad", "input_grad"] * 2 + ["weight_grad", "finish"]
        assert device.launched == ["pack", "forward", "forward", "forward", *losses, *backward]
        assert len(tried) == passes
        assert sorted(compilations) == [(True, False)] * 2 + [(True, True)] * (len(compilations) - 2)


@triton.jit
def wrong(x, SIZE: tl.constexpr):
    tl.static_assert(SIZE == 1)


def test_an_error_of_the_compiler_is_raised_where_the_kernel_is_launched(device):
    x = torch.zeros(1, dtype=torch.float32, device="cpu")
    for _ in range(2):
        with pytest.raises(triton.CompilationError):
            ahead.whole(lambda: dispatch.BACKENDS["triton"].kernels.launch(x.device, wrong, (1,), x, SIZE=2))


def test_what_takes_long_is_said(capsys, monkeypatch):
    monkeypatch.setattr(compilers, "PATIENCE", 0.01)
    with compilers.Compilers() as threads:
        over = threading.Event()
        threads.submit(over.wait)
        threads.tell(threading.Event())
        over.set()
    assert "compiling kernels, 0 of 1; they are kept" in capsys.readouterr().err


def test_a_pack_with_another_byte_anywhere_is_no_traceback(tmp_path, monkeypatch):
    path = tmp_path / "pack.zip"
    monkeypatch.setattr(warm, "_versions", lambda: {"hifigan_fast": "1"})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", json.dumps(warm._versions() | {"target": "sm_90"}))
        file.writestr(f"{'a' * 64}/kernel.json", json.dumps(list(range(99))))
    whole = path.read_bytes()
    monkeypatch.setattr("triton.runtime.cache.get_cache_manager", mock.Mock())
    for place, bits in itertools.product(range(len(whole)), (1, 255)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            warm.unpack(path)

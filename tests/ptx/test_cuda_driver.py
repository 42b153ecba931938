"""Launches of the CUDA backend through cuda-bindings: what a stub of the driver is asked for."""

import contextlib
import ctypes
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from benchmarks import host
from hifigan_fast import cache, dispatch, trust
from hifigan_fast.backends.cuda import CudaBackend, compiler, driver, kernel, kernels
from hifigan_fast.backends.gpu import devices, losses, program
from hifigan_fast.backends.gpu import driver as launches
from hifigan_fast.backends.gpu.kernels import instead_of_launching
from hifigan_fast.backends.triton import configs
from hifigan_fast.geometry import ensemble_of

from .test_driver import HEARD, small, step

CUDA = dispatch.BACKENDS["cuda"]


@pytest.fixture
def asked(monkeypatch):
    """[(grid, block, shared memory, stream, function, parameters)] of all launches; a parameter is its bytes."""
    found, sizes = [], SimpleNamespace(next=[])

    def hear(config, function, parameters):
        if not sizes.next:  # a recorded pass, of which nothing is expected
            return
        c = config.contents
        words = tuple(ctypes.string_at(parameters[n], size) for n, size in enumerate(sizes.next.pop(0)))
        found.append((list(c.grid), list(c.block), c.shared, c.stream, function, words))

    callback, run = HEARD(hear), driver.Loaded.__call__
    place = ctypes.c_void_p.in_dll(host.stub_driver(), "heard")

    def call(self, grid, stream, values):
        sizes.next.append([8 * len(v) if isinstance(v, tuple) else 4 if isinstance(v, float) else 8 for v in values])
        run(self, grid, stream, values)

    monkeypatch.setenv("TRITON_LIBCUDA_PATH", "")  # which the stub sets
    monkeypatch.setattr(launches, "_library", launches._library.__wrapped__)
    monkeypatch.setattr(driver.Loaded, "__call__", call)
    place.value = ctypes.cast(callback, ctypes.c_void_p).value
    yield SimpleNamespace(launches=found, sizes=sizes)
    place.value = None


@pytest.fixture
def device(asked, monkeypatch):
    """CPU tensors pass as an H200's."""
    monkeypatch.setattr(CUDA.kernels, "_loaded", {})
    ensemble_of.cache_clear()
    with host.as_a_device("cuda"):
        yield asked


def test_parameters_are_as_the_kernel_has_them(asked):
    some = torch.zeros(1)
    args, values = (some, 1.5, (some, None, some), None, 7), (16, 1.5, (32, None, 48), None, 7)
    for constants, shared in (({"SHARED": 100_000}, 100_000), ({"launch_cooperative_grid": True}, 0)):
        loaded = driver.Loaded(b"", "name", args, {"THREADS": 96} | constants, 0)
        loaded((3, 4), 5, values)
        grid, block, own_shared, stream, _, words = asked.launches.pop()
        assert (grid, block, own_shared, stream) == ([3, 4, 1], [96, 1, 1], shared, 5)
        whole = [16, torch.tensor(1.5).view(torch.int32).item(), 32 | 48 << 128, 0, 7]
        assert words == tuple(w.to_bytes(size, "little") for w, size in zip(whole, (8, 4, 24, 8, 8)))


def test_a_recorded_pass_asks_for_the_same(device, monkeypatch):
    recorded, begin, end = [], program.Recording.__init__, program.Recording.program

    def start(self, *args):
        begin(self, *args)
        self.before = len(device.launches)

    def stop(self, results):
        made = end(self, results)
        recorded.append((made, [first for first, *_ in self.slots], device.launches[self.before :]))
        return made

    monkeypatch.setattr(program.Recording, "__init__", start)
    monkeypatch.setattr(program.Recording, "program", stop)
    step([small(torch.nn.utils.weight_norm), small(torch.nn.utils.spectral_norm)])
    # Backward twice, of two ensembles, and one forward of each; as many losses, forward and back.
    assert [len(launched) > 2 for *_, launched in recorded].count(True) == 6 and len(recorded) == 12
    for made, addresses, launched in recorded:
        device.launches.clear()
        device.sizes.next = [[len(word) for word in words] for *_, words in launched]
        made.driven(0, 0, addresses)
        assert device.launches == launched and launched


def test_a_pass_is_compiled_as_a_whole_before_it_is_launched(device):
    compiled, tried, run = [], [], CUDA.whole
    module = small(torch.nn.utils.weight_norm)
    with (  # not by monkeypatch: what `device` has changed is put back before that
        mock.patch.object(kernels, "compiled", lambda kernel, *_: compiled.append(kernel.source) or b""),
        mock.patch.object(CudaBackend, "whole", lambda self, again: run(lambda: tried.append(1) or again())),
    ):
        module(*torch.randn(2, 1, 1, 300).unbind())
    assert len(tried) == 3  # begun, compiled, run
    first, again = compiled[:4], compiled[4:]  # by threads; as they are launched, from the cache
    assert sorted(first) == sorted(again) == ["convolution_forward", "head_forward", "pack", "stem_forward"]


def test_what_is_missing_is_said(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(devices, "_capability", lambda device: (7, 0))
    assert CUDA.cannot_run(cuda, torch.float32) == ("the device has compute capability 7.0, the CUDA kernels need 7.5")
    monkeypatch.setattr(devices, "_capability", lambda device: (7, 5))
    assert CUDA.cannot_run(cuda, torch.bfloat16) == "the device has compute capability 7.5, bfloat16 needs 8.0"
    monkeypatch.setattr(devices, "_capability", lambda device: (31, 4))
    assert "does not know compute capability 31.4" in CUDA.cannot_run(cuda, torch.float16)
    monkeypatch.setattr(devices, "_capability", lambda device: (12, 1))
    monkeypatch.setattr(driver, "missing", lambda: "no driver")
    assert CUDA.cannot_run(cuda, torch.float16) == "no driver"
    monkeypatch.setattr(compiler, "missing", lambda: "no NVRTC")
    assert CUDA.cannot_run(cuda, torch.float16) == "no NVRTC"
    assert "float64" in CUDA.cannot_run(cuda, torch.float64)
    assert "an NVIDIA GPU" in CUDA.cannot_run(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(devices, "_capability", lambda device: "gfx942")
    assert "on an AMD GPU" in CUDA.cannot_run(cuda, torch.float32)


def test_a_driver_that_is_older_than_the_compiler(monkeypatch):
    host.stub_driver()  # of CUDA 12.8
    monkeypatch.setattr(compiler, "version", lambda: (12, 9))
    assert driver.missing.__wrapped__() is None
    monkeypatch.setattr(compiler, "version", lambda: (13, 5))
    said = driver.missing.__wrapped__()
    assert said.startswith("the driver is CUDA 12.8's, NVRTC is of 13.5: ") and said.endswith("NVRTC 12.x")


@pytest.mark.parametrize("capability, chosen", [((7, 5), "cuda"), ((8, 0), "triton")])
def test_it_is_chosen_where_triton_cannot_run(capability, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(devices, "_capability", lambda device: capability)
    monkeypatch.setattr(driver, "missing", lambda: None)
    monkeypatch.setenv(trust.VARIABLE, "0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device")
    monkeypatch.setattr(configs, "measurements", lambda device: {"some": "thing"})
    device = torch.device("cuda", 6)
    assert dispatch.choose(device, torch.float16).backend.name == chosen
    if chosen == "cuda":
        assert dispatch.refusal(CUDA, device, torch.bfloat16) in dispatch.no_kernels(device, torch.bfloat16)


def test_what_it_meets(monkeypatch):
    """Its sources are a part of it: after a change its kernels are checked again."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"device {device.index}")
    found = CUDA.contact(torch.device("cuda", 3))
    assert list(found) == ["device", "hifigan_fast", "torch", "nvrtc", "driver", "kernels"] and all(found.values())
    assert found["device"] == "device 3" and CUDA.contact(torch.device("cpu")) is None
    folder = compiler.folder()
    monkeypatch.setattr(compiler, "folder", lambda: folder / "nothing")
    assert CUDA.contact(torch.device("cuda", 3))["kernels"] != found["kernels"]


@contextlib.contextmanager
def without(*modules):
    with mock.patch.dict("sys.modules", dict.fromkeys(modules)):
        yield


def test_without_cuda_bindings():
    with without("cuda.bindings", "cuda.bindings.nvrtc"):
        assert "cuda-bindings is not installed" in compiler.missing.__wrapped__()


def test_a_refusal_of_the_compiler_says_the_error():
    text = 'extern "C" __global__ void name(float *to) { int no; __shared__ float own[1 << 14]; *to = own[*to > 0]; }'
    with pytest.raises(compiler.CompilationError, match="^name.cu for sm_80: ptxas error.* too much shared data"):
        compiler.compile_("name", text, {}, 80, "cubin")
    with pytest.raises(compiler.CompilationError, match=r"^name.cu for sm_80: name.cu\(1\): error: .*nothing"):
        compiler.compile_("name", text.replace("*to =", "nothing ="), {}, 80, "cubin")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("taps, channels", [(300, 64), (41, 512), (1, 1)])
def test_the_gradient_of_a_waveform_is_compiled_for_any_stem(dtype, taps, channels):
    """Also for one of more taps and channels than a program has at a time."""
    maps, table = torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=torch.int64)
    constants = {"OUT": channels, "TAPS": taps, "STRIDE": 3, "PADDING": taps // 2, "BM": CUDA.kernels.stem_places}
    entry = CUDA.kernels.stem_input_grad
    args, constants = kernel.arguments(entry, (maps, maps, torch.zeros(1), table, table), constants)
    assert kernels.compiled(entry, args, constants, (7, 5), "cubin")


def test_a_module_of_the_same_name_is_not_cuda_bindings(tmp_path, monkeypatch):
    (tmp_path / "cuda.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with mock.patch.dict("sys.modules"):
        for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
            del sys.modules[name]
        assert "cuda-bindings is not installed" in compiler.missing.__wrapped__()


def test_nothing_is_left_of_code_that_cannot_be_kept(tmp_path, monkeypatch):
    """As on Windows, where another process reads what is in its place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache.os, "replace", mock.Mock(side_effect=PermissionError))
    compiler._keep("name.cubin", b"code")
    assert list((tmp_path / "hifigan_fast" / compiler.KEPT).iterdir()) == []


def test_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "compile_", lambda *_: made.append(1) or b"code")
    made, what = [], ("name", "text", (), (13, 5), 80, "cubin")
    for damage in (
        None,
        None,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[1:]),
    ):
        if damage:
            (file,) = (tmp_path / "hifigan_fast" / compiler.KEPT).iterdir()
            damage(file)
        compiler._compiled.cache_clear()
        assert compiler._compiled(*what) == b"code"
    compiler._compiled.cache_clear()
    assert len(made) == 3


def test_no_grid_has_more_programs_than_a_device_takes():
    grids, scores = [], torch.empty(65536 * losses.MAP_BLOCK + 1, dtype=torch.float16)  # no page of which is touched
    with instead_of_launching(lambda kernel, grid, args, meta: grids.append(grid)):
        CUDA.squared_means_backward([scores], (1,), torch.ones(()), None, [True])
    assert grids == [(1, 65535)]

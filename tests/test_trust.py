"""First contact with a device: a planted one on the CPU, whose backend is right, or wrong in one way."""

import collections
import contextlib
import functools
import json
import multiprocessing
import os
import signal
import time
import warnings

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import cache, dispatch, info, parity, reference, self_check, trust
from hifigan_fast.backends.reference import ReferenceBackend
from hifigan_fast.backends.triton import TritonBackend

from . import ways
from .wrong import backends as wrong

CPU = torch.device("cpu")
DEVICE = "a planted device"
RIGHT, FAILED = (
    {"passed": True, "figures": "ok"},
    {"passed": False, "figures": "FAIL, worst ratio 37.00 (maps: real 0)"},
)


class MatchingForgotten(ReferenceBackend):
    """Wrong in the step losses alone."""

    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        if matching is not None:
            map_grads, matching = [None] * len(runs), None
        super().input_grad(role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)


class WrongWhenCalledAgain(ReferenceBackend):
    """Wrong once it has run what one evaluation runs (twice: maps' gradients, and a step's)."""

    def __init__(self):
        self.seen = collections.Counter()

    def weight_grad(self, role, layer, runs, x, grad_out, weights):
        self.seen[layer, runs] += 1
        again = torch.zeros_like(grad_out) if self.seen[layer, runs] > 2 else grad_out
        return super().weight_grad(role, layer, runs, x, again, weights)


WRONG = [wrong.PadOffByOne, wrong.MaskOfTheWrongSign, wrong.WeightsInHalf, MatchingForgotten, WrongWhenCalledAgain]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_check):
    """A cache folder of its own, and a process that has met no device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch.BACKENDS["cpu"], "cannot_run", lambda *_: "no such device", raising=False)
    another_process()
    yield tmp_path / "hifigan_fast"
    another_process()


def another_process():
    """What a process remembers is forgotten."""
    for memory in (trust._distrust, trust._say, dispatch.warn_once):
        memory.cache_clear()


@pytest.fixture
def plant(monkeypatch):
    """plant(kind, run): a backend of that kind on the planted device, first choice there -> the checks that were run.

    run: in the place of the check's own process; by default the check itself, in this one.
    """

    def plant(kind, run=lambda backend, device, arithmetic: self_check.judged(backend, CPU, arithmetic)):
        class Planted(kind):
            name = "triton"

            def contact(self, device):
                return {"device": DEVICE, "version": "1.0"}

        checks = []
        monkeypatch.setitem(dispatch.BACKENDS, "triton", Planted())
        monkeypatch.setattr(trust, "run", lambda *what: (checks.append(what), run(*what))[1])
        return checks

    return plant


@functools.cache
def waves():
    return parity.waveforms(1, 150)


def called():
    """What a first call returns beside plain PyTorch's values; the backend that explain names; what was warned of."""
    mpd, plain = hf.MultiPeriodDiscriminator((2,)), reference.MultiPeriodDiscriminator((2,))
    plain.load_state_dict(mpd.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [mpd(*waves()) for _ in range(2)][0]
    for ours, theirs in zip(outputs[1], plain(*waves())[1]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    return hf.explain(mpd), [str(w.message) for w in caught if "hifigan_fast" in str(w.message)]


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_kernel_is_caught_and_not_used_again(kind, plant):
    checks = plant(kind)
    for _ in range(2):
        explained, said = called()
        assert " modules " in explained and " triton " not in explained
        (warning,) = said
        assert "module by module" in warning and f"failed their check on {DEVICE}: FAIL, worst ratio " in warning
        assert "please report" in warning
        another_process()
    assert checks == [("triton", "cpu", "float32")]


def test_a_right_kernel_is_checked_once(plant, home, caplog):
    checks = plant(ReferenceBackend)
    for _ in range(2):
        explained, said = called()
        assert " triton " in explained and not said
        another_process()
    assert checks == [("triton", "cpu", "float32")]
    assert [record.getMessage().split(":")[1].split()[0] for record in caplog.records] == ["first", "checked"]
    (verdicts,) = json.loads((home / trust.FILE).read_text()).values()
    assert verdicts["float32"]["passed"] and "worst ratio" in verdicts["float32"]["figures"]
    assert [path.name for path in home.iterdir() if not path.name.endswith(".lock")] == [trust.FILE]


def test_what_will_not_run_is_not_checked(plant, monkeypatch):
    """A slower backend's kernels, where a faster one's are there."""

    class Slower(ReferenceBackend):
        name = "cuda"

        def contact(self, device):
            return {"device": DEVICE, "version": "1.0"}

    checks = plant(ReferenceBackend, lambda backend, *_: FAILED if backend == "triton" and failing else RIGHT)
    monkeypatch.setitem(dispatch.BACKENDS, "cuda", Slower())
    failing = False
    assert dispatch.no_kernels(CPU, torch.float32) is None and [backend for backend, *_ in checks] == ["triton"]
    failing = True
    assert dispatch.no_kernels(CPU, torch.bfloat16) is None
    assert [backend for backend, *_ in checks] == ["triton", "triton", "cuda"]


def test_each_arithmetic_has_its_verdict(plant):
    plant(ReferenceBackend, lambda backend, device, arithmetic: RIGHT if arithmetic == "float32" else FAILED)
    mpd = hf.MultiPeriodDiscriminator((2,))
    with torch.autocast("cpu", torch.bfloat16):
        assert "its bfloat16 kernels failed" in hf.explain(mpd)
    assert " triton " in hf.explain(mpd)


def test_what_would_be_faster_is_said_once(plant, monkeypatch, caplog):
    plant(ReferenceBackend, lambda *_: RIGHT)
    monkeypatch.setattr(dispatch.BACKENDS["triton"], "advice", lambda device: "tune it", raising=False)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        assert dispatch.no_kernels(CPU, dtype) is None
    assert [record.getMessage() for record in caplog.records].count("hifigan_fast: tune it") == 1
    assert ("speed of triton", "tune it") in info.rows()


def test_other_versions_and_devices_are_checked_for_themselves(plant, monkeypatch):
    checks = plant(ReferenceBackend, lambda *_: RIGHT)
    for version in ("1.0", "1.1"):
        contact = {"device": DEVICE, "version": version}
        monkeypatch.setattr(dispatch.BACKENDS["triton"], "contact", lambda device, c=contact: c, raising=False)
        for _ in range(2):
            another_process()
            assert dispatch.no_kernels(CPU, torch.float32) is None
    assert len(checks) == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"triton: device a planted device, version 1.0": %s}'])
@pytest.mark.parametrize("entry", ["3", '{"float32": true}', '{"float32": {"passed": "yes"}}'])
def test_a_broken_file_is_made_anew(text, entry, plant, home):
    checks = plant(ReferenceBackend, lambda *_: RIGHT)
    home.mkdir()
    (home / trust.FILE).write_text(text.replace("%s", entry))
    for _ in range(2):
        assert dispatch.no_kernels(CPU, torch.float32) is None
        another_process()
    assert len(checks) == 1 and "ok" in (home / trust.FILE).read_text()


def test_what_the_environment_says(plant, monkeypatch):
    checks = plant(ReferenceBackend, lambda *_: FAILED)
    for said, expected, count in (("0", None, 0), ("1", "failed", 1), ("1", "failed", 1), ("always", "failed", 2)):
        monkeypatch.setenv(trust.VARIABLE, said)
        another_process()
        reason = dispatch.no_kernels(CPU, torch.float32)
        assert reason is None if expected is None else expected in reason
        assert len(checks) == count
    monkeypatch.setenv(trust.VARIABLE, "yes")
    another_process()
    with pytest.raises(ValueError, match="HIFIGAN_FAST_SELF_CHECK: got 'yes', expected one of 0, 1, always"):
        hf.explain(hf.MultiPeriodDiscriminator((2,)))


def test_what_was_asked_for_by_name_is_not_replaced(plant):
    checks = plant(ReferenceBackend, lambda *_: FAILED)
    with hf.use_backend("triton"):
        assert " triton " in hf.explain(hf.MultiPeriodDiscriminator((2,)))
    assert not checks


def test_what_could_not_be_checked_is_not_used_and_tried_again(plant, home):
    checks = plant(ReferenceBackend, lambda *_: {"unchecked": "out of memory"})
    for count in (1, 2):
        (warning,) = called()[1]
        assert "kernels are unchecked on a planted device: out of memory; HIFIGAN_FAST_SELF_CHECK=0" in warning
        assert len(checks) == count and not (home / trust.FILE).exists()
        another_process()


@pytest.mark.parametrize("place", ["/dev/null", "/proc", "relative"])
def test_a_home_that_cannot_be_written(place, plant, monkeypatch, caplog):
    checks = plant(ReferenceBackend, lambda *_: RIGHT)
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    for _ in range(2):
        assert dispatch.no_kernels(CPU, torch.float32) is None
    assert len(checks) == 1
    assert "the verdict cannot be kept, each process checks for itself" in caplog.text


def test_a_write_that_fails_leaves_the_file_as_it_was(home, monkeypatch):
    cache.keep("a.json", lambda entries: entries.update(a=1))
    with pytest.raises(TypeError):
        cache.keep("a.json", lambda entries: entries.update(b=CPU))
    assert cache.read("a.json") == {"a": 1} and [path.name for path in home.iterdir()] == ["a.json"]


@pytest.mark.parametrize("kind", [ReferenceBackend, wrong.BiasForgotten])
def test_a_compilation_finds_the_verdict(kind, plant):
    checks = plant(kind)
    torch._dynamo.reset()
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    found = []
    compiled = torch.compile(mpd, backend=lambda graph, inputs: found.append(graph) or graph, fullgraph=True)
    right = kind is ReferenceBackend
    with contextlib.nullcontext() if right else pytest.warns(UserWarning, match="failed their check on a planted"):
        scores = compiled(*waves())[0]
    with hf.use_backend("modules"):
        expected = mpd(*waves())[0]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert len(checks) == 1 and ("hifigan_fast.ensemble" in str(found[0].graph)) is right


def test_info_shows_verdicts_and_checks_nothing(plant):
    checks = plant(ReferenceBackend, lambda backend, device, arithmetic: RIGHT if arithmetic == "float32" else FAILED)

    def shown():
        return {what: value for what, value in info.rows() if what.startswith("check of triton, ")}

    assert shown()["check of triton, float32"] == "not yet, its first use is checked" and not checks
    assert "speed of triton" not in dict(info.rows())  # of which nothing is known
    for dtype in (torch.float32, torch.bfloat16):
        dispatch.no_kernels(CPU, dtype)
    rows = shown()
    assert rows["check of triton, float32"].startswith("passed on 2") and rows["check of triton, float32"].endswith(
        "ok"
    )
    assert rows["check of triton, bfloat16"].startswith("FAILED on 2") and "37.00" in rows["check of triton, bfloat16"]
    assert rows["check of triton, float16"] == "not yet, its first use is checked" and len(checks) == 2


def test_what_the_triton_backend_meets(monkeypatch):
    """Its kernels' sources and configurations are a part of it: after a change, or `tune`, they are checked again."""
    pytest.importorskip("triton")
    from hifigan_fast.backends.gpu import devices
    from hifigan_fast.backends.triton import configs

    triton, cuda = TritonBackend(), torch.device("cuda", 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"device {device.index}")
    monkeypatch.setattr(configs, "devices", lambda: [])
    monkeypatch.setattr(devices, "_capability", lambda device: (8, 0))
    configs.forget_measured()
    found = triton.contact(cuda)
    assert list(found) == ["device", "hifigan_fast", "torch", "triton", "driver", "kernels", "configurations"]
    assert found["device"] == "device 7" and all(found.values()) and triton.contact(CPU) is None
    with configs.trying(configs.Config(16, 16, 16, 4, 2)):
        other = triton.contact(cuda)
    assert {what for what in found if found[what] != other[what]} == {"configurations"}
    monkeypatch.setattr(devices, "tf32", lambda device: True)
    words = [triton.arithmetic(cuda, dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert words == ["tf32", "bfloat16"]


def test_cuda_kernels_that_the_triton_backend_runs_are_a_part_of_what_it_meets(monkeypatch):
    """Where the table leaves layers to them, and they can run."""
    pytest.importorskip("triton")
    pytest.importorskip("cuda.bindings")
    from hifigan_fast.backends.cuda import compiler, driver
    from hifigan_fast.backends.gpu import devices
    from hifigan_fast.backends.triton import configs

    device = torch.device("cuda", 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device")
    monkeypatch.setattr(configs, "devices", lambda: [])
    monkeypatch.setattr(devices, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(driver, "missing", lambda: None)

    def met(way="cuda"):
        with ways.by(way):
            return TritonBackend().contact(device)

    found, alone = met(), met("triton")
    assert {"nvrtc", "cuda kernels"} < set(found) and all(found.values())
    assert {what for what in found if found[what] != alone.get(what)} == {"configurations", "nvrtc", "cuda kernels"}
    with monkeypatch.context() as patch:
        patch.setattr(driver, "missing", lambda: "no driver")
        assert set(met()) == set(alone)
    version, folder = compiler.version(), compiler.folder()
    monkeypatch.setattr(compiler, "version", lambda: (version[0], version[1] + 1))
    assert {what for what in found if found[what] != met()[what]} == {"nvrtc"}
    monkeypatch.setattr(compiler, "folder", lambda: folder / "nothing")
    assert {what for what in found if found[what] != met()[what]} == {"nvrtc", "cuda kernels"}


fork = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
needs_fork = pytest.mark.skipif(fork is None, reason="processes are forked here")


def started(target, *args):
    process = fork.Process(target=target, args=args)
    process.start()
    return process


def contact(log):
    """In a process of its own: a first contact whose check takes a moment and writes a line."""

    def run(*_):
        with log.open("a") as file:
            file.write("checked\n")
        time.sleep(0.3)
        return RIGHT

    trust.run = run
    os._exit(0 if dispatch.no_kernels(CPU, torch.float32) is None else 1)


@needs_fork
def test_of_processes_at_once_one_checks(plant, tmp_path):
    plant(ReferenceBackend)
    processes = [started(contact, tmp_path / "log") for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "checked\n"


def killed_in_its_check(begun):
    def run(*_):
        begun.touch()
        time.sleep(60)

    trust.run = run
    dispatch.no_kernels(CPU, torch.float32)


@needs_fork
def test_a_checker_that_dies_lets_the_next_one_check(plant, tmp_path):
    checks = plant(ReferenceBackend, lambda *_: RIGHT)
    process = started(killed_in_its_check, tmp_path / "begun")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert dispatch.no_kernels(CPU, torch.float32) is None and len(checks) == 1

"""The check of kernels in a process of its own: what it judges, what it says, and what is made of how it ends."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hifigan_fast import dispatch, parity, self_check, trust

from .wrong import backends as wrong

CPU = torch.device("cpu")
ENSEMBLES = dict(parity.ENSEMBLES)


pytestmark = pytest.mark.usefixtures("small_check")

CHILD = "import functools, json, os, time\n\nsay = functools.partial(print, flush=True)\n\ndef main(*what):\n"
ENDED = "the check ended with status"
CHILDREN = {
    "passed": ("say('{\"passed\": true}')", {"passed": True}),
    "said more": ("say('welcome\\n{\"passed\": true}')", {"passed": True}),
    "fell": ("os.kill(os.getpid(), 6)", {"passed": False, "figures": f"{ENDED} -6: nothing said"}),
    "fell when all was said": ("say('{\"passed\": true}'); os.kill(os.getpid(), 11)", {"passed": True}),
    "hangs": ("time.sleep(60)", {"passed": False, "figures": "no end within 1 s"}),
    "killed": ("os.kill(os.getpid(), 9)", {"unchecked": f"{ENDED} -9: nothing said"}),
    "raised": ("raise RuntimeError('a bug')", {"unchecked": f"{ENDED} 1: RuntimeError: a bug"}),
    "said nothing": ("pass", {"unchecked": f"{ENDED} 0: nothing said"}),
    "said something else": ("say('3')", {"unchecked": f"{ENDED} 0: nothing said"}),
    "arguments": (
        "say(json.dumps({'what': what, 'set': [k for k in os.environ if k.startswith('HIFIGAN')]}))",
        {"what": ["triton", "cuda:1", "tf32"], "set": [trust.VARIABLE]},
    ),
}


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child(body): the process of a check finds another package in the place of this one, whose check does that."""

    def make(body):
        package = tmp_path / "hifigan_fast"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "self_check.py").write_text(f"{CHILD}    {body}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    return make


@pytest.mark.parametrize("body, expected", CHILDREN.values(), ids=CHILDREN)
def test_the_process_of_a_check(body, expected, child, monkeypatch):
    """What it says, or how it ends, is the verdict."""
    child(body)
    monkeypatch.setenv("HIFIGAN_FAST_SAVE", "bf16")
    if "sleep" in body:
        monkeypatch.setattr(trust, "SECONDS", 1)
    assert trust.run("triton", "cuda:1", "tf32") == expected


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} in the process that waits")


def test_the_process_that_waits_runs_no_operation(child):
    """So that it may be in a capture, a compilation, or anywhere."""
    child("say('{\"passed\": true}')")
    before = torch.get_rng_state()
    with Nothing():
        assert trust.run("triton", "cuda", "float32") == {"passed": True}
    assert torch.equal(torch.get_rng_state(), before)


def test_no_process_to_check_in(monkeypatch):
    monkeypatch.setattr(trust.sys, "executable", "/no/such/python")
    assert "no process to check in: " in trust.run("triton", "cuda", "float32")["unchecked"]


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16", "float16", "tf32"])
def test_the_check_prints_a_verdict(arithmetic, capsys):
    self_check.main("reference", "cpu", arithmetic)
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and "ok, worst ratio " in found["figures"]
    assert torch.backends.cudnn.allow_tf32 is (arithmetic == "tf32")


def raises(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("no room\nand more"), {"unchecked": "OutOfMemoryError: no room"}),
        (RuntimeError("an illegal access"), {"passed": False, "figures": "RuntimeError: an illegal access"}),
        (AssertionError(), {"passed": False, "figures": "AssertionError: "}),
    ],
)
def test_what_a_check_raises(error, expected, monkeypatch, capsys):
    monkeypatch.setattr(self_check, "check", raises(error))
    self_check.main("reference", "cpu", "float32")
    assert json.loads(capsys.readouterr().out) == expected


def test_a_device_that_takes_no_second_process(monkeypatch, capsys):
    monkeypatch.setattr(self_check.torch, "zeros", raises(RuntimeError("busy or unavailable")))
    self_check.main("reference", "cpu", "float32")
    expected = "the device takes no second process: RuntimeError: busy or unavailable"
    assert json.loads(capsys.readouterr().out) == {"unchecked": expected}


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", wrong.ALL, ids=lambda cls: cls.__name__)
def test_the_check_catches_every_planted_bug(kind, monkeypatch):
    """With both ensembles, as on a device; few channels, and a short waveform."""
    monkeypatch.setattr(parity, "ENSEMBLES", ENSEMBLES)
    monkeypatch.setattr(self_check, "LENGTH", 400)
    planted = type(kind.__name__, (kind,), {"name": "triton"})  # operators know backends by name
    monkeypatch.setitem(dispatch.BACKENDS, "triton", planted())
    assert not self_check.judged("triton", CPU, "float32")["passed"]


@pytest.mark.exhaustive
def test_the_check_as_it_runs_on_a_device(monkeypatch):
    """A process of its own, real layers."""
    monkeypatch.setattr(trust, "SECONDS", 3600)
    found = trust.run("reference", "cpu", "bfloat16")
    assert found["passed"], found

"""What looks alike and is not: taken right or left alone with the reason, never silently wrong."""

import random
import re

import pytest
import torch
from torch import nn

import hifigan_fast as hf
from hifigan_fast.foreign.forward import FusedForward

from ..needs import needs_extension
from ..small import assert_alike
from .lookalikes import REFUSED, RIGHT, PadsNothing, Written
from .test_parity import results, waves

pytestmark = needs_extension


@pytest.mark.parametrize("build", RIGHT.values(), ids=RIGHT)
def test_taken_and_right(build):
    torch.manual_seed(0)
    module = build().train()
    inputs = waves(1 if isinstance(module, (Written, nn.Sequential)) else 2, 231)
    _, expected = results(module, inputs)
    report = hf.accelerate(module)
    assert "forward" in vars(module), str(report)
    _, found = results(module, inputs)
    assert_alike(found, expected)


def test_what_pads_nothing_raises_its_own_error_elsewhere():
    module = PadsNothing(3)
    assert hf.accelerate(module)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        module(*waves(1, 230))


@pytest.mark.parametrize("build, reason", REFUSED.values(), ids=REFUSED)
def test_left_alone_with_the_reason(build, reason):
    torch.manual_seed(0)
    module = build()
    before = {name: dict(vars(m)) for name, m in module.named_modules()}
    flags = [p.requires_grad for p in module.parameters()]
    state = torch.get_rng_state(), random.getstate()
    with pytest.warns(UserWarning, match="made nothing of"):
        report = hf.accelerate(module)
    assert not report and report.entries and report.entries[0].outcome == "left as it is"
    assert re.search(reason, report.entries[0].why)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert flags == [p.requires_grad for p in module.parameters()]
    for name, m in module.named_modules():
        assert vars(m).keys() == before[name].keys()
        assert all(vars(m)[key] is value for key, value in before[name].items())


def test_an_exception_in_a_probe_leaves_nothing_behind():
    class Raises(Written):
        def score(self, x):
            self.train()
            self.extra = 3
            self.conv_post.register_forward_hook(lambda *_: None)
            self.conv_post.bias.requires_grad_(False)
            raise RuntimeError("not like this")

    module = Raises(3).eval()
    with pytest.warns(UserWarning, match="a probe raised RuntimeError: not like this"):
        hf.accelerate(module)
    assert not module.training and not hasattr(module, "extra") and not module.conv_post._forward_hooks
    assert module.conv_post.bias.requires_grad


def test_a_wrong_pass_is_refused(monkeypatch):
    """The proof, not only the probe, stands between a mistake of ours and a training run."""
    right = FusedForward.maps

    def wrong(self, calls, order):
        return [[[m * (1 + 1e-4) for m in stack] for stack in wave] for wave in right(self, calls, order)]

    monkeypatch.setattr(FusedForward, "maps", wrong)
    with pytest.warns(UserWarning, match="would differ from its own"):
        assert not hf.accelerate(Written(3))


def half_built():
    module = Written(3)
    del module.conv_post
    return module


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda: nn.Linear(2, 2), "no discriminator of waveforms found"),
        (
            lambda: nn.Sequential(nn.Conv1d(80, 8, 7), nn.ConvTranspose1d(8, 4, 4), nn.Conv1d(4, 1, 7)),
            "no discriminator",
        ),
        (half_built, "a probe raised AttributeError"),
        (lambda: torch.compile(Written(3)), "compiled: accelerate a module, then compile it"),
        (lambda: torch.jit.trace(Written(3), waves(1), check_trace=False), "scripted"),
        (lambda: nn.DataParallel(Written(3)), "replicated at every call"),
    ],
    ids=["no discriminator", "a generator", "half built", "compiled", "scripted", "data parallel"],
)
def test_bad_input(build, reason):
    module = build()
    with pytest.warns(UserWarning, match=reason):
        assert not hf.accelerate(module)
    hf.restore(module)


@pytest.mark.parametrize("call", [hf.accelerate, hf.restore])
def test_what_is_no_module(call):
    with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got list"):
        call([Written(3)])


def test_a_device_without_kernels(monkeypatch):
    monkeypatch.setattr("hifigan_fast.dispatch.no_kernels", lambda device, dtype: "cpu: none here")
    with pytest.warns(UserWarning, match="no fused pass would run: cpu: none here"):
        assert not hf.accelerate(Written(3))

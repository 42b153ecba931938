"""Launches by the driver itself say what Triton's own launcher says, word by word: against a stub of the driver."""

import contextlib
import ctypes

import pytest
import torch
from torch import nn
from triton.runtime import driver as active

import hifigan_fast as hf
from benchmarks import host
from hifigan_fast.backends.gpu import driver, program
from hifigan_fast.backends.triton import launch
from hifigan_fast.bench.steps import FastLosses, discriminator_step, frozen_generator_step
from hifigan_fast.geometry import ensemble_of

HEARD = ctypes.CFUNCTYPE(None, ctypes.POINTER(driver.Config), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
BYTES = {"pointer": 8, "integer": 4, "fp32": 4, "fp64": 8}


def kinds_of(parameters):
    return [kind for kind, _ in parameters]


class Ear:
    """What the stub was asked to launch: grid, block, shared memory, stream, function and the parameters' bytes."""

    def __init__(self):
        self.heard, self.expected = [], []  # expected: the kinds of each launch's parameters to come
        self.callback = HEARD(self._hear)

    def _hear(self, config, function, parameters):
        c = config.contents
        kinds = self.expected.pop(0) if self.expected else ()
        words = [ctypes.string_at(parameters[i], BYTES[kind]) for i, kind in enumerate(kinds)]
        self.heard.append((list(c.grid), list(c.block), c.shared, c.stream, c.attribute_count, function, words))


@pytest.fixture
def ear(monkeypatch):
    """Listens to Triton's launcher; a device is there as for `benchmarks.host`."""
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", "")  # which the stub sets
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(driver, "_library", driver._library.__wrapped__)
    ear, stub = Ear(), host.stub_driver()
    place = ctypes.c_void_p.in_dll(stub, "heard")
    run = launch.Compiled.__call__

    def call(self, grid, stream, values):
        found = self.driven(values)
        ear.expected = [kinds_of(found[1])] if found else []
        run(self, grid, stream, values)

    monkeypatch.setattr(launch.Compiled, "__call__", call)
    place.value = ctypes.cast(ear.callback, ctypes.c_void_p).value
    with host.as_a_device():
        yield ear
    place.value = None
    with contextlib.suppress(RuntimeError):  # there is no device
        active.reset_active()


@pytest.fixture
def recorded(ear, monkeypatch):
    """[(a `Program`, where its slots' memory began, what Triton's launcher asked for when it was recorded)]."""
    found, begin, end = [], program.Recording.__init__, program.Recording.program

    def start(self, *args):
        begin(self, *args)
        self.before = len(ear.heard)

    def stop(self, results):
        made = end(self, results)
        if made:
            found.append((made, [first for first, *_ in self.slots], ear.heard[self.before :]))
        return made

    monkeypatch.setattr(program.Recording, "__init__", start)
    monkeypatch.setattr(program.Recording, "program", stop)
    return found


def small(norm):
    made = hf.MultiPeriodDiscriminator((2, 3))
    for own in made.discriminators:
        convs = [norm(nn.Conv2d(i, o, (5, 1), (3, 1), (2, 0))) for i, o in ((1, 8), (8, 16), (16, 1))]
        own.convs, own.conv_post = nn.ModuleList(convs[:-1]), convs[-1]
    return made


def step(modules):
    y, y_hat = torch.randn(2, 1, 1, 300).unbind()
    discriminator_step(modules, y, y_hat, FastLosses)
    frozen_generator_step(modules, y, y_hat, FastLosses)


def test_the_driver_is_asked_for_the_same(ear, recorded):
    modules = [small(nn.utils.weight_norm), small(nn.utils.spectral_norm)]
    step(modules)  # which compiles
    ensemble_of.cache_clear()
    recorded.clear()
    step(modules)
    assert len(recorded) == 6  # backward twice, of two ensembles, and one forward of each
    for made, addresses, launched in recorded:
        ear.heard.clear()
        ear.expected = [kinds_of(one.driven[2]) for one in made.launches]
        made.driven(0, 0, addresses)
        assert ear.heard == launched

"""Launches by the driver itself say what Triton's own launcher says, word by word: against a stub of the driver."""

import contextlib
import ctypes
import threading
from unittest import mock

import pytest
import torch
from torch import nn
from triton.runtime import driver as active

import hifigan_fast as hf
from benchmarks import host
from hifigan_fast.backends.cuda import kernels
from hifigan_fast.backends.cuda.driver import Loaded
from hifigan_fast.backends.gpu import driver, program
from hifigan_fast.backends.triton import launch, others
from hifigan_fast.bench.steps import FastLosses, discriminator_step, frozen_generator_step
from hifigan_fast.geometry import ensemble_of

from .. import ways

HEARD = ctypes.CFUNCTYPE(None, ctypes.POINTER(driver.Config), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
BYTES = {"pointer": 8, "fp32": 4, "fp64": 8}
INTEGER = {launch.Compiled: 4, Loaded: 8}  # bytes, by whose launch it is


def sizes_of(run, parameters):
    """Bytes of each parameter of a launch by `run`."""
    known = BYTES | {"integer": INTEGER[type(run)]}
    return [8 * len(value) if type(value) is tuple else known[kind] for kind, value in parameters]


class Ear:
    """What the stub was asked to launch: grid, block, shared memory, stream, function and the parameters' bytes."""

    def __init__(self):
        self.heard, self.expected = [], []  # expected: the sizes of each launch's parameters to come
        self.callback = HEARD(self._hear)

    def _hear(self, config, function, parameters):
        c = config.contents
        sizes = self.expected.pop(0) if self.expected else ()
        words = [ctypes.string_at(parameters[i], size) for i, size in enumerate(sizes)]
        self.heard.append((list(c.grid), list(c.block), c.shared, c.stream, c.attribute_count, function, words))


@pytest.fixture
def ear(monkeypatch):
    """Listens to Triton's launcher and to cuda-bindings'; a device is there as for `benchmarks.host`."""
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", "")  # which the stub sets
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(others.CUDA.kernels, "_loaded", {})
    monkeypatch.setattr(driver, "_library", driver._library.__wrapped__)
    ear, stub = Ear(), host.stub_driver()
    place = ctypes.c_void_p.in_dll(stub, "heard")
    for kind in INTEGER:

        def call(self, grid, stream, values, run=kind.__call__):
            found = self.driven(values)
            ear.expected = [sizes_of(self, found[1])] if found else []
            run(self, grid, stream, values)

        monkeypatch.setattr(kind, "__call__", call)
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


def test_a_pass_of_two_kinds_is_compiled_as_a_whole(ear):
    """By threads; the main one finds the code, and launches."""
    here = []

    def compiled(*_):
        here.append(threading.current_thread() is threading.main_thread())
        return b""

    ensemble_of.cache_clear()
    with ways.by("cuda"), mock.patch.object(kernels, "compiled", compiled):
        small(nn.utils.weight_norm)(*torch.randn(2, 1, 1, 300).unbind())
    assert here == [False, True]


@pytest.mark.parametrize("way", ["triton", "cuda"])
def test_the_driver_is_asked_for_the_same(way, ear, recorded):
    modules = [small(nn.utils.weight_norm), small(nn.utils.spectral_norm)]
    with ways.by(way):
        step(modules)  # which compiles
        ensemble_of.cache_clear()
        recorded.clear()
        step(modules)
    assert len(recorded) == 6  # backward twice, of two ensembles, and one forward of each
    for made, addresses, launched in recorded:
        ear.heard.clear()
        assert {type(one.run) for one in made.launches} == {launch.Compiled, *([Loaded] if way == "cuda" else [])}
        ear.expected = [sizes_of(one.run, one.driven[2]) for one in made.launches]
        made.driven(0, 0, addresses)
        assert ear.heard == launched

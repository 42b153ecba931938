"""Bad input: a clear error that names the argument, what came and what was expected, before any kernel runs."""

import functools

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import parity, reference


@pytest.fixture(scope="module")
def mpd():
    return hf.MultiPeriodDiscriminator((2, 3))


@pytest.fixture(scope="module")
def msd():
    return hf.MultiScaleDiscriminator()


WAVEFORMS = {
    "two dimensions": (torch.zeros(2, 400), ValueError, r"expected shape \[batch, 1, samples\], got \[2, 400\]"),
    "two channels": (torch.zeros(2, 2, 400), ValueError, r"expected shape .*, got \[2, 2, 400\]"),
    "integers": (torch.zeros(2, 1, 400, dtype=torch.int16), TypeError, "expected a floating dtype, got torch.int16"),
    "complex": (torch.zeros(2, 1, 400, dtype=torch.complex64), TypeError, "expected a floating dtype, got torch.compl"),
    "no samples": (torch.zeros(2, 1, 0), ValueError, r"expected at least one sample, got shape \[2, 1, 0\]"),
    "an array": (torch.zeros(2, 1, 400).numpy(), TypeError, "expected a tensor .*, got ndarray"),
}


@pytest.mark.parametrize("waveform, error, message", WAVEFORMS.values(), ids=WAVEFORMS)
@pytest.mark.parametrize("argument", ["y", "y_hat", "x"])
def test_waveforms(mpd, msd, waveform, error, message, argument):
    good = torch.zeros(2, 1, 400)
    with pytest.raises(error, match=f"^{argument}: {message}"):
        if argument == "x":
            mpd.discriminators[0](waveform)
        else:
            mpd(*((waveform, good) if argument == "y" else (good, waveform)))
    with pytest.raises(error, match=message):
        msd(waveform, good)


@pytest.mark.parametrize(
    "other, message",
    [
        (torch.zeros(2, 1, 401), r"y_hat: expected the shape of y, \[2, 1, 400\], got \[2, 1, 401\]"),
        (torch.zeros(1, 1, 400), r"y_hat: expected the shape of y"),
        (
            torch.zeros(2, 1, 400, dtype=torch.float64),
            r"y_hat: expected the dtype of y, torch.float32, got torch.float64",
        ),
        (torch.zeros(2, 1, 400, device="meta"), r"y_hat: expected the device of y, cpu, got meta"),
    ],
)
def test_pairs_that_differ(mpd, msd, other, message):
    for module in (mpd, msd):
        with pytest.raises(ValueError, match=message):
            module(torch.zeros(2, 1, 400), other)


def test_a_waveform_of_another_dtype_than_the_parameters(mpd):
    with pytest.raises(ValueError, match="x: expected the dtype of the parameters, torch.float32, got torch.float64"):
        mpd.discriminators[0](torch.zeros(1, 1, 400, dtype=torch.float64))


@pytest.mark.parametrize("length, period", [(1, 2), (5, 11), (3, 8)])
def test_too_short_for_the_reflect_pad(length, period):
    """PyTorch refuses it too, in its own words."""
    y = torch.zeros(1, 1, length)
    with pytest.raises(RuntimeError):
        reference.DiscriminatorP(period)(y)
    with pytest.raises(ValueError, match=f"x: {length} samples are too few for period {period}"):
        hf.DiscriminatorP(period)(y)
    with pytest.raises(ValueError, match=f"y: {length} samples are too few for period {period}"):
        hf.MultiPeriodDiscriminator((1, period))(y, y)


def test_too_short_for_a_layer_without_enough_padding():
    y = torch.zeros(1, 1, 40)
    with pytest.raises(RuntimeError):
        reference.DiscriminatorP(5, kernel_size=9)(y)
    with pytest.raises(ValueError, match="waveform: 40 samples are too short: layer 1"):
        hf.DiscriminatorP(5, kernel_size=9)(y)


def test_a_refused_call_does_not_move_the_spectral_norm(msd):
    before = [b.clone() for b in msd.buffers()]
    for bad in (torch.zeros(2, 1, 0), torch.zeros(2, 3, 400)):
        with pytest.raises(ValueError):
            msd(bad, bad)
    assert all(torch.equal(a, b) for a, b in zip(before, msd.buffers()))


@pytest.mark.parametrize("period", [0, -3, 2.0, "2", None, True])
@pytest.mark.parametrize("module", [hf, reference])
def test_periods(period, module):
    with pytest.raises(ValueError, match="period: expected an integer of at least 1, got"):
        module.DiscriminatorP(period)
    with pytest.raises(ValueError, match="period"):
        module.MultiPeriodDiscriminator((2, period))


@pytest.mark.parametrize("module", [hf, reference])
def test_other_constructor_arguments(module):
    for name in ("kernel_size", "stride"):
        for value in (0, 2.5, "5"):
            with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got"):
                module.DiscriminatorP(2, **{name: value})
    for periods in ((), 3, None):
        with pytest.raises(ValueError, match="periods: expected at least one period, got"):
            module.MultiPeriodDiscriminator(periods)


class Configuration(dict):
    """As BigVGAN's and HiFi-GAN's."""

    mpd_reshapes = (2, 3)


class Parameters:
    """As VITS's: neither a mapping nor to be iterated."""

    def __getattr__(self, name):
        return [name] * 20

    def __repr__(self):
        return "Parameters" * 20


@pytest.mark.parametrize("module", [hf, reference])
@pytest.mark.parametrize(
    "first, got",
    [
        (Configuration(resblock="1"), r"{'resblock': '1'}"),
        (Configuration({str(i): i for i in range(99)}), "a Configuration"),
        (Parameters(), "a Parameters"),
        (True, "True"),
        (False, "False"),
        (3.0, "3.0"),
        ("2357", "'2357'"),
        ([], r"\[\]"),
    ],
    ids=repr,
)
def test_what_other_projects_pass_in_the_place_of_periods(module, first, got):
    with pytest.raises(ValueError, match=f"periods: expected at least one .*, got {got}: .*=h.mpd_reshapes"):
        module.MultiPeriodDiscriminator(first)


@pytest.mark.parametrize("module", [hf, reference])
@pytest.mark.parametrize(
    "flag, got", [(Configuration(resblock="1"), r"{'resblock': '1'}"), ((2, 3), r"\(2, 3\)"), ("no", "'no'"), (2, "2")]
)
def test_what_other_projects_pass_in_the_place_of_a_flag(module, flag, got):
    """A configuration is true: it would be spectral norm in every discriminator, in silence."""
    for made in (module.MultiScaleDiscriminator, module.DiscriminatorS, functools.partial(module.DiscriminatorP, 2)):
        with pytest.raises(ValueError, match=f"use_spectral_norm: expected True or False, got {got}"):
            made(use_spectral_norm=flag)


@pytest.mark.parametrize("period", [0, -3, 2.0, "2", True])
def test_one_period_of_several(period):
    with pytest.raises(ValueError, match=f"period: expected an integer of at least 1, got {period!r}"):
        hf.MultiPeriodDiscriminator([period])


MPD, Y = hf.MultiPeriodDiscriminator((2,)), torch.zeros(1, 1, 300)


def returns(*found):
    """A module that returns what a pair is not judged by."""
    module = torch.nn.Module()
    module.forward = lambda y, y_hat: found[0] if len(found) == 1 else found
    return module


L, M = [Y[0]], [[Y]]


@pytest.mark.parametrize("half", [hf.discriminator_step_loss, hf.generator_step_loss, reference.generator_step_loss])
@pytest.mark.parametrize(
    "module, got",
    [
        (returns({"scores": L, "maps": M}), r"a dict \(scores, maps\)"),
        (returns(Y), "a Tensor"),
        (returns(L, M), r"a tuple \(list of 1, list of 1\)"),
        (returns(Y, L, M, M), r"a tuple \(Tensor, list of 1, list of 1, list of 1\)"),
        (returns(L, L, L, M), r"a tuple \(list of 1, "),
        (returns(M, L, M, M), r"a tuple \(list of 1, "),
        (returns(L, L, [[]], [[M]]), r"a tuple \(list of 1, "),
        (returns(L, L * 2, M, M), r"a tuple \(list of 1, list of 2, "),
        (returns([], [], [], []), r"a tuple \(list of 0, "),
        (returns(None), "a NoneType"),
    ],
)
def test_step_losses_of_modules_that_return_something_else(half, module, got):
    said = f"discriminators: expected modules that return four lists .*, got Module, which returned {got}"
    with pytest.raises(TypeError, match=said):
        half([module], Y, Y)


def test_step_losses_of_modules_that_return_what_they_should():
    module = returns((Y, Y), [Y, Y], [(Y, Y), [Y]], [[Y, Y], (Y,)])
    assert hf.generator_step_loss(module, Y, Y).features == 0
    assert hf.discriminator_step_loss(module, Y, Y).terms.shape == (2, 2)


class Scripted(torch.nn.Module):
    def forward(self, y: torch.Tensor, y_hat: torch.Tensor):
        return [y[0]], [y_hat[0]], [[y]], [[y_hat]]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_step_losses_of_a_scripted_module():
    found = hf.generator_step_loss(torch.jit.script(Scripted()), Y, Y + 1)
    assert (found.adversarial, found.features) == (0, 2)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: hf.frozen([MPD]).__enter__(), "modules: expected a torch.nn.Module, got list"),
        (lambda: hf.explain(None), "module: expected a torch.nn.Module, got NoneType"),
        (lambda: hf.generator_loss(MPD(Y, Y)), "disc_outputs: expected one tensor for each .*, got a list"),
        (lambda: hf.discriminator_loss([Y], [[Y]]), "disc_generated_outputs: expected one tensor"),
        (lambda: hf.generator_step_loss(MPD.discriminators[0], Y, Y), "discriminators: .* got DiscriminatorP, which"),
        (
            lambda: hf.generator_step_loss([MPD, Foreign()], Y, Y),
            ".* got Foreign, which does not take two",
        ),
        (lambda: hf.discriminator_step_loss(Y, Y, MPD), "discriminators: .* got Tensor"),
        (lambda: hf.discriminator_step_loss([], Y, Y), "discriminators: .* got none"),
    ],
)
def test_things_of_the_wrong_kind(call, said):
    with pytest.raises(TypeError, match=said):
        call()


class Foreign(torch.nn.Module):
    """A discriminator of somebody else's, without `convs`."""

    def forward(self, x):
        return x.flatten(1), [x]


def test_a_discriminator_from_elsewhere_runs_as_it_is():
    ensemble = hf.MultiPeriodDiscriminator((2,))
    ensemble.discriminators.insert(0, Foreign())
    y, y_hat = parity.waveforms(1, 300)
    logits, _, maps, _ = ensemble(y, y_hat)
    assert torch.equal(logits[0], y[:, 0]) and len(maps[1]) == 6
    assert hf.generator_step_loss(ensemble, y, y_hat).terms.shape == (2,)
    assert "a Foreign from elsewhere" in hf.explain(ensemble)

"""A step's losses in one call: the values and gradients of discriminators and losses apart."""

import contextlib

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.backends.reference import ReferenceBackend

from .wrong.backends import MapGradientForgotten

pytestmark = pytest.mark.usefixtures("narrow", "poisoned")
HALVES = ["discriminator", "generator"]


def judge(kind, half, ensembles, y, y_hat):
    if half == "discriminator":
        return kind.discriminator_step_loss(ensembles, y, y_hat)
    return kind.generator_step_loss(ensembles, y, y_hat)


def results(kind, half, ensembles, y, y_hat, weights=(1.0, 0.7), frozen=False, cast=None):
    """Every scalar, the terms, and every gradient; weights tell the losses' gradients apart."""
    y_hat = y_hat.clone().requires_grad_(half == "generator")
    for ensemble in ensembles:
        ensemble.zero_grad()
        ensemble.requires_grad_(not frozen)
    with torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
        *scalars, terms = judge(kind, half, ensembles, y, y_hat)
    sum(w * s for w, s in zip(weights, scalars)).backward()
    assert not terms.requires_grad
    return [*(s.detach() for s in scalars), terms, y_hat.grad, *(p.grad for e in ensembles for p in e.parameters())]


def assert_alike(found, expected, tolerance=1e-5):
    """Equal but for the order of sums: both come of the same maps, bit for bit."""
    assert [t is None for t in found] == [t is None for t in expected]
    for a, b in zip(found, expected):
        assert a is None or (a.dtype == b.dtype and (a - b).norm() <= tolerance * b.norm() + 1e-10), (a - b).norm()


def both(half, name, backend=None, frozen=False, dtype=None, cast=None, count=1):
    """In one call, and by the discriminators and then the losses."""
    found = []
    for kind in (hf, reference):
        ensembles = [parity.build_pair(name)[0].to(dtype or torch.float32) for _ in range(count)]
        y, y_hat = parity.waveforms(2, 1100, dtype or torch.float32)
        with hf.use_backend(backend) if backend else contextlib.nullcontext():
            found.append(results(kind, half, ensembles, y, y_hat, frozen=frozen, cast=cast))
    return found


CASES = [("discriminator", False), ("generator", False), ("generator", True)]


@pytest.mark.parametrize("half, frozen", CASES)
@pytest.mark.parametrize("name", ["mpd", "msd"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_one_call_is_discriminators_and_losses(name, half, frozen, backend):
    assert_alike(*both(half, name, backend, frozen))


@pytest.mark.parametrize("half, frozen", CASES)
def test_losses_of_half_precision_maps_are_float32(half, frozen):
    found, expected = both(half, "mpd", frozen=frozen, cast=torch.bfloat16)
    assert found[0].dtype == torch.float32
    assert_alike(found, expected, 2e-2)  # the gradients of maps are not rounded on their way


@pytest.mark.parametrize("half, frozen", CASES)
def test_float64_runs_module_by_module(half, frozen):
    assert_alike(*both(half, "mpd", frozen=frozen, dtype=torch.float64), tolerance=1e-12)


@pytest.mark.parametrize("half", HALVES)
def test_several_ensembles_and_the_terms_of_each(half):
    ensembles = [hf.MultiPeriodDiscriminator((2, 3)), hf.MultiScaleDiscriminator().eval()]
    y, y_hat = parity.waveforms(2, 700)
    *scalars, terms = judge(hf, half, ensembles, y, y_hat)
    apart = [judge(hf, half, e, y, y_hat) for e in ensembles]
    assert torch.equal(terms, torch.cat([found.terms for found in apart]))
    assert terms.shape == ((5, 2) if half == "discriminator" else (5,))
    torch.testing.assert_close(scalars[0], terms.sum())
    for index, scalar in enumerate(scalars):
        torch.testing.assert_close(scalar, sum(found[index] for found in apart))


def test_the_real_half_gets_its_gradient_where_it_is_wanted():
    grads = []
    for kind in (hf, reference):
        mpd = parity.build_pair("mpd")[0]
        y, y_hat = (x.requires_grad_() for x in parity.waveforms(1, 900))
        found = kind.generator_step_loss(mpd, y, y_hat)
        grads.append(torch.autograd.grad(found.features, [y, y_hat]))
    assert_alike(*grads)


def test_a_hook_on_the_ensemble_fires():
    mpd, seen = hf.MultiPeriodDiscriminator((2, 3)), []
    mpd.register_forward_hook(lambda *_: seen.append("ensemble"))
    hf.discriminator_step_loss(mpd, *parity.waveforms(1, 300))
    mpd.discriminators[0].register_forward_hook(lambda *_: seen.append("one"))
    hf.discriminator_step_loss(mpd, *parity.waveforms(1, 300))
    assert seen == ["ensemble", "one", "one", "ensemble"]


@pytest.mark.parametrize("half", HALVES)
def test_second_derivatives(half):
    grads = []
    for kind in (hf, reference):
        torch.manual_seed(0)
        mpd = hf.MultiPeriodDiscriminator((3,)).double()
        y, y_hat = (x.requires_grad_() for x in parity.waveforms(1, 300, torch.float64))
        with hf.use_backend("reference"):
            *scalars, _ = judge(kind, half, mpd, y, y_hat)
        first = torch.autograd.grad(sum(scalars), [y, y_hat], create_graph=True)
        sum(g.square().sum() for g in first).backward()
        grads.append([g.detach() for g in first] + [p.grad for p in mpd.parameters()])
    for ours, plain in zip(*grads):
        assert (ours is None or not ours.any()) if plain is None else (ours - plain).norm() <= 1e-9 * plain.norm()


class MatchingOfTheWrongSign(ReferenceBackend):
    def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
        wrong = None if matching is None else -matching
        super().input_grad(role, layer, slope, runs, grad_out, weights, saved, map_grads, wrong, grad_in)


@pytest.mark.parametrize("wrong", [MapGradientForgotten, MatchingOfTheWrongSign])
def test_a_planted_bug_is_caught(wrong, monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "reference", wrong())
    found = both("generator", "mpd", "reference", True)[0]
    monkeypatch.undo()
    right = both("generator", "mpd", "reference", True)[1]
    assert (found[3] - right[3]).norm() > 1e-2 * right[3].norm()


def test_what_is_no_ensemble_is_refused():
    y, y_hat = parity.waveforms(1, 300)
    for wrong in ([], [3], None):
        with pytest.raises(TypeError, match="discriminators: expected a module or a sequence of modules"):
            hf.discriminator_step_loss(wrong, y, y_hat)
    with pytest.raises(ValueError, match="y_hat: expected the shape of y"):
        hf.generator_step_loss(hf.MultiPeriodDiscriminator((2,)), y, y_hat[..., 1:])


def test_no_gradient_of_a_map_is_in_memory(monkeypatch):
    """But for the heads': a backend is given the other side's maps."""
    given = []

    class Watching(ReferenceBackend):
        def input_grad(self, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
            inside = saved.data_ptr(), saved.data_ptr() + saved.numel() * saved.itemsize
            given.extend(m is not None and inside[0] <= m.data_ptr() < inside[1] for m in map_grads)
            super().input_grad(role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)

    monkeypatch.setitem(dispatch.BACKENDS, "reference", Watching())
    results = both("generator", "mpd", "reference", True)[0]
    assert results and given[: len(given) // 2] == [True] * (5 * 5)


def test_what_only_y_moves_has_its_gradient():
    mpd = hf.MultiPeriodDiscriminator((2,)).requires_grad_(False)
    y, y_hat = parity.waveforms(1, 300)
    found = hf.generator_step_loss(mpd, y.requires_grad_(), y_hat)
    assert not found.adversarial.requires_grad and found.features.requires_grad


def test_float64_stays_float64_on_a_fused_pass():
    mpd = hf.MultiPeriodDiscriminator((2, 3)).double().requires_grad_(False)
    y, y_hat = parity.waveforms(1, 300, torch.float64)
    with hf.use_backend("reference"):
        grads = [
            torch.autograd.grad(sum(kind.generator_step_loss(mpd, y, y_hat.requires_grad_())[:2]), y_hat)[0]
            for kind in (hf, reference)
        ]
    assert (grads[0] - grads[1]).norm() <= 1e-12 * grads[1].norm()


def test_a_subclass_that_changes_nothing_is_fused(monkeypatch):
    class Own(hf.MultiPeriodDiscriminator):
        pass

    own = Own((2, 3))
    monkeypatch.setattr(own.discriminators[0], "_call_impl", lambda *_: pytest.fail("called"))
    hf.discriminator_step_loss(own, *parity.waveforms(1, 300))

"""What the backward pass computes, for whom, and what it leaves out."""

import collections
import threading

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.backends.reference import ReferenceBackend
from hifigan_fast.geometry import Layer
from hifigan_fast.passes.autograd import run_ensemble
from hifigan_fast.passes.call import Call

from .small import SmallEnsemble, assert_alike, plain_maps

pytestmark = pytest.mark.usefixtures("narrow", "poisoned")


class Counting(ReferenceBackend):
    """Counts the one-sided passes of convolutions and heads: calls × runs."""

    def __init__(self):
        self.passes = collections.Counter()

    def forward(self, role, layer, runs, *args):
        self.passes["forward"] += len(runs)
        super().forward(role, layer, runs, *args)

    def input_grad(self, role, layer, slope, runs, *args):
        self.passes["input gradient"] += len(runs)
        super().input_grad(role, layer, slope, runs, *args)

    def stem_input_grad(self, layer, runs, *args):
        self.passes["waveform gradient"] += len(runs)
        super().stem_input_grad(layer, runs, *args)

    def weight_grad(self, role, layer, runs, *args):
        self.passes["weight gradient"] += len(runs)
        return super().weight_grad(role, layer, runs, *args)


@pytest.fixture
def counted(monkeypatch):
    backend = Counting()
    monkeypatch.setitem(dispatch.BACKENDS, "reference", backend)
    with hf.use_backend("reference"):
        yield backend.passes


def test_a_discriminator_step_computes_no_waveform_gradient(counted):
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 300)
    hf.discriminator_loss(*mpd(y, y_hat)[:2])[0].backward()
    members, depths = 2 * 2, 6
    assert counted == {
        "forward": members * depths,
        "input gradient": members * (depths - 1),
        "weight gradient": members * depths,
    }


def test_a_generator_step_with_frozen_discriminators_leaves_the_real_half_alone(counted):
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 300)
    y_hat.requires_grad_()
    with hf.frozen(mpd):
        _, generated, real_maps, fake_maps = mpd(y, y_hat)
        (hf.generator_loss(generated)[0] + hf.feature_loss(real_maps, fake_maps)).backward()
    assert counted == {"forward": 4 * 6, "input gradient": 2 * 5, "waveform gradient": 2}
    assert y_hat.grad.abs().sum() > 0
    assert all(p.grad is None for p in mpd.parameters())
    assert all(p.requires_grad for p in mpd.parameters()), "frozen puts the flags back"


def test_lower_layers_are_left_out_where_only_the_head_trains(counted):
    mpd = hf.MultiPeriodDiscriminator((2,)).requires_grad_(False)
    mpd.discriminators[0].conv_post.requires_grad_(True)
    hf.discriminator_loss(*mpd(*parity.waveforms(1, 300))[:2])[0].backward()
    assert counted == {"forward": 2 * 6, "weight gradient": 2}


def test_frozen_puts_back_mixed_flags_also_after_an_error():
    d = hf.DiscriminatorP(2)
    d.convs[1].bias.requires_grad_(False)
    with pytest.raises(KeyError), hf.frozen(d):
        assert not any(p.requires_grad for p in d.parameters())
        raise KeyError
    assert [n for n, p in d.named_parameters() if not p.requires_grad] == ["convs.1.bias"]


def requires(module, y, y_hat):
    return [t.requires_grad for part in module(y, y_hat) for own in part for t in (own if type(own) is list else [own])]


@pytest.mark.parametrize("real, fake", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("trainable", ["all", "none", "from the third layer on"])
def test_outputs_require_a_gradient_where_the_references_do(real, fake, trainable):
    flags = []
    for cls in (hf.MultiPeriodDiscriminator, reference.MultiPeriodDiscriminator):
        module = cls((2, 3)).requires_grad_(trainable == "all")
        if trainable == "from the third layer on":
            for d in module.discriminators:
                d.convs[2].requires_grad_(True)
        y, y_hat = parity.waveforms(1, 200)
        flags.append(requires(module, y.requires_grad_(real), y_hat.requires_grad_(fake)))
    assert flags[0] == flags[1]


@pytest.mark.parametrize("used", ["one logit", "one deep map", "one shallow map", "real maps only"])
def test_partial_use_of_the_outputs(used):
    ours, plain = parity.build_pair("mpd")
    grads = []
    for module in (ours, plain):
        y, y_hat = (x.requires_grad_() for x in parity.waveforms(1, 500))
        real, _, real_maps, fake_maps = module(y, y_hat)
        picked = {
            "one logit": [real[1]],
            "one deep map": [fake_maps[2][4]],
            "one shallow map": [fake_maps[0][0]],
            "real maps only": real_maps[3][:3],
        }[used]
        leaves = [y, y_hat, *module.parameters()]
        grads.append(torch.autograd.grad(sum(m.square().sum() for m in picked), leaves, allow_unused=True))
    for ours_grad, plain_grad in zip(*grads):
        assert (ours_grad is None) == (plain_grad is None), "an optimizer takes zeros for a gradient"
        assert plain_grad is None or (ours_grad - plain_grad).norm() <= 1e-4 * plain_grad.norm()


def test_nothing_is_saved_without_a_graph():
    mpd = hf.MultiPeriodDiscriminator((2,))
    y, y_hat = parity.waveforms(1, 300)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert mpd(y, y_hat)[0][0].grad_fn is None
    with hf.frozen(mpd):
        assert mpd(y, y_hat)[0][0].grad_fn is None


def test_gradients_accumulate_over_calls():
    mpd = hf.MultiPeriodDiscriminator((2,))
    y, y_hat = parity.waveforms(1, 300)
    for _ in range(2):
        hf.discriminator_loss(*mpd(y, y_hat)[:2])[0].backward()
    twice = [p.grad.clone() for p in mpd.parameters()]
    mpd.zero_grad()
    hf.discriminator_loss(*mpd(y, y_hat)[:2])[0].backward()
    for a, p in zip(twice, mpd.parameters()):
        torch.testing.assert_close(a, 2 * p.grad)


TINY = (Layer(1, 2, 3, 2, 1), Layer(2, 4, 3, 1, 1, groups=2), Layer(4, 1, 3, 1, 1, slope=1.0))


@pytest.mark.parametrize("norm", ["weight", "spectral", "mixed", "none"])
@pytest.mark.parametrize("folded", [True, False])
def test_gradcheck_and_gradgradcheck(norm, folded):
    small = SmallEnsemble(TINY, (2, 3), folded, samples=1, length=9, norm=norm, sigmas=2)
    waves, layers, states, leaves = small.leaves(torch.float64)

    def run(*flat):
        flat = iter(flat)
        moved_waves = [[next(flat) for _ in side] for side in waves]
        moved = [
            [type(p)(next(flat), None if p.magnitude is None else next(flat), next(flat)) for p in own]
            for own in layers
        ]
        for stack, own in zip(small.ensemble.set_stacks, states):
            for state, p in zip(own, moved[stack]):
                if state is not None:
                    state.sigma = torch.dot(state.u, p.raw.detach().flatten(1) @ state.v)
        maps = run_ensemble(Call(ReferenceBackend(), small.ensemble, torch.float64, states), moved_waves, moved)
        return tuple(m for side in maps for own in side for m in own)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_a_gradient_penalty_has_the_references_second_derivatives(name):
    results = []
    for module in parity.build_pair(name):
        y, y_hat = (x.requires_grad_() for x in parity.waveforms(1, 300, torch.float64))
        with hf.use_backend("reference"):  # float64 through the fused pass
            real, generated, _, fake_maps = module.double()(y, y_hat)
        score = sum(s.sum() for s in (*real, *generated)) + sum(m.square().mean() for own in fake_maps for m in own)
        grads = torch.autograd.grad(score, (y, y_hat), create_graph=True)
        sum(g.square().sum() for g in grads).backward()
        results.append([p.grad for p in module.parameters()])
    for ours, plain in zip(*results):
        if plain is None or not plain.any():
            assert ours is None or not ours.any()
        else:
            assert (ours - plain).norm() <= 1e-9 * plain.norm()


def test_feature_loss_is_differentiable_twice():
    real = torch.randn(3, 4, dtype=torch.float32)
    fake = torch.randn(3, 4, requires_grad=True)
    loss = hf.feature_loss([[real]], [[fake * fake]])
    (grad,) = torch.autograd.grad(loss, fake, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), fake)
    torch.testing.assert_close(second, 2 * 2 * (fake * fake - real).sgn() / 12)


def test_the_same_bits_for_any_number_of_python_threads():
    """Several threads call at once; each gets what a lone call gets."""
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(2, 900)
    y_hat.requires_grad_()

    def run():
        result = mpd(y, y_hat)
        loss = hf.generator_loss(result[1])[0] + hf.feature_loss(result[2], result[3])
        return [loss.detach(), *torch.autograd.grad(loss, [y_hat, *mpd.parameters()])]

    expected, results = run(), [None] * 4

    def work(index):
        results[index] = run()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(result, expected))


def test_the_small_ensembles_counterpart_is_the_reference():
    """The tests' own plain formulation agrees with the reference modules."""
    plain = reference.DiscriminatorP(3)
    y, _ = parity.waveforms(2, 250)
    ours = hf.DiscriminatorP(3)
    ours.load_state_dict(plain.state_dict())
    from hifigan_fast.discriminators import convs_of, stack_of
    from hifigan_fast.geometry import Ensemble
    from hifigan_fast.norms import Parameters

    ensemble = Ensemble((stack_of(ours),), (0,), (250,), 2, 1, ((0,),))
    parameters = [[Parameters(c.weight_v.squeeze(3), c.weight_g.squeeze(3), c.bias) for c in convs_of(ours)]]
    maps = plain_maps(ensemble, [[y]], parameters, [[None] * 6])
    for a, b in zip(maps, plain(y)[1]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def gradients(module, run):
    """Parameter gradients after `run(module)` gave a loss."""
    module.zero_grad()
    run(module).backward()
    return [p.grad for p in module.parameters()]


def agree(run, name="msd", tolerance=1e-4, change=lambda module: None, trained=True):
    """The drop-in and the reference have equal gradients after `change(module)`."""
    pair = parity.build_pair(name, trained=trained)
    for module in pair:
        change(module)
    assert_alike(*(gradients(module, run) for module in pair), tolerance)


def discriminator_step(module):
    return reference.discriminator_loss(*module(*parity.waveforms(1, 500))[:2])[0]


@pytest.mark.parametrize("trained", [True, False])
def test_spectral_norms_gradient_has_each_sides_singular_vectors(trained):
    agree(discriminator_step, trained=trained)


def test_weight_and_spectral_norm_in_one_discriminator():
    def mix(module):
        torch.manual_seed(0)
        for d in module.discriminators:
            torch.nn.utils.remove_weight_norm(d.conv_post)
            torch.nn.utils.spectral_norm(d.conv_post)

    agree(discriminator_step, "mpd", change=mix)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_activation_checkpointing(name, reentrant):
    def run(module):
        y, y_hat = parity.waveforms(1, 500)
        y.requires_grad_()
        logits = torch.utils.checkpoint.checkpoint(
            lambda *pair: tuple(s for side in module(*pair)[:2] for s in side), y, y_hat, use_reentrant=reentrant
        )
        return sum(s.square().mean() for s in logits)

    agree(run, name, trained=False, tolerance=1e-3)


def test_spectral_vectors_that_move_before_backward_raise_as_in_the_reference():
    y, y_hat = parity.waveforms(1, 400)
    for cls in (hf.DiscriminatorS, reference.DiscriminatorS):
        d = cls(use_spectral_norm=True).eval()
        score, _ = d(y)
        d.train()
        d(y_hat)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            score.square().sum().backward()


def test_saved_tensor_hooks_reach_all_that_is_saved():
    packed = []
    mpd = hf.MultiPeriodDiscriminator((2,))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
        loss = discriminator_step(mpd)
    loss.backward()
    assert len(packed) > 6


def apart(t):
    return torch.stack([t, torch.full_like(t, 7)], -1)[..., 0]


def turned(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("unpack", [apart, turned, lambda t: torch._neg_view(-t)], ids=["apart", "turned", "negated"])
def test_saved_tensors_that_come_back_in_another_layout(backend, unpack):
    """Only their addresses reach the kernels, which would read what lies between the elements."""
    if backend == "cpu" and dispatch.refusal(dispatch.BACKENDS["cpu"], torch.device("cpu"), torch.float32):
        pytest.skip("no C++ extension")
    mpd, waves = hf.MultiPeriodDiscriminator((2,)), parity.waveforms(1, 300)
    found = []
    for hook in (lambda t: t, unpack):
        with hf.use_backend(backend), torch.autograd.graph.saved_tensors_hooks(lambda t: t, hook):
            _, generated, *maps = mpd(*waves)
            step = hf.generator_step_loss(mpd, *waves)
            loss = hf.generator_loss(generated)[0] + hf.feature_loss(*maps) + step.adversarial + step.features
            found.append(torch.autograd.grad(loss, list(mpd.parameters())))
    for expected, ours in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_undefined_gradients_under_create_graph():
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    y, y_hat = parity.waveforms(1, 300)
    score = Nothing.apply(hf.MultiPeriodDiscriminator((2,))(y.requires_grad_(), y_hat)[0][0]).sum()
    assert torch.autograd.grad(score, y, create_graph=True, allow_unused=True) == (None,)


def batched_by_autograd(out, wanted, grads):
    return torch.autograd.grad(out, wanted, grads, is_grads_batched=True)


def batched_by_vmap(out, wanted, grads):
    return torch.vmap(lambda grad: torch.autograd.grad(out, wanted, grad, retain_graph=True))(grads)


@pytest.mark.parametrize("batched", [batched_by_autograd, batched_by_vmap])
@pytest.mark.parametrize("by", ["scores", "feature loss", "step loss"])
def test_a_batch_of_gradients_at_once(by, batched):
    """Jacobians."""
    y, y_hat = parity.waveforms(1, 300)
    found = []
    for module in parity.build_pair("mpd"):
        x = y_hat.clone().requires_grad_()
        if by == "step loss" and isinstance(module, hf.MultiPeriodDiscriminator):
            loss = hf.generator_step_loss([module], y, x)
            out = torch.stack([loss.adversarial, loss.features])
        else:
            _, scores, maps, others = module(y, x)
            out = torch.stack([reference.generator_loss(scores)[0], hf.feature_loss(maps, others)])
            out = scores[0][0, :2] if by == "scores" else out
        wanted = [x, *module.discriminators[0].convs[1].parameters()]
        found.append(batched(out, wanted, torch.eye(2)))
    for plain, ours in zip(*found):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-7)


def test_lazily_negated_gradients():
    mpd = hf.MultiPeriodDiscriminator((2,))
    y, y_hat = parity.waveforms(1, 300)
    results = []
    for negate in (torch.neg, torch._neg_view):
        deep = mpd(y.requires_grad_(), y_hat)[2][0][1]
        results.append(torch.autograd.grad(deep, y, negate(torch.ones_like(deep)))[0])
    assert torch.equal(*results)


def test_a_real_half_in_inference_mode_under_frozen_discriminators():
    mpd = hf.MultiPeriodDiscriminator((2,))
    with torch.inference_mode():
        y, _ = parity.waveforms(1, 300)
    y_hat = parity.waveforms(1, 300)[1].requires_grad_()
    with hf.frozen(mpd):
        hf.generator_loss(mpd(y, y_hat)[1])[0].backward()
    assert y_hat.grad.abs().sum() > 0

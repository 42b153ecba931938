"""What a call keeps of its module for the next one is never stale, and goes with it."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import hifigan_fast as hf
from hifigan_fast import dispatch, norms, parity

from .small import assert_same


def step(module, y, y_hat, backend):
    """A discriminator's step, down to the waveform: all that comes out, and all that is left behind."""
    module.zero_grad()
    y_hat = y_hat.clone().requires_grad_()
    with hf.use_backend(backend):
        real, generated, maps, _ = module(y, y_hat)
        loss = hf.discriminator_loss(real, generated)[0]
        (loss + maps[0][1].square().sum()).backward()
    return [loss.detach(), y_hat.grad, *(p.grad for p in module.parameters()), *(b.clone() for b in module.buffers())]


def a_parameter_replaced(module):
    conv = module.discriminators[0].convs[1]
    conv.bias = nn.Parameter(conv.bias.detach() + 1)


def a_parameter_replaced_by_its_equal(module):  # whose gradient is wanted from then on
    conv = module.discriminators[0].conv_post
    conv.bias = nn.Parameter(conv.bias.detach().clone())


def a_parameter_elsewhere_in_memory(module):
    for conv in module.discriminators[0].convs:
        conv.bias.data = torch.stack([conv.bias.data + 1, conv.bias.data], 1)[:, 0]


def a_parameter_not_aligned(module):
    raw = module.discriminators[1].convs[1].weight_v
    raw.data = torch.cat([raw.data.new_zeros(1), raw.data.flatten() * 2])[1:].view_as(raw)


def other_values_loaded(module):
    module.load_state_dict({name: 1.25 * value for name, value in module.state_dict().items()})


def other_tensors_loaded(module):
    module.load_state_dict({name: 1.25 * value for name, value in module.state_dict().items()}, assign=True)


def frozen_in_part(module):
    module.discriminators[0].convs[0].weight_v.requires_grad_(False)
    module.discriminators[1].requires_grad_(False)


def a_hook(module):
    module.discriminators[0].convs[1].register_forward_hook(lambda conv, args, out: 2 * out)


def a_hook_before(module):
    module.discriminators[1].register_forward_pre_hook(lambda d, args: (2 * args[0],))


def a_hook_on_gradients(module):
    module.discriminators[1].convs[0].register_full_backward_hook(
        lambda conv, ins, outs: tuple(None if grad is None else 3 * grad for grad in ins)
    )


def a_parametrization(module):
    for d in module.discriminators:
        nn.utils.remove_weight_norm(d.convs[0])
        nn.utils.parametrizations.weight_norm(d.convs[0])
    module.discriminators[0].convs[0].parametrizations.weight.original0.data.mul_(2)


def a_norm_removed(module):
    nn.utils.remove_weight_norm(module.discriminators[1].convs[1])


def another_norm(module):
    nn.utils.remove_weight_norm(module.discriminators[0].convs[1])
    nn.utils.spectral_norm(module.discriminators[0].convs[1])


def another_stride(module):
    for d in module.discriminators:
        d.convs[1].stride = (1, 1)


def a_head_of_two_channels(module):
    for d in module.discriminators:
        d.conv_post = nn.Conv2d(d.conv_post.in_channels, 2, (3, 1), 1, (1, 0))


def more_channels_than_it_says(module):
    for d in module.discriminators:
        d.conv_post.weight_v = nn.Parameter(d.conv_post.weight_v.detach().repeat(2, 1, 1, 1))
        d.conv_post.weight_g = nn.Parameter(d.conv_post.weight_g.detach().repeat(2, 1, 1, 1))
        d.conv_post.bias = nn.Parameter(d.conv_post.bias.detach().repeat(2))


def more_taps_than_it_says(module):
    for d in module.discriminators:
        raw = d.convs[1].weight_v.detach()
        d.convs[1].weight_v = nn.Parameter(torch.cat([raw, raw[:, :, :2]], 2))


def another_period(module):
    module.discriminators[1].period = 5


def a_forward_of_its_own(module):
    module.discriminators[1].forward = lambda x: hf.DiscriminatorP.forward(module.discriminators[1], 2 * x)


def a_convolution_replaced(module):
    module.discriminators[0].convs[1] = copy.deepcopy(module.discriminators[0].convs[1])
    module.discriminators[0].convs[1].bias.data.add_(1)


def a_discriminator_replaced(module):
    module.discriminators[1] = copy.deepcopy(module.discriminators[1])
    module.discriminators[1].convs[0].bias.data.add_(1)


def one_discriminator_less(module):
    del module.discriminators[1]


CHANGES = [
    a_parameter_replaced,
    a_parameter_replaced_by_its_equal,
    a_parameter_elsewhere_in_memory,
    a_parameter_not_aligned,
    other_values_loaded,
    other_tensors_loaded,
    frozen_in_part,
    a_hook,
    a_hook_before,
    a_hook_on_gradients,
    a_parametrization,
    a_norm_removed,
    another_norm,
    another_stride,
    a_head_of_two_channels,
    more_channels_than_it_says,
    more_taps_than_it_says,
    another_period,
    a_forward_of_its_own,
    a_convolution_replaced,
    a_discriminator_replaced,
    one_discriminator_less,
]


@pytest.fixture
def mpd(narrow):
    torch.manual_seed(0)
    return hf.MultiPeriodDiscriminator((2, 3))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_module_is_read_again(mpd, change, backend="reference"):
    y, y_hat = parity.waveforms(1, 60)
    for _ in range(2):  # the second by what the first has kept
        step(mpd, y, y_hat, backend)
    change(mpd)
    twin = copy.deepcopy(mpd) if change is not a_forward_of_its_own else mpd
    assert_same(step(mpd, y, y_hat, backend), step(twin, y, y_hat, "modules"))


def test_channels_that_do_not_meet_raise_what_pytorch_says(mpd):
    for d in mpd.discriminators:
        d.convs[1] = nn.Conv2d(2, d.convs[1].out_channels, (5, 1), (3, 1), (2, 0))
    assert "convs.1 takes 2 channels of 4" in hf.explain(mpd)
    with pytest.raises(RuntimeError, match="to have 2 channels, but got 4 channels"):
        mpd(*parity.waveforms(1, 60))


def test_training_and_evaluation_alternate(narrow, backend="reference"):
    """Spectral norm moves in the one, and not in the other."""
    torch.manual_seed(0)
    module = hf.MultiPeriodDiscriminator((2, 3), use_spectral_norm=True)
    twin, (y, y_hat) = copy.deepcopy(module), parity.waveforms(1, 60)
    for training in (True, True, False, True):
        found, right = (step(m.train(training), y, y_hat, how) for m, how in ((module, backend), (twin, "modules")))
        assert_same(found, right)
    for m in (module, twin):
        for conv in (*m.discriminators[0].convs, m.discriminators[1].conv_post):
            next(iter(conv._forward_pre_hooks.values())).n_power_iterations = 2
    assert_same(step(module, y, y_hat, backend), step(twin, y, y_hat, "modules"))


def test_a_cast_is_seen(mpd):
    y, y_hat = parity.waveforms(1, 60)
    mpd(y, y_hat)
    mpd.discriminators[0].convs[1].double()
    with pytest.raises(ValueError, match="y: expected the dtype of the parameters, torch.float64, got torch.float32"):
        mpd(y, y_hat)
    mpd.double()
    assert mpd(y.double(), y_hat.double())[0][0].dtype == torch.float64
    mpd.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert mpd(y, y_hat)[0][0].dtype == torch.bfloat16
    assert mpd(y, y_hat)[0][0].dtype == torch.float32


@pytest.fixture
def no_collector():
    """What is dropped goes at once, or not at all: nobody looks for cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind, waveforms", [(hf.MultiPeriodDiscriminator, 2), (hf.DiscriminatorP, 1)])
def test_a_module_that_was_read_can_go(kind, waveforms, narrow, no_collector):
    module = kind((2,)) if waveforms == 2 else kind(2)
    for _ in range(2):
        module(*parity.waveforms(1, 60)[:waveforms])
    left = weakref.ref(module), weakref.ref(next(module.parameters()))
    del module
    assert [own() for own in left] == [None, None]


@pytest.mark.parametrize("leaf", [True, False])
def test_tensors_that_stand_in_for_parameters_can_go(mpd, no_collector, leaf):
    def scores(stand_ins):
        return torch.func.functional_call(mpd, stand_ins, parity.waveforms(1, 60))[0]

    own = {name: p.detach() if leaf else 1 * p for name, p in mpd.named_parameters()}
    found, left = scores(own), [weakref.ref(tensor) for tensor in own.values()]
    assert_same(found, mpd(*parity.waveforms(1, 60))[0])
    scores(own)
    del own, found
    assert not any(tensor() is not None for tensor in left)


def plainly(module):
    return hf.use_backend("modules")


def hooked(module):
    for d in module.discriminators:
        d.convs[0].register_forward_hook(lambda *_: None)
    return contextlib.nullcontext()


@pytest.mark.parametrize("how", [plainly, hooked])
def test_weights_that_plain_pytorch_made_can_go(mpd, how, no_collector):
    """Legacy weight norm makes them anew in each call."""
    with how(mpd):
        mpd(*parity.waveforms(1, 60))
        left = weakref.ref(mpd.discriminators[0].convs[0].weight)
        mpd(*parity.waveforms(1, 60))
    assert left() is None


def test_nothing_is_read_where_no_pass_runs(mpd, monkeypatch):
    monkeypatch.setattr(norms, "unreadable", lambda conv: pytest.fail("read"))
    with hf.use_backend("modules"):
        mpd(*parity.waveforms(1, 60))
    mpd.half()(*parity.waveforms(1, 60, torch.float16))


@pytest.mark.parametrize("kind", [hf.DiscriminatorP, hf.MultiPeriodDiscriminator])
def test_a_patched_class_is_seen(mpd, monkeypatch, kind):
    """Of a discriminator by its ensemble, of an ensemble by the step losses; and when the patch is gone."""

    def results(*waves):
        return [*mpd(*waves)[0], hf.generator_step_loss(mpd, *waves).terms]

    waves, own = parity.waveforms(1, 60), kind.forward
    louder, right = results(*(40 * wave for wave in waves)), results(*waves)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", lambda self, *waves: own(self, *(40 * wave for wave in waves)))
        assert_same(results(*waves), louder)
        assert ("is patched" in hf.explain(mpd)) == (kind is hf.DiscriminatorP)
    assert_same(results(*waves), right)


def test_a_module_that_its_own_contents_lead_to_can_go(narrow):
    """As one that a hook's object holds: a cycle, which Python collects."""

    class Logger:
        def __init__(self, module):
            self.module = module
            module.register_forward_hook(self.hook)

        def hook(self, *_):
            pass

    module, y = hf.MultiPeriodDiscriminator((2,)), torch.zeros(1, 1, 300)
    Logger(module)
    module(y, y)
    found = weakref.ref(module)
    del module
    gc.collect()
    assert found() is None


def test_a_copy_is_read_for_itself(narrow):
    """Also a shallow one, which shares all that the first holds."""
    module, y = hf.DiscriminatorP(2), torch.randn(1, 1, 300)
    module(y)
    for other in (copy.copy(module), copy.deepcopy(hf.DiscriminatorP(2))):
        other._parameters, other._modules = dict(other._parameters), dict(other._modules)
        other.conv_post = nn.utils.weight_norm(nn.Conv2d(128, 1, (3, 1), 1, (1, 0)))
        with hf.use_backend("modules"):
            right = other(y)[0]
        assert torch.allclose(other(y)[0], right, atol=1e-5)
        assert not torch.allclose(module(y)[0], right, atol=1e-5)


def test_another_backend_another_call(mpd):
    y, y_hat = parity.waveforms(1, 60)
    right = step(mpd, y, y_hat, "modules")
    for backend in ("cpu", "reference", "modules", "cpu"):
        if backend == "modules" or dispatch.BACKENDS[backend].cannot_run(torch.device("cpu"), torch.float32) is None:
            assert_same(step(mpd, y, y_hat, backend), right)

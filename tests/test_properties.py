"""Generated calls of the public modules: none may differ from the reference, and none may crash."""

import functools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import weight_norm

import hifigan_fast as hf
from hifigan_fast import reference

from .generated import cases
from .global_state import STATES

CASES = cases(60, 700)  # of each of the three tests below
PERIOD_CONVS = ((1, 4, 5, 3, 2, 1), (4, 8, 5, 3, 2, 1), (8, 20, 5, 3, 2, 1), (20, 20, 5, 1, 2, 1))
SCALE_CONVS = (
    (1, 8, 15, 1, 7, 1),
    (8, 8, 41, 2, 20, 4),
    (8, 16, 41, 4, 20, 8),
    (16, 16, 41, 1, 20, 16),
    (16, 16, 5, 1, 2, 1),
)


def small(discriminator, convs, folded):
    """The discriminator with few channels: a call costs a millisecond."""

    def conv(i, o, taps, stride, padding, groups=1):
        ones = ((taps, 1), (stride, 1), (padding, 0)) if folded else (taps, stride, padding)
        return weight_norm((nn.Conv2d if folded else nn.Conv1d)(i, o, *ones, groups=groups))

    torch.manual_seed(len(convs))
    discriminator.convs = nn.ModuleList(conv(*numbers) for numbers in convs)
    discriminator.conv_post = conv(convs[-1][1], 1, 3, 1, 1)
    return discriminator


@functools.cache
def built(kind, count):
    """Three scales, or `count` period discriminators."""
    if not count:
        module = kind.MultiScaleDiscriminator()
        for d in module.discriminators:
            small(d, SCALE_CONVS, False)
        return module
    module = kind.MultiPeriodDiscriminator((2,) * count)
    for d in module.discriminators:
        small(d, PERIOD_CONVS, True)
    return module


def build(kind, periods):
    module = built(kind, len(periods or ()))
    for discriminator, period in zip(module.discriminators, periods or ()):
        discriminator.period = period
    return module


def dense(x):
    return x.contiguous()


def expanded(x):
    return x[:1].expand(x.shape) if len(x) else x


def strided(x):
    return x.repeat_interleave(2, -1)[..., ::2]


def batch_innermost(x):
    return x.permute(2, 1, 0).contiguous().permute(2, 1, 0)


def channels_last(x):
    return x.unsqueeze(3).to(memory_format=torch.channels_last).squeeze(3)


def negated(x):
    return torch._neg_view(-x)


def offset(x):
    return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)


PERIODS = st.lists(st.integers(1, 40), min_size=1, max_size=3)
LAYOUTS = st.sampled_from([dense, expanded, strided, batch_innermost, channels_last, negated, offset])
LENGTHS = st.one_of(st.integers(1, 40), st.integers(41, 1200), st.integers(1201, 20_000))
WANTED = st.tuples(*[st.booleans()] * 3)  # gradients of y, of y_hat, of the parameters


def waveform(seed, batch, length, layout, wanted):
    x = layout(torch.randn(batch, 1, length, generator=torch.Generator().manual_seed(seed)))
    return x.detach().requires_grad_(wanted)


def call(module, waves, wanted, penalty):
    """Everything that comes of it; the error's type where there is one."""
    module.requires_grad_(wanted[2])
    try:
        real, generated, real_maps, fake_maps = module(*waves)
    except (ValueError, RuntimeError):
        return None
    flat = [*real, *generated, *(m for part in (real_maps, fake_maps) for own in part for m in own)]
    leaves = [t for t in (*waves, *module.parameters()) if t.requires_grad]
    weights = [
        torch.cos(torch.arange(m.numel(), dtype=m.dtype, device=m.device)).view(m.shape) for m in flat[::penalty]
    ]
    picked = [(m * w).sum() for m, w in zip(flat[::penalty], weights) if m.requires_grad]
    grads = torch.autograd.grad(sum(picked), leaves, allow_unused=True) if picked else ()
    return flat, grads


def assert_same(ours, plain):
    assert (ours is None) == (plain is None), "one of the two raises"
    if ours is None:
        return
    for index, (a, b) in enumerate(zip(ours[0], plain[0], strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype and a.requires_grad == b.requires_grad, index
        torch.testing.assert_close(a.norm(), b.norm(), rtol=1e-3, atol=1e-5, equal_nan=True)
        assert not a.numel() or (a - b).norm() <= 1e-4 * b.norm() + 1e-6 or b.norm().isnan()
    for a, b in zip(ours[1], plain[1], strict=True):
        if a is None or b is None:
            assert all(t is None or not t.any() for t in (a, b))
        else:
            # A leaky ReLU's side may turn on rounding: one of many thousand.
            assert a.shape == b.shape and (b.norm().isnan() or (a - b).norm() <= 2e-2 * b.norm() + 1e-4)


def compare(periods, batch, length, layouts, wanted, penalty, state):
    found = []
    for kind in (hf, reference):
        waves = [waveform(i, batch, length, layout, need) for i, (layout, need) in enumerate(zip(layouts, wanted))]
        module = build(kind, periods)
        with STATES[state]():
            found.append(call(module, waves, wanted, penalty))
    assert_same(*found)


common = {
    "batch": st.integers(0, 5),
    "length": LENGTHS,
    "layouts": st.tuples(LAYOUTS, LAYOUTS),
    "wanted": WANTED,
    "penalty": st.integers(1, 9),
    "state": st.sampled_from([*STATES]),
}


@CASES
def test_period_discriminators(generated):
    @generated
    @given(periods=PERIODS, **common)
    def check(periods, **case):
        compare(tuple(periods), **case)

    check()


@CASES
def test_scale_discriminators(generated):
    @generated
    @given(**common)
    def check(**case):
        compare(None, **case)

    check()


def compare_step_losses(half, periods, batch, length, layouts, wanted, penalty, state):
    found = []
    for kind in (hf, reference):
        module = build(hf, tuple(periods))
        module.requires_grad_(wanted[2])
        waves = [waveform(i, batch, length, layout, need) for i, (layout, need) in enumerate(zip(layouts, wanted))]
        with STATES[state]():
            found.append(call_step_loss(getattr(kind, f"{half}_step_loss"), module, waves))
    assert_same(*found)


def call_step_loss(step_loss, module, waves):
    """As `call`."""
    try:
        *scalars, terms = step_loss(module, *waves)
    except (ValueError, RuntimeError):
        return None
    leaves = [t for t in (*waves, *module.parameters()) if t.requires_grad]
    loss = sum((index + 1) * scalar for index, scalar in enumerate(scalars))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
    return [loss, terms], grads


@CASES
def test_step_losses(generated):
    @generated
    @given(half=st.sampled_from(["discriminator", "generator"]), periods=PERIODS, **common)
    def check(**case):
        compare_step_losses(**case)

    check()

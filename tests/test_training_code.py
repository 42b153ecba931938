"""What training code does with a module, done with ours: the reference's results, and fused where it can be."""

import contextlib
import copy
import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.discriminators import convs_of

from .needs import needs_extension
from .small import assert_alike


@pytest.fixture(autouse=True)
def channels(request):
    """Few, but where a step in bfloat16 is held against another: fewer terms round further apart."""
    if request.function is not test_grad_scaler:
        request.getfixturevalue("narrow")


def pair(change=lambda module: None, periods=(2, 3)):
    """The drop-in and the reference with equal parameters."""
    modules = []
    for kind in (hf, reference):
        torch.manual_seed(0)
        modules.append(kind.MultiPeriodDiscriminator(periods))
        change(modules[-1])
    modules[0].load_state_dict(modules[1].state_dict())
    return modules


def loss_of(module, seed=0):
    y, y_hat = parity.waveforms(2, 400)
    return reference.discriminator_loss(*module(y + 0.01 * seed, y_hat)[:2])[0]


def train(module, steps=2, clip=None, accumulate=1, wrap=lambda m: m):
    """The last gradients, and the parameters after `steps` steps (of SGD: Adam makes steps of rounding errors)."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    wrapped = wrap(module)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            last = part == accumulate - 1
            waits = wrapped.no_sync() if hasattr(wrapped, "no_sync") and not last else contextlib.nullcontext()
            with waits:
                (loss_of(wrapped, step + part) / accumulate).backward()
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
    return [p.grad for p in module.parameters()], [p.detach() for p in module.parameters()]


def trains_alike(change=lambda module: None, tolerance=1e-3, **options):
    (grads, parameters), (plain_grads, plain) = (train(module, **options) for module in pair(change))
    assert_alike(grads, plain_grads, tolerance)
    assert_alike(parameters, plain, tolerance)


def test_optimizers_clipping_and_accumulation():
    trains_alike(clip=0.5, accumulate=2)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("static_graph", [False, True])
def test_ddp_with_no_sync(one_process, static_graph):
    """`find_unused_parameters=False`: every parameter gets its gradient, whichever outputs the loss uses."""
    wrap = functools.partial(DistributedDataParallel, find_unused_parameters=False, static_graph=static_graph)
    trains_alike(accumulate=1 if static_graph else 2, wrap=wrap)


def test_ddp_around_a_step_loss(one_process):
    mpd, plain = pair()
    wrapped = DistributedDataParallel(mpd)
    y, y_hat = parity.waveforms(2, 400)
    hf.discriminator_step_loss(wrapped, y, y_hat).adversarial.backward()
    loss_of(plain).backward()
    assert_alike([p.grad for p in mpd.parameters()], [p.grad for p in plain.parameters()])


def test_ema_copies():
    """The reference's modules cannot be copied once they were called: legacy weight norm leaves a graph on them."""
    mpd = pair()[0]
    ema = torch.optim.swa_utils.AveragedModel(mpd, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    expected = None
    for step in range(2):
        loss_of(mpd, step).backward()
        with torch.no_grad():
            for p in mpd.parameters():
                p -= 0.01 * p.grad
        ema.update_parameters(mpd)
        now = [p.detach().clone() for p in mpd.parameters()]
        expected = now if expected is None else [0.9 * a + 0.1 * b for a, b in zip(expected, now)]
    copied = copy.deepcopy(ema)
    assert_alike([p.detach() for p in copied.parameters()], expected)
    plain = reference.MultiPeriodDiscriminator((2, 3))
    plain.load_state_dict(copied.module.state_dict())
    torch.testing.assert_close(loss_of(copied), loss_of(plain), rtol=1e-4, atol=1e-6)


def test_freezing_single_layers():
    def freeze(module):
        for d in module.discriminators:
            for conv in d.convs[:2]:
                conv.requires_grad_(False)
        module.discriminators[1].conv_post.bias.requires_grad_(False)

    grads = []
    for module in pair(freeze):
        loss_of(module).backward()
        grads.append([p.grad for p in module.parameters()])
    assert_alike(*grads)


@needs_extension
def test_removed_weight_norm():
    def remove(module):
        for d in module.discriminators:
            for conv in convs_of(d):
                nn.utils.remove_weight_norm(conv)

    trains_alike(remove)
    assert "modules" not in hf.explain(pair(remove)[0])


def reparametrized(module, norm):
    for d in module.discriminators:
        for conv in convs_of(d):
            nn.utils.remove_weight_norm(conv)
            norm(conv)


@needs_extension
def test_parametrized_weight_norm_runs_fused():
    change = functools.partial(reparametrized, norm=parametrizations.weight_norm)
    trains_alike(change)
    ours = pair(change)[0]
    assert "modules" not in hf.explain(ours)
    loss_of(ours).backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_parametrized_spectral_norm_runs_module_by_module():
    def change(module):
        torch.manual_seed(1)
        reparametrized(module, parametrizations.spectral_norm)

    with pytest.warns(UserWarning, match="parametrization"):
        dispatch.warn_once.cache_clear()
        trains_alike(change)


def test_hooks_on_a_discriminator():
    seen = []

    def change(module):
        module.discriminators[1].register_forward_pre_hook(lambda d, args: seen.append("before"))
        module.discriminators[1].register_forward_hook(lambda d, args, out: (out[0] * 2, out[1]))
        module.discriminators[1].register_full_backward_hook(lambda *_: seen.append("backward"))

    trains_alike(change, steps=1)
    assert seen.count("before") == 4 and "backward" in seen


def test_a_hook_on_a_parameter():
    def change(module):
        module.discriminators[0].convs[2].bias.register_hook(lambda grad: grad * 3)

    trains_alike(change, steps=1)


@needs_extension
def test_grad_scaler():
    def scaled(module):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(module)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return [p.detach() for p in module.parameters()]

    assert_alike(*(scaled(module) for module in pair()), tolerance=1e-2)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_deterministic_algorithms_give_the_same_bits(backend):
    if dispatch.BACKENDS[backend].cannot_run(torch.device("cpu"), torch.float32):
        pytest.skip("no extension")
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            module, (y, y_hat) = pair()[0], parity.waveforms(2, 900)
            y_hat.requires_grad_()
            with hf.use_backend(backend):
                found = hf.generator_step_loss(module, y, y_hat)
                (found.adversarial + found.features).backward()
            runs.append([y_hat.grad, *(p.grad for p in module.parameters())])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@pytest.mark.parametrize("where", ["forward", "weight_grad"])
def test_an_interrupt_in_the_middle_of_a_step_leaves_all_as_it_was(where, monkeypatch):
    mpd, plain = pair()
    backend = dispatch.choose(torch.device("cpu"), torch.float32).backend
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return getattr(type(backend), where)(backend, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), hf.frozen(nn.Linear(1, 1)):
        patch.setattr(backend, where, interrupted)
        loss_of(mpd).backward()
    mpd.zero_grad()
    for module in (mpd, plain):
        loss_of(module).backward()
    assert_alike([p.grad for p in mpd.parameters()], [p.grad for p in plain.parameters()])


def test_a_training_step_makes_nine_one_sided_passes_and_not_twelve(monkeypatch):
    """Forward, and backward through activations, and to weights, count as one each, a side."""
    from .test_autograd import Counting

    backend, mpd = Counting(), hf.MultiPeriodDiscriminator((2,))
    monkeypatch.setitem(dispatch.BACKENDS, "reference", backend)
    y, y_hat = parity.waveforms(1, 300)
    with hf.use_backend("reference"):
        hf.discriminator_step_loss(mpd, y, y_hat).adversarial.backward()
        discriminator = dict(backend.passes)
        backend.passes.clear()
        with hf.frozen(mpd):
            found = hf.generator_step_loss(mpd, y, y_hat.requires_grad_())
        (found.adversarial + found.features).backward()
    assert discriminator == {"forward": 12, "input gradient": 10, "weight gradient": 12}  # 6: two sides of each
    assert backend.passes == {"forward": 12, "input gradient": 5, "waveform gradient": 1}  # 3: one side goes back

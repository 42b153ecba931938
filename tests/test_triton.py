"""The Triton backend in Triton's interpreter, through the public modules; and how often it launches."""

import functools
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, pooling, reference
from hifigan_fast.backends.triton import configs
from hifigan_fast.geometry import Layer
from hifigan_fast.passes import operators

from .small import SmallEnsemble, assert_power_iterations_are_right

BACKEND = dispatch.BACKENDS["triton"]
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    BACKEND.cannot_run(CPU, torch.float32) is not None, reason=str(BACKEND.cannot_run(CPU, torch.float32))
)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name, length, dtype", [("mpd", 407, torch.float32), ("mpd", 213, torch.float16), ("msd", 511, torch.float32)]
)
def test_public_modules(name, length, dtype, poisoned):
    pair = [module.to(dtype) for module in parity.build_pair(name, trained=True)]
    y, y_hat = parity.waveforms(1, length, dtype=dtype)
    verdict = parity.compare(*pair, y, y_hat, ["triton"])["triton"]
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.exhaustive), torch.float16])
def test_public_modules_of_few_channels(dtype, narrow, poisoned):
    """Scales' many groups take longer: `test_step_losses`."""
    test_public_modules("mpd", 100, dtype, poisoned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layers_of_many_blocks(dtype, poisoned, monkeypatch):
    """The interpreter's blocks hold most of a test's layers whole; of a device's, sums and channels take several."""
    found = configs.config

    def smaller(*where):
        config = found(*where)
        return replace(config, BM=min(config.BM, 32), BN=min(config.BN, 16), BK=min(config.BK, 32))

    monkeypatch.setattr(configs, "config", smaller)
    assert SmallEnsemble(sides=1, length=150).worst_ratio(BACKEND, dtype) <= parity.LIMIT


VITS = pytest.param(256, (1024, 1024), marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("groups, channels", [(4, (16, 32)), (16, (32, 64)), (24, (96, 96)), VITS])
def test_groups(groups, channels, dtype, poisoned):
    """Of the scale discriminators, and of VITS's: up to 256 groups of 4 channels."""
    layers = (
        Layer(1, channels[0], 5, 4, 2),
        Layer(*channels, 41, 4, 20, groups),
        Layer(channels[1], 1, 3, 1, 1, slope=1.0),
    )
    small = SmallEnsemble(layers, periods=(1,), folded=False, samples=1, sides=1, length=150)
    assert small.worst_ratio(BACKEND, dtype) <= parity.LIMIT


@pytest.mark.parametrize("periods", [(1, 4, 6), (2, 3, 5, 7, 11, 17, 23, 37)])
def test_any_periods(periods, poisoned):
    assert SmallEnsemble(periods=periods, samples=1, length=97).worst_ratio(BACKEND) <= parity.LIMIT


def test_the_same_bits_every_run():
    small = SmallEnsemble()
    (maps, grads), (again, grads_again) = small.on(BACKEND), small.on(BACKEND)
    assert all(torch.equal(a, b) for a, b in zip((*maps, *grads), (*again, *grads_again)))


def test_it_runs_on_a_cpu_only_by_request():
    ours, _ = parity.build_pair("mpd")
    assert "modules" in hf.explain(ours.half()) and "for tests" in hf.explain(ours)
    with hf.use_backend("triton"):
        assert "requested" in hf.explain(ours)


def test_bfloat16_is_refused_in_the_interpreter():
    ours, _ = parity.build_pair("mpd")
    with hf.use_backend("triton"), pytest.raises(ValueError, match="interpreter has no bfloat16"):
        ours.bfloat16()(*parity.waveforms(1, 300, dtype=torch.bfloat16))


def test_a_feature_loss_of_maps_of_any_kind(poisoned):
    random = torch.Generator().manual_seed(0)
    real = [torch.randn(size, generator=random) for size in (1, 1024, 16384 + 3)]
    generated = [(m + 0.1).requires_grad_() for m in real]
    generated[1].data[5] = real[1][5]  # equal: no gradient
    with hf.use_backend("triton"):
        loss = hf.feature_loss([real], [generated])
    loss.backward()
    expected = [g.detach().clone().requires_grad_() for g in generated]
    plain = hf.reference.feature_loss([real], [expected])
    plain.backward()
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(generated, expected):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_mean_of_no_elements_is_not_a_number(poisoned):
    maps = [torch.ones(3), torch.ones(0)]
    assert BACKEND.feature_l1(maps, [torch.zeros(3), torch.ones(0)]).tolist() == pytest.approx(
        [1, float("nan")], nan_ok=True
    )


def moved(tensor, by):
    """The same values, `by` elements behind an aligned address."""
    memory = tensor.new_zeros(by + tensor.numel())[by:]
    return memory.view(tensor.shape).copy_(tensor)


def of_others(tensor):
    """The same values behind an aligned address, where nothing lies before them that PyTorch knows of."""
    memory = bytearray(tensor.nbytes + 32)
    at = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % 16 + 4
    found = torch.frombuffer(memory, dtype=tensor.dtype, offset=at, count=tensor.numel())
    return found.view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("place", [functools.partial(moved, by=3), of_others], ids=["inside", "of others"])
def test_tensors_may_begin_anywhere(place, narrow):
    """Kernels are compiled for aligned memory: losses, maps and waveforms elsewhere have the same bits."""
    discriminator = hf.MultiPeriodDiscriminator((3,)).discriminators[0]
    waves = parity.waveforms(1, 61)

    def run(put):
        sides = [put(w).requires_grad_() for w in waves]
        with hf.use_backend("triton"):
            scores, maps = zip(*map(discriminator, sides))
            given = [[put(t.detach()).requires_grad_() for t in own] for own in (scores, *maps)]
            loss = hf.discriminator_loss(given[0][:1], given[0][1:])[0] + hf.feature_loss(given[1:2], given[2:])
            grads = [put(g) for g in torch.autograd.grad(loss, sum(given, []))]
            found = torch.autograd.grad([*scores, *maps[0], *maps[1]], [*sides, *discriminator.parameters()], grads)
            levels = pooling.pooled_sides(BACKEND, [w.detach() for w in sides])
        return [loss, *grads, *found, *levels[0], *levels[1]]

    for there, aligned in zip(run(place), run(torch.clone), strict=True):
        assert torch.equal(there, aligned)


@pytest.fixture
def launches(monkeypatch):
    """Counts launches by kernel, and runs none: results are not written."""
    counted = Counter()

    def count(device, kernel, grid, *args, **meta):
        counted[kernel.__name__] += 0 not in grid

    monkeypatch.setattr(BACKEND.kernels, "launch", count)
    return counted


@pytest.mark.parametrize("build, depths", [(hf.MultiPeriodDiscriminator, 6), (hf.MultiScaleDiscriminator, 8)])
def test_one_launch_a_depth(build, depths, launches):
    ours = build()
    y, y_hat = parity.waveforms(2, 1024)
    with hf.use_backend("triton"):
        real, generated, _, _ = ours(y, y_hat)
        spectral = {"iterate": 1, "pooled": 1} if build is hf.MultiScaleDiscriminator else {}
        assert launches == {"pack": 1, "forward": depths, **spectral}
        launches.clear()
        hf.discriminator_loss(real, generated)[0].backward()
    spectral = {"finish_spectral": 1} if build is hf.MultiScaleDiscriminator else {}
    losses = {"squared_means": 1, "gradients": 1}
    assert launches == {"weight_grad": depths, "input_grad": depths - 1, "finish": 1, **spectral, **losses}


@pytest.mark.parametrize("iterations, calls", [(0, 1), (0, 2), (1, 1), (1, 2), (3, 2)])
def test_power_iterations(iterations, calls):
    assert_power_iterations_are_right(BACKEND, iterations, calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_adversarial_losses(dtype):
    random = torch.Generator().manual_seed(0)
    scores = [torch.randn(size, generator=random).to(dtype) for size in ((2, 1), (2, 1500), (1, 9), (3, 5))]

    def run(backend, double):
        real, generated = (
            [s.to(torch.float64 if double else dtype, copy=True).requires_grad_() for s in scores] for _ in range(2)
        )
        with hf.use_backend(backend):
            total, real_terms, generated_terms = hf.discriminator_loss(real, generated[:2])
            other, terms = hf.generator_loss(generated)
            (total + 0.5 * other + terms[1]).backward()
        grads = [s.grad for s in (*real[:2], *generated)]
        return [total, *real_terms, *generated_terms, other, *terms, *grads]

    found, right = run("triton", False), run("reference", True)
    grads = len(scores) + 2
    assert all(t.dtype == torch.float32 for t in found[:-grads]) and not found[1].requires_grad
    assert all(t.dtype == dtype for t in found[-grads:])
    for ours, theirs in zip(found, right, strict=True):
        eps = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.double(), theirs, rtol=8 * eps, atol=eps)


def test_real_scores_of_inference_mode():
    with torch.inference_mode():
        real = [torch.tensor([0.5, 2.0])]
    generated = torch.tensor([1.0, 3.0], requires_grad=True)
    with hf.use_backend("triton"):
        hf.discriminator_loss(real, [generated])[0].backward()
    torch.testing.assert_close(generated.grad, generated.detach())


def test_an_adversarial_loss_differentiates_twice():
    scores = [torch.tensor([0.5, 2.0], requires_grad=True), torch.tensor([1.5], requires_grad=True)]
    with hf.use_backend("triton"):
        total, _ = hf.generator_loss(scores)
        (grad, _) = torch.autograd.grad(total, scores, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), scores[:1])
    torch.testing.assert_close(second, 2 * (scores[0].detach() - 1))


@pytest.mark.parametrize("length", [8, 511, 2048])
def test_pooling(length):
    ours, plain = hf.MultiScaleDiscriminator(), hf.reference.MultiScaleDiscriminator()
    sides = [torch.randn(2, 1, length, requires_grad=True) for _ in range(2)]
    levels = pooling.pooled_sides(BACKEND, sides)
    expected = [plain.pooled(x) for x in sides]
    assert pooling.poolable(ours, sides)
    for own, right in zip(levels, expected):
        for a, b in zip(own, right, strict=True):
            torch.testing.assert_close(a, b)
    weights = [torch.randn_like(x) for x in expected[1]]
    for found in (levels, expected):
        sum((w * x).sum() for w, x in zip(weights, found[1])).backward()
    ours_grad, sides[1].grad = sides[1].grad, None
    sum((w * x).sum() for w, x in zip(weights, plain.pooled(sides[1]))).backward()
    torch.testing.assert_close(ours_grad, 2 * sides[1].grad)
    assert sides[0].grad is None


@pytest.mark.parametrize("length", [1, 8, 511])
def test_gradients_of_some_pooled_levels(length):
    for used in itertools.product((False, True), repeat=pooling.LEVELS):
        found = []
        for make in (lambda x: pooling.pooled_sides(BACKEND, (x, x.detach()))[0], pooling._levels):
            x = torch.linspace(-1, 1, 2 * length).view(2, 1, length).requires_grad_()
            total = sum((level * (n + level)).sum() for n, level in enumerate(make(x.view_as(x))) if used[n])
            found += torch.autograd.grad(total, x) if any(used) else ()
        assert not any(used) or torch.equal(*found), used


def test_other_poolings_are_their_own():
    ours = hf.MultiScaleDiscriminator()
    x = torch.zeros(1, 1, 100)
    for change in ({"kernel_size": 3}, {"stride": (3,)}, {"ceil_mode": True}, {"count_include_pad": False}):
        ours.meanpools[1] = torch.nn.AvgPool1d(**{"kernel_size": 4, "stride": 2, "padding": 2, **change})
        assert not pooling.poolable(ours, (x, x)), change
    ours.meanpools[1] = torch.nn.AvgPool1d(4, 2, padding=2)
    assert pooling.poolable(ours, (x, x)) and not pooling.poolable(ours, (x, x[..., ::2]))
    handle = ours.meanpools[1].register_full_backward_hook(lambda *_: None)
    assert not pooling.poolable(ours, (x, x))
    handle.remove()
    ours.pooled = lambda x: [x] * pooling.LEVELS
    assert not pooling.poolable(ours, (x, x))
    del ours.pooled
    assert not pooling.poolable(type("Own", (hf.MultiScaleDiscriminator,), {"pooled": ours.pooled})(), (x, x))
    ours.discriminators = ours.discriminators[:2]
    assert not pooling.poolable(ours, (x, x))


# Of PyTorch's operations, those that a GPU has nothing to do for.
NO_LAUNCH = {
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "new_empty",
    "permute",
    "select",
    "slice",
}
NO_LAUNCH |= {"split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view"}


class Operations(TorchDispatchMode):
    def __init__(self, counted):
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name().removeprefix("aten::").removeprefix("hifigan_fast::").split(".")[0]
        kernel = operators.KERNELS.get(name)
        if kernel is None and operation.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            kernel = operation.decompose
        if kernel is not None:  # counted by what it does
            with self:
                return kernel(*args, **(kwargs or {}))
        self.counted[name] += name not in NO_LAUNCH
        return operation(*args, **(kwargs or {}))


def test_launches_of_a_step(launches, monkeypatch):
    """All that a GPU would be asked to do, PyTorch's own operations too: eager's step is more than a thousand."""
    monkeypatch.setattr(dispatch, "not_fusible", lambda device: None)
    y, y_hat = parity.waveforms(2, 1024)
    mpd, msd = hf.MultiPeriodDiscriminator(), hf.MultiScaleDiscriminator()

    def counted(run):
        with hf.use_backend("triton"):
            run()  # tables are made once a shape
            launches.clear()
            with Operations(launches):
                run()
        return sum(launches.values())

    def step():
        for m in (mpd, msd):
            m.zero_grad()
        losses = [hf.discriminator_loss(*m(y, y_hat)[:2])[0] for m in (mpd, msd)]
        (losses[0] + losses[1]).backward()

    assert counted(lambda: mpd(y, y_hat)) <= 8
    assert counted(lambda: msd(y, y_hat)) <= 11
    assert counted(step) <= 55, {name: count for name, count in launches.items() if count}
    assert counted(lambda: msd.eval()(y, y_hat)) <= 11


def test_parameters_of_mixed_dtypes_under_autocast(narrow):
    ours = hf.MultiPeriodDiscriminator((2,))
    ours.discriminators[0].convs[1].half()
    results = []
    for backend in ("triton", "reference"):
        with hf.use_backend(backend), torch.autocast("cpu", torch.float16):
            real, _, _, _ = ours(*parity.waveforms(1, 150))
        ours.zero_grad()
        (1000 * real[0].float()).sum().backward()
        results.append([real[0].float(), *(p.grad.float() for p in ours.parameters())])
    for a, b in zip(*results):
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-6


@pytest.mark.parametrize("build", [lambda: hf.MultiPeriodDiscriminator((2,)), hf.MultiScaleDiscriminator])
def test_half_waveforms_under_autocast(narrow, build):
    ours, results = build(), []
    ours(*parity.waveforms(1, 150))  # spectral norm's first vectors are random
    ours.eval()
    for backend in ("triton", "reference"):
        y, y_hat = (x.half().requires_grad_() for x in parity.waveforms(1, 150))
        with hf.use_backend(backend), torch.autocast("cpu", torch.float16):
            real, generated, _, _ = ours(y, y_hat)
        (1000 * sum(score.float().square().sum() for score in real + generated)).backward()
        assert y.grad.dtype == torch.float16
        results.append([x.float() for x in (*real, *generated, y.grad, y_hat.grad)])
    for a, b in zip(*results):
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-6


@pytest.mark.parametrize(
    "periods, frozen",
    [
        ((2, 3), False),
        (None, True),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (((2, 3), True), (None, False))),
    ],
)
def test_step_losses(periods, frozen):
    from .test_properties import build

    found = []
    for kind in (hf, reference):
        module = build(hf, periods).requires_grad_(not frozen)
        y, y_hat = parity.waveforms(1, 150)
        y_hat.requires_grad_()
        with hf.use_backend("triton"):
            losses = kind.generator_step_loss(module, y, y_hat)
            leaves = [y_hat, *(p for p in module.parameters() if p.requires_grad)]
            grads = torch.autograd.grad(losses.adversarial + losses.features, leaves)
        found.append([losses.adversarial, losses.features, losses.terms, *grads])
    for ours, apart in zip(*found, strict=True):
        assert (ours - apart).norm() <= 1e-5 * apart.norm() + 1e-9

"""The losses: the original's values and gradients, its list shapes, and no host sync."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import hifigan_fast as hf
from hifigan_fast import reference


def maps(seed, dtype=torch.float32, requires_grad=False):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, 32, 50, 3), (2, 5, 7, 3), (2, 1, 7, 3), (2, 128, 41), (2, 1, 9), (3,)]
    made = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
    made[0] = made[0].permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)  # as the fused pass lays them
    made = [m.requires_grad_(requires_grad) for m in made]
    return [made[:3], made[3:]]


def flat(lists):
    return [m for own in lists for m in own]


@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False)])
def test_feature_loss_by_the_ratio_rule(needs, poisoned):
    results = {}
    for name, function, dtype in (
        ("ours", hf.feature_loss, torch.float32),
        ("torch", reference.feature_loss, torch.float32),
        ("exact", reference.feature_loss, torch.float64),
    ):
        real, fake = maps(0, dtype, needs[0]), maps(1, dtype, needs[1])
        loss = function(real, fake)
        leaves = [m for m in flat(real) + flat(fake) if m.requires_grad]
        grads = torch.autograd.grad(3 * loss, leaves)
        assert all(g.stride() == m.stride() for g, m in zip(grads, leaves)) or name != "ours"
        results[name] = [loss.detach(), *grads]
    for ours, plain, exact in zip(results["ours"], results["torch"], results["exact"]):
        error, of_torch = ((t.double() - exact).abs().max() for t in (ours, plain))
        assert error <= 2 * of_torch + 2 * torch.finfo(torch.float32).eps * exact.abs().max()


def test_feature_loss_gradient_is_zero_where_maps_agree_and_nan_where_they_are():
    real = torch.tensor([1.0, 2.0, float("nan"), 4.0])
    fake = torch.tensor([1.0, 3.0, 0.0, -4.0], requires_grad=True)
    hf.feature_loss([[real]], [[fake]]).backward()
    torch.testing.assert_close(fake.grad, torch.tensor([0.0, 0.5, float("nan"), -0.5]), equal_nan=True)


def test_real_maps_of_inference_mode():
    """Autograd saves none of them, and PyTorch's loss need not."""
    with torch.inference_mode():
        real = maps(0)
    grads = []
    for function in (hf.feature_loss, reference.feature_loss):
        fake = maps(1, requires_grad=True)
        grads.append(torch.autograd.grad(function(real, fake), flat(fake)))
    for ours, plain in zip(*grads):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("change", [lambda m: m.transpose(0, 1), lambda m: m.double(), lambda m: m[..., :0]])
def test_maps_that_cannot_be_read_flat_go_the_reference_way(change):
    real, fake = torch.randn(4, 4, 4), torch.randn(4, 4, 4)
    ours = hf.feature_loss([[real, change(real)]], [[fake, change(fake).contiguous()]])
    torch.testing.assert_close(
        ours, reference.feature_loss([[real, change(real)]], [[fake, change(fake)]]), equal_nan=True
    )


def test_maps_with_gaps_in_memory_go_the_reference_way():
    real, fake = (torch.randn(4, 4, 6)[..., ::2] for _ in range(2))
    torch.testing.assert_close(hf.feature_loss([[real]], [[fake]]), reference.feature_loss([[real]], [[fake]]))


@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_tracers_of_operators_see_the_reference(mode):
    def loss(real, fake):
        return hf.feature_loss([[real]], [[fake]])

    given = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(make_fx(loss, tracing_mode=mode)(*given)(*given), loss(*given))


@pytest.mark.parametrize("losses", [hf, reference])
def test_returns_what_the_original_returns(losses):
    scores = [torch.randn(2, 9, requires_grad=True) for _ in range(3)]
    fakes = [torch.randn(2, 9, requires_grad=True) for _ in range(3)]
    loss, real, generated = losses.discriminator_loss(scores, fakes)
    expected = sum(((1 - s) ** 2).mean() + (f**2).mean() for s, f in zip(scores, fakes))
    torch.testing.assert_close(loss, expected)
    assert type(real) is type(generated) is list and len(real) == 3
    assert all(isinstance(t, torch.Tensor) and t.dim() == 0 and not t.requires_grad for t in real + generated)
    loss, terms = losses.generator_loss(fakes)
    torch.testing.assert_close(loss, sum(((1 - f) ** 2).mean() for f in fakes))
    assert len(terms) == 3 and all(t.requires_grad for t in terms)
    assert losses.feature_loss([], []) == 0
    assert losses.discriminator_loss([], []) == (0, [], [])


def scores(seed, dtype):
    random = torch.Generator().manual_seed(seed)
    return [(1 + torch.randn(2, n, generator=random)).to(dtype) for n in (9, 40, 300, 7, 100)]


def every_loss(losses, dtype):
    """All that the losses return for half-precision values that were converted to `dtype`, as one flat list."""
    half = torch.bfloat16
    real, fake = ([[m.to(half).to(dtype) for m in own] for own in maps(seed)] for seed in (0, 1))
    discriminators = losses.discriminator_loss(*([s.to(dtype) for s in scores(seed, half)] for seed in (2, 3)))
    generator = losses.generator_loss([s.to(dtype) for s in scores(3, half)])
    return [losses.feature_loss(real, fake), discriminators[0], *flat(discriminators[1:]), generator[0], *generator[1]]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("way", [None, "reference", "modules", "compiled"])
def test_losses_of_half_precision_are_float32(way, autocast, monkeypatch):
    """As of the same values in float32, whatever runs: in bfloat16 the sums would keep eight bits."""
    if way == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    elif way:
        monkeypatch.setenv("HIFIGAN_FAST_BACKEND", way)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = every_loss(hf, torch.bfloat16)
    assert all(t.dtype == torch.float32 for t in found)
    torch.testing.assert_close(found, [t.float() for t in every_loss(reference, torch.float64)], rtol=1e-6, atol=0)
    assert all(t.dtype == torch.float64 for t in every_loss(hf, torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_precision_maps_and_logits_are_of_their_dtype(dtype):
    grads = []
    for kind in (hf, reference):
        real, fake = maps(0, dtype, True), maps(1, dtype, True)
        logits = [s.requires_grad_() for s in scores(3, dtype)]
        loss = kind.feature_loss(real, fake).float() + kind.generator_loss(logits)[0].float()
        grads.append(torch.autograd.grad(loss, [*flat(real), *flat(fake), *logits]))
    for ours, plain in zip(*grads):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, plain, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize(
    "wrong, came",
    [
        ([torch.ones(2, 3)], "a Tensor"),
        ([[[torch.ones(2)]]], "a list"),
        ({"a": 1}, "a str"),
        ([1], "a int"),
        (1, "int"),
    ],
)
def test_maps_that_are_no_lists_of_lists(wrong, came):
    """A flat list of maps would be read as one of batches, each map's samples as maps."""
    right = [[torch.ones(2, 3)]]
    with pytest.raises(TypeError, match=f"fmap_r: expected a list of maps for each discriminator, got {came}"):
        hf.feature_loss(wrong, right)
    with pytest.raises(TypeError, match="fmap_g: expected a list of maps"):
        hf.feature_loss(right, wrong)


def test_what_can_be_read_once_is_read_once():
    """As the original's loops do: a check that uses a generator up would leave a loss of nothing, 0."""
    logits = [scores(seed, torch.float32) for seed in (0, 1)]
    assert hf.discriminator_loss(*map(iter, logits)) == hf.discriminator_loss(*logits)
    assert hf.generator_loss(iter(logits[0])) == hf.generator_loss(logits[0])
    both = [maps(seed) for seed in (0, 1)]
    assert hf.feature_loss(*(map(iter, own) for own in both)) == hf.feature_loss(*both) > 0


@pytest.mark.parametrize("wrong, came", [(None, "NoneType"), (1, "int"), ([None], "a NoneType among them")])
def test_logits_that_are_no_list_of_tensors(wrong, came):
    right = [torch.ones(2, 3)]
    for name, call in (
        ("disc_real_outputs", lambda: hf.discriminator_loss(wrong, right)),
        ("disc_generated_outputs", lambda: hf.discriminator_loss(right, wrong)),
        ("disc_outputs", lambda: hf.generator_loss(wrong)),
    ):
        with pytest.raises(TypeError, match=f"{name}: expected one tensor for each discriminator, got {came}"):
            call()

"""The exactness points of docs/design.md, one test each: what has broken other ports of these discriminators."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import hifigan_fast as hf
from hifigan_fast import parity, reference

KEYS_OF_A_PERIOD_DISCRIMINATOR = [
    f"{conv}.{tensor}"
    for conv in [*(f"convs.{i}" for i in range(5)), "conv_post"]
    for tensor in ("bias", "weight_g", "weight_v")
]


FULL_WIDTH = [
    "real_shapes",
    "short_columns",
    "state_dict_keys_shapes_order_and_initialisation",
    "official_checkpoint_layout",
]


@pytest.fixture(autouse=True)
def channels(request):
    """Few, where nothing depends on their number."""
    if request.function.__name__.removeprefix("test_") not in FULL_WIDTH:
        request.getfixturevalue("narrow")


def outputs(result):
    return [t for part in result for own in part for t in (own if isinstance(own, list) else [own])]


def close(a, b, tolerance=2e-5):
    for x, y in zip(outputs(a), outputs(b), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["mpd", "msd"])
@pytest.mark.parametrize(
    "batch, length, trained",
    [
        (1, 4096, True),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ((1, 8192, True), (2, 8192, False))),
    ],
)
def test_real_shapes(name, batch, length, trained, clips, poisoned):
    y, y_hat = parity.waveforms(batch, length, clips=clips)
    verdict = parity.compare(*parity.build_pair(name, trained=trained), y, y_hat)[None]
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("periods, autocast", [((37, 100), None), ((100,), torch.bfloat16)], ids=["fp32", "bf16"])
def test_short_columns(periods, autocast):
    """Of a row or two at the deepest layers, where some taps meet padding only."""
    builds = [lambda kind=kind: kind.MultiPeriodDiscriminator(periods) for kind in (hf, reference)]
    pair = parity.build_pair("short", trained=True, ensembles={"short": builds})
    verdict = parity.compare(*pair, *parity.waveforms(1, 1200), autocast=autocast)[None]
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_state_dict_keys_shapes_order_and_initialisation(name):
    ours, plain = parity.build_pair(name)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in plain.state_dict().items()]
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_official_checkpoint_layout():
    mpd, msd = hf.MultiPeriodDiscriminator().state_dict(), hf.MultiScaleDiscriminator().state_dict()
    assert len(mpd) == 90 and len(msd) == 80
    assert list(mpd) == [f"discriminators.{i}.{key}" for i in range(5) for key in KEYS_OF_A_PERIOD_DISCRIMINATOR]
    assert mpd["discriminators.0.convs.1.weight_g"].shape == (128, 1, 1, 1)
    assert mpd["discriminators.0.convs.1.weight_v"].shape == (128, 32, 5, 1)
    first = [key for key in msd if key.startswith("discriminators.0.convs.0.")]
    assert [key.rsplit(".", 1)[1] for key in first] == ["bias", "weight_orig", "weight_u", "weight_v"]
    assert msd["discriminators.0.convs.1.weight_v"].shape == (32 * 41,)  # a singular vector, not a direction
    assert msd["discriminators.1.convs.1.weight_v"].shape == (128, 32, 41)


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_checkpoints_load_strictly_both_ways_and_save_back_the_same(name, tmp_path):
    ours, plain = parity.build_pair(name)
    parity.trained_like(plain, seed=3)
    torch.save(plain.state_dict(), tmp_path / "plain")
    ours.load_state_dict(torch.load(tmp_path / "plain", weights_only=True), strict=True)
    saved = ours.state_dict()
    assert all(torch.equal(saved[key], value) for key, value in plain.state_dict().items())
    plain.load_state_dict(saved, strict=True)


def test_optimizer_state_transfers_by_index():
    """`optim_d` runs over msd, then mpd; its state is by position."""
    (mpd, plain_mpd), (msd, plain_msd) = parity.build_pair("mpd"), parity.build_pair("msd")
    y, y_hat = parity.waveforms(1, 512)
    optimizers = []
    for modules in ((plain_msd, plain_mpd), (msd, mpd)):
        optimizers.append(torch.optim.AdamW([p for m in modules for p in m.parameters()], 2e-4, betas=(0.8, 0.99)))
    loss = sum(reference.discriminator_loss(*m(y, y_hat)[:2])[0] for m in (plain_msd, plain_mpd))
    loss.backward()
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for module, plain in ((msd, plain_msd), (mpd, plain_mpd)):
        module.load_state_dict(plain.state_dict())
    for modules, optimizer in zip(((plain_msd, plain_mpd), (msd, mpd)), optimizers):
        optimizer.zero_grad()
        sum(reference.discriminator_loss(*m(y, y_hat)[:2])[0] for m in modules).backward()
        optimizer.step()
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        for moment in ("exp_avg", "exp_avg_sq"):
            error = (states[1][index][moment] - state[moment]).norm() / (state[moment].norm() + 1e-30)
            assert error < 1e-4, (index, moment)


def test_spectral_norm_moves_twice_a_pair_and_each_side_has_its_sigma():
    """D(y), then D(ŷ): u and v move before each, so the halves see different weights."""
    ours, plain = parity.build_pair("msd")
    y, y_hat = parity.waveforms(1, 600)
    for step in range(3):
        with torch.no_grad():
            close(ours(y, y_hat), plain(y, y_hat))
        for (name, a), b in zip(ours.named_buffers(), plain.buffers()):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-6, msg=f"{name} after {step + 1} pairs")
    with torch.no_grad():  # the same waveform on both sides: only σ differs
        real, generated, _, _ = ours(y, y)
    assert not torch.equal(real[0], generated[0])
    assert torch.equal(real[1], generated[1])


def test_eval_mode_makes_no_power_iteration():
    ours, plain = (m.eval() for m in parity.build_pair("msd", trained=True))
    before = [b.clone() for b in ours.buffers()]
    y, y_hat = parity.waveforms(1, 600)
    with torch.no_grad():
        close(ours(y, y_hat), plain(y, y_hat))
        real, generated, _, _ = ours(y, y)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.buffers()))
    assert torch.equal(real[0], generated[0])


def test_a_single_frozen_layer_in_eval_mode_iterates_like_the_reference():
    ours, plain = parity.build_pair("msd")
    for module in (ours, plain):
        module.discriminators[0].convs[2].eval()
    y, y_hat = parity.waveforms(1, 600)
    with torch.no_grad():
        close(ours(y, y_hat), plain(y, y_hat))
    for a, b in zip(ours.buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


@pytest.mark.parametrize("period", [1, 2, 3, 11, 37])
@pytest.mark.parametrize("length", [37, 38, 73, 110, 111])
def test_reflect_pad(period, length):
    """No pad where the period divides the length; else up to period - 1 mirrored samples."""
    torch.manual_seed(0)
    ours = hf.DiscriminatorP(period)
    torch.manual_seed(0)
    plain = reference.DiscriminatorP(period)
    y, _ = parity.waveforms(2, length)
    (score, maps), (plain_score, plain_maps) = ours(y), plain(y)
    torch.testing.assert_close(score, plain_score, rtol=1e-4, atol=1e-5)
    for a, b in zip(maps, plain_maps):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size, stride", [(3, 3), (5, 2), (7, 3), (4, 1), (1, 4)])
@pytest.mark.parametrize("use_spectral_norm", [False, True])
def test_other_kernels_and_strides_keep_the_padding_of_five_taps(kernel_size, stride, use_spectral_norm):
    modules = []
    for cls in (hf.DiscriminatorP, reference.DiscriminatorP):
        torch.manual_seed(0)
        modules.append(cls(3, kernel_size, stride, use_spectral_norm))
    y, _ = parity.waveforms(1, 3000 if stride < 4 else 6000)
    (score, maps), (plain_score, plain_maps) = (m(y) for m in modules)
    assert modules[0].convs[0].padding == (2, 0)
    for a, b in zip([score, *maps], [plain_score, *plain_maps], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_logits_are_flattened_with_the_period_last():
    ours = hf.DiscriminatorP(5)
    y, _ = parity.waveforms(2, 1000)
    score, maps = ours(y)
    assert maps[-1].shape[1] == 1 and maps[-1].shape[3] == 5
    assert torch.equal(score, maps[-1].flatten(1))
    assert score.data_ptr() == maps[-1].data_ptr(), "the logits are a view of the head's map, as in the reference"


def test_pooling_counts_its_padding_and_accumulates():
    ours, plain = parity.build_pair("msd")
    y = torch.ones(1, 1, 8192)
    levels = ours.pooled(y)
    assert [level.shape[-1] for level in levels] == [8192, 4097, 2049]
    assert levels[1][0, 0, 0] == 0.5  # two of four samples are padding
    assert torch.equal(levels[2], F.avg_pool1d(F.avg_pool1d(y, 4, 2, 2), 4, 2, 2))
    close(ours(y, y * 0.5), plain(y, y * 0.5))


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_map_shapes_dtypes_and_order(name):
    ours, plain = parity.build_pair(name)
    y, y_hat = parity.waveforms(2, 777)
    for a, b in zip(ours(y, y_hat), plain(y, y_hat)):
        assert type(a) is type(b) is list and len(a) == len(b)
    close(ours(y, y_hat), plain(y, y_hat))


@pytest.mark.parametrize("how", ["forward only", "after backward", "fresh"])
def test_deepcopy_wherever_the_reference_can_be_copied_and_further(how):
    ours = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 300)
    if how != "fresh":
        result = ours(y, y_hat)
    if how == "after backward":
        hf.discriminator_loss(*result[:2])[0].backward()
    copied = copy.deepcopy(ours)
    with torch.no_grad():
        next(ours.parameters()).add_(1)  # shares nothing with the copy
        a, b = copied(y, y_hat), ours(y, y_hat)
    assert not torch.equal(a[0][0], b[0][0])
    plain = reference.MultiPeriodDiscriminator((2, 3))
    plain.load_state_dict(copied.state_dict())
    close(a, plain(y, y_hat))


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_pickling(name, tmp_path):
    ours, _ = parity.build_pair(name)
    ours.eval()
    y, y_hat = parity.waveforms(1, 300)
    before = ours(y, y_hat)
    close(pickle.loads(pickle.dumps(ours))(y, y_hat), before, 0)
    torch.save(ours, tmp_path / "module")
    close(torch.load(tmp_path / "module", weights_only=False)(y, y_hat), before, 0)


@pytest.mark.parametrize("spoil", ["in place", "in place without a graph", "through detach", "logits"])
def test_in_place_misuse_of_a_feature_map_raises(spoil):
    ours = hf.MultiPeriodDiscriminator((2,))
    y, y_hat = parity.waveforms(1, 300)
    real, generated, real_maps, _ = ours(y, y_hat)
    victim = real[0] if spoil == "logits" else real_maps[0][1]
    with pytest.raises(RuntimeError, match="modified|inplace|in-place"):
        if spoil in ("in place", "logits"):
            victim.mul_(2)
        elif spoil == "through detach":
            victim.detach().mul_(2)
        else:
            with torch.no_grad():
                victim.mul_(2)
        hf.discriminator_loss(real, generated)[0].backward()


def test_weights_changed_between_forward_and_backward_raise():
    ours = hf.MultiPeriodDiscriminator((2,))
    real, generated, _, _ = ours(*parity.waveforms(1, 300))
    with torch.no_grad():
        ours.discriminators[0].convs[2].weight_v.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hf.discriminator_loss(real, generated)[0].backward()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_nan_and_infinity_pass_through_as_in_the_reference(name, value):
    ours, plain = parity.build_pair(name)
    y, y_hat = parity.waveforms(2, 900)
    y[1, 0, 450] = value
    with torch.no_grad():
        for a, b in zip(outputs(ours(y, y_hat)), outputs(plain(y, y_hat))):
            assert torch.equal(a.isfinite(), b.isfinite())
            assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("backend", parity.able())
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_an_empty_batch(name, backend):
    ours, plain = parity.build_pair(name)
    y = torch.zeros(0, 1, 500, requires_grad=True)
    with hf.use_backend(backend):
        result = ours(y, y.detach())
    close(result, plain(y, y.detach()))
    (grad,) = torch.autograd.grad(sum(m.sum() for m in outputs(result)), y, create_graph=True)
    assert grad.shape == y.shape
    sum(m.sum() for m in outputs(result)).backward()
    assert y.grad.shape == y.shape


def test_any_periods():
    ours = hf.MultiPeriodDiscriminator(periods=(4, 6, 23))
    plain = reference.MultiPeriodDiscriminator((4, 6, 23))
    plain.load_state_dict(ours.state_dict())
    close(ours(*parity.waveforms(1, 701)), plain(*parity.waveforms(1, 701)))


@pytest.mark.parametrize("layout", ["strided", "expanded", "channels first slice", "flipped"])
def test_waveforms_of_any_layout(layout):
    ours, plain = parity.build_pair("mpd")
    y, y_hat = parity.waveforms(2, 1400)
    change = {
        "strided": lambda x: x[..., ::2],
        "expanded": lambda x: x[:1].expand(2, 1, -1),
        "channels first slice": lambda x: torch.stack([x, x], 1)[:, 0],
        "flipped": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    }[layout]
    close(ours(change(y), change(y_hat)), plain(change(y), change(y_hat)))

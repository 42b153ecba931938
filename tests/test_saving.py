"""What a forward pass keeps of its maps, and what that costs in exactness and memory."""

import threading
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import hifigan_fast as hf
from hifigan_fast import parity
from hifigan_fast.passes.backward import Saved

pytestmark = pytest.mark.usefixtures("narrow", "poisoned")


def gradients(what, name, half):
    module = parity.build_pair(name)[0]
    y, y_hat = parity.waveforms(2, 1100)
    y_hat.requires_grad_()
    kept = []
    with hf.save(what), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = module(y, y_hat) if half == "maps" else hf.generator_step_loss(module, y, y_hat)
    if half == "maps":
        loss = hf.generator_loss(found[1])[0] + sum(m.square().mean() for own in found[3] for m in own)
    else:
        loss = found.adversarial + found.features
    parameters = list(module.parameters())
    own = {t.data_ptr() for t in (y, y_hat, *parameters, *module.buffers())}
    saved = {t.data_ptr(): t.numel() * t.itemsize for t in kept if t.data_ptr() not in own}
    return sum(saved.values()), torch.autograd.grad(loss, [y_hat, *parameters])


@pytest.mark.parametrize("half", ["maps", "step"])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_recomputing_keeps_no_map_and_gives_the_same_but_for_rounding(name, half):
    (all_bytes, expected), (bytes_kept, found) = (gradients(what, name, half) for what in ("maps", "recompute"))
    for a, b in zip(found, expected):  # fewer members may be computed by other transforms
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-9
    assert bytes_kept < 0.1 * all_bytes


@pytest.mark.parametrize("half", ["maps", "step"])
def test_bf16_halves_what_is_kept(half):
    (all_bytes, expected), (bytes_kept, found) = (gradients(what, "mpd", half) for what in ("maps", "bf16"))
    assert bytes_kept < 0.6 * all_bytes
    for a, b in zip(found, expected):
        assert (a - b).norm() <= 0.15 * b.norm() + 1e-9  # feature matching: near maps may round to equal ones


@pytest.mark.parametrize("half", ["maps", "step"])
def test_one_depth_at_a_time_is_as_it_was_before_it_was_rounded(half, monkeypatch):
    copies, most, read = [], [], Saved.__getitem__

    def counted(saved, depth):
        copies.append(weakref.ref(read(saved, depth)))
        most.append(len({id(own()) for own in copies if own() is not None}))
        return copies[-1]()

    monkeypatch.setattr(Saved, "__getitem__", counted)
    gradients("bf16", "mpd", half)
    assert len(most) >= 5 and set(most) == {1}


def under_frozen_discriminators(loss):
    """Gradients of the generated waveform, by maps that are saved and by recomputed ones."""
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 500)
    y_hat.requires_grad_()
    for what in ("maps", "recompute"):
        with hf.save(what), hf.frozen(mpd):
            total = loss(mpd, y, y_hat)
        yield torch.autograd.grad(total, y_hat)[0]


def test_recomputing_under_frozen_discriminators_and_one_wanted_member():
    def loss(mpd, y, y_hat):
        _, generated, _, fake_maps = mpd(y, y_hat)
        return fake_maps[1][2].square().sum() + generated[1].sum()

    assert torch.equal(*under_frozen_discriminators(loss))


def test_recomputing_a_step_under_frozen_discriminators():
    """Feature matching reads the real side's maps, of a waveform whose gradient nobody wants."""

    def loss(mpd, y, y_hat):
        found = hf.generator_step_loss(mpd, y, y_hat)
        return found.adversarial + found.features

    torch.testing.assert_close(*under_frozen_discriminators(loss), rtol=1e-4, atol=1e-7)


def test_kernels_are_judged_whatever_is_saved():
    with hf.save("bf16"):
        verdicts = parity.compare(*parity.build_pair("mpd", trained=True), *parity.waveforms(1, 1100))
    assert verdicts[None].passed, str(verdicts[None])


@pytest.mark.parametrize("block", [lambda: hf.save("recompute"), lambda: hf.use_backend("modules")])
def test_checkpointing_a_block_whose_backward_pass_runs_in_another_thread(block):
    """As on a GPU: the block is entered again with the checkpointed function."""
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 60)
    y_hat.requires_grad_()

    def scores(y, y_hat):
        with block():
            return sum(own.square().sum() for own in mpd(y, y_hat)[1])

    (expected,) = torch.autograd.grad(scores(y, y_hat), y_hat)
    total = checkpoint(scores, y, y_hat, use_reentrant=False)
    thread = threading.Thread(target=total.backward)
    thread.start()
    thread.join()
    assert torch.allclose(y_hat.grad, expected)


def test_the_environment_says_it_too(monkeypatch):
    from hifigan_fast import dispatch

    assert dispatch.to_save() == "maps"
    monkeypatch.setenv("HIFIGAN_FAST_SAVE", "recompute")
    assert dispatch.to_save() == "recompute"
    with hf.save("bf16"):
        assert dispatch.to_save() == "bf16"
    monkeypatch.setenv("HIFIGAN_FAST_SAVE", "some")
    with pytest.raises(ValueError, match="HIFIGAN_FAST_SAVE: got 'some', expected one of maps, bf16, recompute"):
        hf.DiscriminatorP(2)(torch.zeros(1, 1, 300))
    with pytest.raises(ValueError, match="what: got 'half'"), hf.save("half"):
        pass

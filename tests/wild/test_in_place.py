"""An accelerated module is the module it was: copied, pickled, compiled, wrapped, changed and restored like it."""

import copy
import io
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hifigan_fast as hf
from hifigan_fast import dispatch
from hifigan_fast.foreign.forward import FusedForward
from hifigan_fast.reference import losses

from ..needs import needs_extension
from .parts import Pair, Period, Scale
from .test_parity import built, waves
from .variants import CosyVoice, SpeechBrain

pytestmark = needs_extension


def is_fast(module):
    return isinstance(vars(module).get("forward"), FusedForward)


@pytest.fixture
def vits():
    dispatch.warn_once.cache_clear()
    torch.manual_seed(0)
    return Pair(Scale(), Period(2), Period(3))


def same_output(module, other, tolerance=1e-5):
    for a, b in zip(module(*waves(2))[0], other(*waves(2))[0], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def own(module):
    """A copy that is not accelerated."""
    other = copy.deepcopy(module)
    hf.restore(other)
    return other


def test_nothing_else_of_it_changes():
    module, _, _ = built("jik876 scales")
    module.eval()
    module.discriminators[1].conv_post.bias.requires_grad_(False)
    module.discriminators[0].conv_post.bias.grad = torch.ones(1)
    handle = module.register_forward_hook(lambda *_: None)
    attributes = {name: dict(vars(m)) for name, m in module.named_modules()}
    parameters = [(p, p.grad, p.requires_grad, p.detach().clone()) for p in module.parameters()]
    buffers = [(b, b.clone(), b._version) for b in module.buffers()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    report = hf.accelerate(module)
    assert report and is_fast(module)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    for p, (before, grad, flag, value) in zip(module.parameters(), parameters, strict=True):
        assert p is before and p.grad is grad and p.requires_grad == flag and torch.equal(p, value)
    for b, (before, value, version) in zip(module.buffers(), buffers, strict=True):
        assert b is before and b._version == version and torch.equal(b, value)
    hf.restore(module)
    for name, m in module.named_modules():  # but for legacy norms' stale weights, which lose their graphs
        now = vars(m)
        assert {k for k in attributes[name]} == set(now)
        assert all(now[k] is attributes[name][k] for k in now if k != "weight")
    seen = len(module._forward_hooks)
    handle.remove()
    assert seen == 1 and not module._forward_hooks, "hooks' handles still reach it"


def test_a_second_call_says_so_and_adds_nothing(vits):
    assert hf.accelerate(vits).entries[0].outcome == "accelerated"
    forward = vits.forward
    again = hf.accelerate(vits)
    assert again and "accelerated before" in str(again) and vits.forward is forward


def test_the_report_is_a_table_with_a_line_a_module(vits):
    net = nn.ModuleDict({"d": vits, "g": nn.Sequential(nn.Conv1d(80, 8, 7), nn.ConvTranspose1d(8, 1, 4))})
    report = hf.accelerate(net)
    (line,) = str(report).splitlines()[2:]
    assert line.split()[:3] == ["d", "Pair", "accelerated"] and "periods 2, 3 and 1 scale in 2 passes" in line


def test_what_a_wrapper_has_besides_stays_and_is_named():
    torch.manual_seed(0)
    module = CosyVoice()
    expected = module(*waves(2))
    report = hf.accelerate(module)
    assert report and is_fast(module.mpd) and not is_fast(module) and not is_fast(module.mrd)
    assert "mrd.discriminators.0" in str(report) and "a spectrogram discriminator" in str(report)
    for part, known in zip(module(*waves(2))[:2], expected):
        for a, b in zip(part, known, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_scales_beside_periods_that_reflect_in_every_layer():
    torch.manual_seed(0)
    module = SpeechBrain().eval()
    expected = module(*waves(1, 600))[0]
    report = hf.accelerate(module)
    assert is_fast(module.msd) and not is_fast(module) and not is_fast(module.mpd)
    assert "what follows mpd.discriminators.0.convs.0.conv is no leaky ReLU" in report.entries[0].why
    for a, b in zip(module(*waves(1, 600))[0], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_set_of_this_packages_classes_runs_together():
    module = Pair(hf.DiscriminatorP(2), hf.DiscriminatorP(3))
    for d in module.discriminators:
        small = Period(d.period)
        d.convs, d.conv_post = small.convs, small.conv_post
    report = hf.accelerate(module)
    assert is_fast(module) and "periods 2, 3 in 1 pass" in str(report)
    assert hf.accelerate(hf.MultiPeriodDiscriminator((2,))).entries[0].outcome == "fast already"


def test_it_is_proved_by_what_it_computes_whatever_is_saved(vits):
    with hf.save("bf16"):
        assert hf.accelerate(vits), "bfloat16 maps have gradients of their accuracy, which is what was asked for"


class Exact(Pair):
    """Computed without autocast, wherever it is called."""

    def forward(self, y, y_hat):
        with torch.autocast("cpu", enabled=False):
            return super().forward(y, y_hat)


class ExactScores(Pair):
    def forward(self, y, y_hat):
        real, generated, *maps = super().forward(y, y_hat)
        return [s.float() for s in real], [s.float() for s in generated], *maps


@pytest.mark.parametrize("kind", [Exact, ExactScores])
def test_what_does_not_follow_autocast_runs_its_own_forward_there(kind):
    dispatch.warn_once.cache_clear()
    module = kind(Period(2), Period(3))
    assert hf.accelerate(module)
    plain = own(module)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(UserWarning, match="own forward: it does not follow autocast"):
            found = module(*waves(2))
        assert "does not follow autocast" in hf.explain(module)
        expected = plain(*waves(2))
    for a, b in zip([*found[0], *sum(found[2], [])], [*expected[0], *sum(expected[2], [])], strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    same_output(module, plain)
    assert " cpu " in hf.explain(module)


def test_copies_are_fast_and_their_own(vits):
    hf.accelerate(vits)
    other = copy.deepcopy(vits)
    assert is_fast(other) and other.forward.module is other
    assert all(conv is not own for conv, own in zip(other.forward.members[0].convs, vits.forward.members[0].convs))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    same_output(other, own(other))
    loaded = Pair(Scale(), Period(2), Period(3))
    loaded.load_state_dict(vits.state_dict())
    same_output(vits, loaded)


def test_pickled_and_saved_whole(vits):
    hf.accelerate(vits)
    other = pickle.loads(pickle.dumps(vits))
    assert is_fast(other) and other.forward.module is other
    same_output(other, vits)
    file = io.BytesIO()
    torch.save(vits, file)
    file.seek(0)
    same_output(torch.load(file, weights_only=False), vits)


def test_compiled_without_a_graph_break(vits):
    expected = [s.detach() for s in vits(*waves(2))[0]]
    hf.accelerate(vits)
    compiled = torch.compile(vits, backend="eager", fullgraph=True)
    for a, b in zip(compiled(*waves(2))[0], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert hf.accelerate(vits)


def test_moved_to_another_dtype_it_runs_its_own_forward_and_says_so(vits):
    hf.accelerate(vits)
    vits.double()
    with pytest.warns(UserWarning, match="module by module in plain PyTorch.*float64"):
        found = vits(*(x.double() for x in waves(2)))
    assert found[0][0].dtype == torch.float64


CHANGES = {
    "a replaced member": lambda m: m.discriminators.__setitem__(1, Period(2)),
    "a period": lambda m: setattr(m.discriminators[1], "period", 5),
    "a stride": lambda m: setattr(m.discriminators[1].convs[1], "stride", (2, 1)),
    "a hook on a member": lambda m: m.discriminators[1].register_forward_hook(lambda m, x, out: (2 * out[0], out[1])),
    "a hook on a convolution": lambda m: m.discriminators[1].convs[1].register_forward_hook(lambda m, x, out: 2 * out),
    "a forward": lambda m: setattr(m.discriminators[1], "forward", lambda x: (x.flatten(1), [x])),
    "another member": lambda m: m.discriminators.append(Period(5)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_afterwards_is_seen(vits, change):
    hf.accelerate(vits)
    torch.manual_seed(1)
    change(vits)
    with pytest.warns(UserWarning, match="changed after accelerate|module by module"):
        found = vits(*waves(2))[0]
    hf.restore(vits)
    assert all(torch.equal(a, b) for a, b in zip(found, vits(*waves(2))[0], strict=True))


def test_other_norms_are_read_anew(vits):
    hf.accelerate(vits)
    expected = [s.detach() for s in vits(*waves(2))[0]]
    for m in vits.modules():
        if hasattr(m, "weight_g"):
            nn.utils.remove_weight_norm(m)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vits(*waves(2))[0]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_unusual_calls_get_its_own_answer(vits):
    y, y_hat = waves(2)
    calls = [(), (y,), (y, y_hat, y), (y, y_hat[..., :-1]), (y[0], y_hat[0]), (y[..., :1], y_hat[..., :1]), (y, None)]
    calls += [(y.bfloat16(), y_hat.bfloat16()), (y.double(), y_hat.double())]  # its parameters are of another dtype
    hf.accelerate(vits)
    known = own(vits)
    for args in calls:
        results = []
        for module in (vits, known):
            try:
                results.append([s.shape for s in module(*args)[0]])
            except Exception as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]
    for a, b in zip(vits(y_hat=y_hat, y=y)[0], vits(y, y_hat)[0]):
        assert torch.equal(a, b)


def test_ddp_around_it_and_within_it(vits, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(vits)
        report = hf.accelerate(wrapped)
        assert report.entries[0].name == "module" and is_fast(vits)
        losses.discriminator_loss(*wrapped(*waves(2))[:2])[0].backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for p in vits.parameters())


def _half(rank, port, folder):
    store = torch.distributed.TCPStore("127.0.0.1", port)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Pair(Scale(), Period(2), Period(3))
    assert hf.accelerate(net)
    wrapped = DistributedDataParallel(net)
    losses.discriminator_loss(*wrapped(*(x[rank : rank + 1] for x in waves(2)))[:2])[0].backward()
    if rank == 0:
        torch.save([p.grad for p in net.parameters()], f"{folder}/grads")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_whole_batch(vits, tmp_path):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(_half, (store.port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "grads")
    losses.discriminator_loss(*vits(*waves(2))[:2])[0].backward()
    for grad, p in zip(found, vits.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-5)


def test_explain_names_what_could_be_done_and_what_was(vits):
    with pytest.raises(ValueError, match=r"holds no discriminator of hifigan_fast; accelerate\(\) takes other"):
        hf.explain(vits)
    hf.accelerate(vits)
    lines = hf.explain(nn.ModuleDict({"d": vits})).splitlines()[2:]
    assert [line.split("  ")[0] for line in lines] == ["d, scale", "d, period 2", "d, period 3"]
    assert all(" cpu " in line for line in lines)
    vits.discriminators[1].period = 5
    assert hf.explain(vits).count("period of a Period changed after accelerate()") == 3


def test_explain_says_that_a_set_of_this_packages_classes_runs_one_by_one():
    module = Pair(hf.DiscriminatorP(2), hf.DiscriminatorP(3))
    lines = hf.explain(module).splitlines()[2:]
    assert "one discriminator at a time" in lines[0] and "accelerate() may run them together" in lines[0]
    assert len(lines) == 3

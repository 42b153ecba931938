"""Which backend runs, why, and how one asks for another."""

import contextlib
import copy
import functools
import importlib.machinery
import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.backends import cpu

from .needs import needs_extension

KERNELS = "the fastest that can run here"


@pytest.fixture
def mpd(narrow):
    dispatch.warn_once.cache_clear()
    return hf.MultiPeriodDiscriminator((2, 3))


def same_as_reference(module, y, y_hat, tolerance=1e-4):
    plain = reference.MultiPeriodDiscriminator((2, 3)).to(y)
    plain.load_state_dict(module.state_dict())
    for a, b in zip(module(y, y_hat)[0], plain(y, y_hat)[0]):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@needs_extension
def test_float32_runs_on_the_cpu_kernels(mpd):
    lines = hf.explain(mpd).splitlines()
    assert len(lines) == 4, "a header, a rule, and one line a discriminator"
    for index, line in enumerate(lines[2:]):
        assert line.split() == [f"discriminators.{index}", "convs.0–4,", "conv_post", "cpu", *KERNELS.split()]
    assert hf.explain(mpd.discriminators[1]).splitlines()[2].startswith("DiscriminatorP ")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_run_module_by_module_and_say_so_once(mpd, dtype):
    mpd = mpd.to(dtype)
    first, second = hf.explain(mpd).splitlines()[2:]
    assert "modules" in first and str(dtype).removeprefix("torch.") in first and second.endswith(" modules    the same")
    y, y_hat = parity.waveforms(1, 300, dtype)
    with pytest.warns(UserWarning, match="module by module in plain PyTorch: cpu: the C"):
        same_as_reference(mpd, y, y_hat, 1e-6 if dtype == torch.float64 else 5e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mpd(y, y_hat)


def test_use_backend_is_a_context_manager_that_nests(mpd):
    with hf.use_backend("reference"):
        assert "requested" in hf.explain(mpd)
        same_as_reference(mpd, *parity.waveforms(1, 300))
        if cpu.extension()[0]:
            with hf.use_backend("cpu"):
                assert " cpu " in hf.explain(mpd)
        assert " reference " in hf.explain(mpd)
    assert "requested" not in hf.explain(mpd)


def test_an_unknown_backend_raises_and_names_the_known_ones(mpd, monkeypatch):
    with pytest.raises(ValueError, match="backend: got 'gpu', expected one of .*reference"):
        hf.use_backend("gpu")  # without a block, too
    with pytest.raises(ValueError, match="what: got 'fp16', expected one of maps, bf16, recompute"):
        hf.save("fp16")
    monkeypatch.setenv("HIFIGAN_FAST_BACKEND", "gpu")
    with pytest.raises(ValueError, match="HIFIGAN_FAST_BACKEND: got 'gpu'"):
        mpd(*parity.waveforms(1, 300))


def test_the_environment_names_a_backend_too(mpd, monkeypatch):
    monkeypatch.setenv("HIFIGAN_FAST_BACKEND", "reference")
    assert "requested" in hf.explain(mpd)


@needs_extension
def test_a_requested_backend_is_never_replaced_in_silence(mpd):
    with hf.use_backend("cpu"), pytest.raises(ValueError, match="'cpu' was requested, but .*float64"):
        mpd.double()(*parity.waveforms(1, 300, torch.float64))


def test_a_hook_on_an_inner_convolution_runs_module_by_module(mpd):
    seen = []
    mpd.discriminators[0].convs[1].register_forward_hook(lambda *_: seen.append(1))
    assert "modules" in hf.explain(mpd) and "convs.1 has a forward hook" in hf.explain(mpd)
    with pytest.warns(UserWarning, match="module by module in plain PyTorch: convs.1 has a forward hook"):
        same_as_reference(mpd, *parity.waveforms(1, 300))
    assert len(seen) == 2
    rows = [line.split() for line in hf.explain(mpd).splitlines() if line.startswith("discriminators.")]
    assert rows[0][3:] == ["modules", "convs.1", "has", "a", "forward", "hook"] and "modules" not in rows[1]


def test_a_hook_on_a_discriminator_fires_and_the_rest_stays_fused(mpd):
    seen = []
    mpd.discriminators[0].register_forward_hook(lambda *_: seen.append(1))
    assert "discriminators.0 has a hook" in hf.explain(mpd)
    same_as_reference(mpd, *parity.waveforms(1, 300))
    assert len(seen) == 2


def test_norms_that_cannot_be_read_run_module_by_module(mpd):
    for d in mpd.discriminators:
        nn.utils.remove_weight_norm(d.convs[0])
        nn.utils.parametrizations.spectral_norm(d.convs[0])
    assert "convs.0 has a parametrization" in hf.explain(mpd)
    with pytest.warns(UserWarning, match="parametrization"):
        hf.discriminator_loss(*mpd(*parity.waveforms(1, 300))[:2])[0].backward()
    assert mpd.discriminators[0].convs[0].parametrizations.weight.original.grad is not None


def test_removed_norms_run_fused(mpd):
    y, y_hat = parity.waveforms(1, 300)
    before = mpd(y, y_hat)[0][0]
    for d in mpd.discriminators:
        for conv in (*d.convs, d.conv_post):
            nn.utils.remove_weight_norm(conv)
    assert "modules" not in hf.explain(mpd)
    torch.testing.assert_close(mpd(y, y_hat)[0][0], before)


@pytest.mark.parametrize("dtype, runs", [(torch.bfloat16, " cpu "), (torch.float16, "modules")])
@needs_extension
def test_autocast_runs_fused_where_there_are_kernels_for_its_dtype(mpd, dtype, runs):
    with torch.autocast("cpu", dtype):
        assert runs in hf.explain(mpd)
        with pytest.warns(UserWarning, match="float16") if runs == "modules" else contextlib.nullcontext():
            real, generated, _, _ = mpd(*parity.waveforms(1, 300))
    assert real[0].dtype == dtype
    hf.discriminator_loss([r.float() for r in real], [g.float() for g in generated])[0].backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in mpd.parameters())


@needs_extension
def test_parameters_of_half_precision_under_autocast(mpd):
    """They are converted before a kernel reads them; float64 ones are refused, as by the reference."""
    y, y_hat = parity.waveforms(1, 300)
    expected = mpd(y, y_hat)[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        found = copy.deepcopy(mpd).half()(y, y_hat)
        with pytest.raises(ValueError, match="y: expected the dtype of the parameters, torch.float64"):
            copy.deepcopy(mpd).double()(y, y_hat)
    torch.testing.assert_close(found[0][0].float(), expected, rtol=0.1, atol=0.05)
    found[0][0].float().sum().backward()


def test_a_hook_on_a_parametrization_is_seen(mpd):
    for d in mpd.discriminators:
        nn.utils.remove_weight_norm(d.convs[1])
        nn.utils.parametrizations.weight_norm(d.convs[1])
    assert "modules" not in hf.explain(mpd) or cpu.extension()[0] is None
    mpd.discriminators[0].convs[1].parametrizations.weight.register_forward_hook(lambda m, args, out: out * 0)
    assert "convs.1 has a parametrization" in hf.explain(mpd)


@needs_extension
def test_bfloat16_modules_run_fused(mpd):
    mpd = mpd.bfloat16()
    assert hf.explain(mpd).count(" cpu ") == 2
    y, y_hat = parity.waveforms(1, 300, torch.bfloat16)
    same_as_reference(mpd, y, y_hat, 5e-2)
    hf.discriminator_loss(*mpd(y, y_hat)[:2])[0].backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in mpd.parameters())


def test_a_subclassed_discriminator_is_called(mpd):
    class Louder(hf.DiscriminatorP):
        def forward(self, x):
            return super().forward(2 * x)

    louder = Louder(2)
    louder.load_state_dict(mpd.discriminators[0].state_dict())
    y, y_hat = parity.waveforms(1, 300)
    expected = mpd(2 * y, y_hat)[0][0]
    mpd.discriminators[0] = louder
    assert torch.equal(mpd(y, y_hat)[0][0], expected)


def different_layers(mpd):
    mpd.discriminators[1] = hf.DiscriminatorP(3, kernel_size=3)


def a_hook(mpd):
    mpd.discriminators[1].register_forward_hook(lambda *_: None)


def a_hook_within(mpd):
    mpd.discriminators[0].convs[1].register_forward_hook(lambda *_: None)


def a_forward_of_its_own(mpd):
    mpd.discriminators[1].forward = functools.partial(hf.DiscriminatorP.forward, mpd.discriminators[1])


ONE_BY_ONE = {
    "the discriminators differ in their layers": different_layers,
    "discriminators.1 has a hook": a_hook,
    "discriminators.0.convs.1 has a forward hook": a_hook_within,
    "discriminators.1 has a forward of its own": a_forward_of_its_own,
}


@pytest.mark.parametrize("reason, change", ONE_BY_ONE.items(), ids=ONE_BY_ONE)
def test_discriminators_that_run_one_by_one_say_so_once(mpd, reason, change):
    change(mpd)
    y, y_hat = parity.waveforms(1, 700)
    assert ["one", "discriminator", "at", "a", "time", *reason.split()] == hf.explain(mpd).splitlines()[2].split()[2:]
    with pytest.warns(UserWarning, match=f"hifigan_fast: running one discriminator at a time: {reason}"):
        found = mpd(y, y_hat)[0][1]
    torch.testing.assert_close(found, mpd.discriminators[1](y)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mpd(y, y_hat)
        hf.discriminator_step_loss(mpd, y, y_hat)


@pytest.mark.parametrize("change", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_what_was_asked_for_is_not_warned_of(mpd, change):
    change(mpd)
    with warnings.catch_warnings(), hf.use_backend("modules"):
        warnings.simplefilter("error")
        mpd(*parity.waveforms(1, 300))


PATCHES = {
    "dilation": lambda d: setattr(d.convs[1], "dilation", (2, 1)),
    "padding mode": lambda d: (setattr(d.convs[1], "padding_mode", "reflect"), d.convs[1].__setstate__({})),
    "kernel of two columns": lambda d: d.convs.__setitem__(1, nn.Conv2d(32, 128, (5, 2), (3, 1), (2, 1))),
    "stride over columns": lambda d: setattr(d.convs[1], "stride", (3, 2)),
    "same padding": lambda d: d.convs.__setitem__(4, nn.Conv2d(1024, 1024, (5, 1), padding="same")),
    "a forward of its own": lambda d: setattr(d.convs[1], "forward", lambda x: 2 * nn.Conv2d.forward(d.convs[1], x)),
    "what its forward calls": lambda d: setattr(d.convs[1], "_conv_forward", lambda x, w, b: F.conv2d(x, 2 * w, b)),
    "wrapped": lambda d: d.convs.__setitem__(1, nn.Sequential(d.convs[1])),
    "the discriminator's own forward": lambda d: setattr(d, "forward", lambda x: (x.flatten(1), [x])),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_a_patched_discriminator_does_what_the_reference_would(patch):
    results = []
    for module in (hf, reference):
        torch.manual_seed(0)
        mpd = module.MultiPeriodDiscriminator((2, 3))
        torch.manual_seed(1)
        patch(mpd.discriminators[1])
        results.append(mpd(*parity.waveforms(1, 600))[0][1])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_modules_can_be_asked_for_by_name(mpd):
    y, y_hat = parity.waveforms(1, 300)
    with hf.use_backend("modules"):
        assert "modules" in hf.explain(mpd) and "requested" in hf.explain(mpd)
        real, _, maps, fake_maps = mpd(y, y_hat)
        hf.feature_loss(maps, fake_maps)
        assert torch.autograd.grad(real[0].sum(), maps[0][1])[0].any(), "a map is a part of the graph here"


def test_tracing_counting_and_meta_tensors_see_the_operations(mpd):
    from torch.utils.flop_counter import FlopCounterMode

    y, y_hat = parity.waveforms(1, 300)
    counts = []
    for module in (mpd, reference.MultiPeriodDiscriminator((2, 3))):
        with FlopCounterMode(display=False) as counter:
            module(y, y_hat)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    meta = torch.zeros(1, 1, 300, device="meta")
    assert hf.MultiPeriodDiscriminator((2,)).to("meta")(meta, meta)[0][0].shape == (1, 4)


def test_a_global_hook_sees_every_module(mpd):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        mpd(*parity.waveforms(1, 300))
    finally:
        handle.remove()
    assert seen.count(nn.Conv2d) == 2 * 2 * 6


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_patched_class_of_convolutions_sees_each_call(mpd, monkeypatch, name):
    """Also of discriminators that ran before: as extensions patch it that add to every convolution."""
    y, y_hat = parity.waveforms(1, 300)
    mpd(y, y_hat)
    seen, own = [], getattr(nn.Conv2d, name)
    monkeypatch.setattr(nn.Conv2d, name, lambda self, *args: (seen.append(self), own(self, *args))[1])
    assert "a class of convolutions is patched" in hf.explain(mpd)
    mpd(y, y_hat)
    assert len(seen) == 2 * 2 * 6


@needs_extension
def test_a_refused_backend_does_not_move_the_spectral_norm():
    msd = hf.MultiScaleDiscriminator().double()
    before = [b.clone() for b in msd.buffers()]
    with hf.use_backend("cpu"), pytest.raises(ValueError):
        msd(*parity.waveforms(1, 300, torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before, msd.buffers()))


def test_explain_wants_a_discriminator():
    with pytest.raises(ValueError, match="module: Linear holds no discriminator"):
        hf.explain(nn.Linear(2, 2))


def run_python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


WITHOUT_EXTENSION = """
import sys
sys.modules["hifigan_fast._cpu"] = None
import warnings
import torch, hifigan_fast as hf
from hifigan_fast import info
d = hf.DiscriminatorP(2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    d(torch.randn(1, 1, 300)); d(torch.randn(1, 1, 300))
said = [str(w.message) for w in caught if "hifigan_fast" in str(w.message)]
assert len(said) == 1 and "extension is not installed" in said[0], said
assert "not installed" in dict(info.rows())["C++ extension"]
assert "modules" in hf.explain(d) and "not installed" in hf.explain(d)
with hf.use_backend("reference"):
    assert "reference" in hf.explain(d)
    d(torch.randn(1, 1, 300))
"""


def test_an_extension_that_does_not_load_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / f"_cpu{importlib.machinery.EXTENSION_SUFFIXES[-1]}").write_text("built for another machine")
    monkeypatch.setattr(hf, "__path__", [str(tmp_path)])
    monkeypatch.delattr(hf, "_cpu", raising=False)
    monkeypatch.delitem(sys.modules, "hifigan_fast._cpu", raising=False)
    module, why = cpu.extension.__wrapped__()
    assert module is None and "the C++ extension does not load (" in why and str(tmp_path) in why


def test_without_the_extension_it_works_and_says_so_once():
    done = run_python(WITHOUT_EXTENSION)
    assert done.returncode == 0, done.stderr


@needs_extension
def test_the_environment_forces_an_instruction_set():
    code = "from hifigan_fast.backends import cpu; print(cpu.extension()[0].instruction_set())"
    assert run_python(code, HIFIGAN_FAST_CPU_ISA="portable").stdout.strip() == "portable"
    done = run_python(code, HIFIGAN_FAST_CPU_ISA="sse9")
    assert done.returncode and "HIFIGAN_FAST_CPU_ISA: got 'sse9', expected one of" in done.stderr


@needs_extension
def test_a_forked_child_can_call_after_its_parent_did():
    code = """
import os, torch, hifigan_fast as hf
d = hf.DiscriminatorP(2)
x = torch.randn(2, 1, 4000)
expected = d(x)[0]
child = os.fork()
if child == 0:
    with torch.no_grad():
        os._exit(0 if torch.equal(d(x)[0], expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@needs_extension
def test_the_result_does_not_depend_on_the_thread_count(mpd):
    y, y_hat = parity.waveforms(1, 2000)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            module = hf.MultiPeriodDiscriminator((2, 3))
            module.load_state_dict(copy.deepcopy(mpd.state_dict()))
            hf.discriminator_loss(*module(y, y_hat)[:2])[0].backward()
            results.append([p.grad for p in module.parameters()])
    finally:
        torch.set_num_threads(before)
    for grads in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads, results[0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_reference_backend_takes_any_floating_dtype(mpd, dtype):
    with hf.use_backend("reference"):
        assert " reference " in hf.explain(mpd.to(dtype))
        same_as_reference(mpd, *parity.waveforms(1, 300, dtype), 1e-6 if dtype == torch.float64 else 5e-2)

"""Kernels are compiled once for all batches and lengths, by Triton's own keys: nothing is compiled here."""

import random
import re
from pathlib import Path

import pytest
import torch
from triton.runtime import driver

import hifigan_fast as hf
from hifigan_fast import dispatch
from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.backends.gpu.kernels import instead, instead_of_launching
from hifigan_fast.backends.triton import ahead, pooling

BACKEND = dispatch.BACKENDS["triton"]

SHAPES = [(15, 8192), (3, 5001), (7, 16384), (1, 8191), (2, 1023), (1, 407), (5, 4999)]
_random = random.Random(0)
SHAPES += [(_random.randint(1, 5), _random.randint(400, 6000)) for _ in range(13)]


@pytest.fixture
def asked():
    """(kernel, key) of all that Triton was asked to launch: it compiles once a key."""
    found = set()

    def ask(kernel, grid, args, meta):
        *_, binder = kernel.device_caches[driver.active.get_current_device()]
        _, specialisation, options = binder(*args, **meta)
        found.add((kernel.__name__, str(specialisation), str(options)))

    with ahead.pretending(Absent("sm_80")), instead_of_launching(ask), dispatch.use_backend("triton"):
        yield found


def steps(modules, y, y_hat):
    """Everything that a training loop may do with both ensembles: apart, together, and by the step losses."""
    scores = [[], []]
    for m in modules:
        real, generated, _, _ = m(y, y_hat)
        scores = [own + more for own, more in zip(scores, (real, generated))]
        hf.discriminator_loss(real, generated)[0].backward(retain_graph=True)
    hf.discriminator_loss(*scores)[0].backward()
    hf.discriminator_step_loss(modules, y, y_hat).adversarial.backward()
    y_hat = y_hat.clone().requires_grad_()
    for m in modules:
        with hf.frozen(m):
            _, generated, real_maps, generated_maps = m(y, y_hat)
            (hf.generator_loss(generated)[0] + hf.feature_loss(real_maps, generated_maps)).backward()
            losses = hf.generator_step_loss(m, y, y_hat)
            (losses.adversarial + losses.features).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.exhaustive)])
def test_a_new_batch_or_length_compiles_nothing(dtype, narrow, asked):
    modules = [hf.MultiPeriodDiscriminator((2, 3, 5)), hf.MultiScaleDiscriminator()]
    counts = []
    for batch, length in [(4, 2048), *SHAPES]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            steps(modules, *torch.zeros(2, batch, 1, length, dtype=torch.float32, device="cpu"))
        counts.append(len(asked))
    assert counts[0] > 70 and len(set(counts)) == 1, dict(zip(SHAPES, counts[1:]))


def test_tensors_that_begin_anywhere_compile_nothing(asked):
    """Logits, maps and waveforms of a caller, at every distance from an aligned address."""
    sizes = 8, 4096, 77
    for at in range(9):
        memory = [torch.zeros(at + n, dtype=torch.float16, device="cpu")[at:] for n in sizes]
        BACKEND.squared_means(memory, (1, 1, 0), torch.float32)
        scalar = torch.zeros(at + 1, dtype=torch.float32, device="cpu")[at]
        BACKEND.squared_means_backward(memory, (1, 1, 0), scalar, None, [True, at < 5, True])
        BACKEND.feature_l1(memory, memory[::-1])
        of_means = torch.zeros(at + 3, dtype=torch.float32, device="cpu")[at:]
        BACKEND.feature_l1_backward(memory, memory[::-1], of_means, [at > 3] * 3, [True] * 3)
        waves = [torch.zeros(at + 2048, dtype=torch.float32, device="cpu")[at:].view(2, 1, 1024) for _ in range(2)]
        BACKEND.pooled(waves, [1024, 513, 257])
    names = sorted(name for name, _, _ in asked)
    assert names == ["gradients", "gradients", "means", "pooled", "squared_means"]


def test_pooling_compiles_once_for_all_lengths(asked):
    sides, tiles = (torch.empty(64),), torch.empty(1, 5, dtype=torch.int64)
    for lengths in ((8192, 4097), (8191, 4096), (1, 1)):
        instead()(pooling.pooled, (1,), (sides, torch.empty(64), tiles, *lengths), {"BLOCK": 1024})
    assert len(asked) == 1


def test_multiply_adds_are_fused_whatever_the_default(monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    made, waves = [], [torch.zeros(2, 1, 64, dtype=torch.float32, device="cpu")]
    with (
        ahead.pretending(Absent("sm_80")),
        instead_of_launching(lambda *launch: made.append(ahead.compile_only(*launch))),
    ):
        BACKEND.pooled(waves, [64, 33, 17])
    assert made[0].metadata.enable_fp_fusion and "fma.rn.f32" in made[0].asm["ptx"]


def test_no_product_goes_by_triton_s_default_precision():
    sources = "".join(path.read_text() for path in Path(ahead.__file__).parent.glob("*.py"))
    calls = re.findall(r"tl\.dot\(.*\)", sources)
    assert calls and all("input_precision=" in call for call in calls)

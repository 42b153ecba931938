"""Where the table says so, PyTorch's own convolution runs a layer of the Triton backend: in its interpreter here."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.backends.triton import configs

from .small import SmallEnsemble
from .test_properties import build

BACKEND = dispatch.BACKENDS["triton"]
REASON = BACKEND.cannot_run(torch.device("cpu"), torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(autouse=True)
def used(by_library, monkeypatch):
    """The directions that the library has run: all, by the end of a test."""
    from hifigan_fast.backends.triton import library

    found = set()
    for direction in configs.DIRECTIONS:
        run = getattr(library, direction)
        monkeypatch.setattr(library, direction, lambda *args, run=run: (found.add(run.__name__), run(*args))[1])
    yield found
    assert found == set(configs.DIRECTIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "case", [{}, {"periods": (1, 4, 6), "samples": 3}, {"folded": False, "norm": "mixed", "sigmas": 2}]
)
def test_parity(case, dtype, poisoned):
    assert SmallEnsemble(**case).worst_ratio(BACKEND, dtype) <= parity.LIMIT


def test_step_losses():
    """Gradients of maps that are made where they are added, and a real side without a backward pass."""
    found = []
    for kind in (hf, reference):
        module = build(hf, (2, 3)).requires_grad_(False)
        y, y_hat = parity.waveforms(2, 150)
        y_hat.requires_grad_()
        with hf.use_backend("triton"):
            losses = kind.generator_step_loss(module, y, y_hat)
            found.append(torch.autograd.grad(losses.adversarial + losses.features, y_hat))
        if kind is hf:
            module.requires_grad_()
            with hf.use_backend("triton"):
                hf.discriminator_step_loss(module, y, y_hat.detach()).adversarial.backward()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-8)


def test_the_sides_of_a_stack_are_one_convolution():
    from hifigan_fast.backends.triton import library

    small = SmallEnsemble(norm="mixed", sigmas=2)
    members = tuple(small.ensemble.members)
    joined = library._joined(small.ensemble.runs(1, members))
    assert [len(parts) for _, parts in joined] == [1, 1, 1, 1]
    small = SmallEnsemble()
    joined = library._joined(small.ensemble.runs(1, tuple(small.ensemble.members)))
    assert [len(parts) for _, parts in joined] == [2, 2]
    small.on(BACKEND)

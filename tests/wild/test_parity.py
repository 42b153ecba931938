"""What an accelerated module returns and sends back is what it did before; nothing else of it changes."""

import copy
import warnings
from unittest import mock

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import parity
from hifigan_fast.foreign.conventions import tensors_in
from hifigan_fast.passes import backward, gradients

from ..needs import needs_extension
from ..small import assert_alike
from .variants import TAKEN, VocosPair


def waves(count, length=173, dtype=torch.float32, dims=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, length) if dims == 3 else (2, length)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


def results(module, inputs):
    """Nested output, and every tensor of a call: outputs, gradients of a smooth function of them, buffers."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = module(*inputs)
    generator = torch.Generator().manual_seed(1)
    total = sum(parity.weigh(t, generator) for t in tensors_in(output))
    grads = torch.autograd.grad(total, [*inputs, *module.parameters()])
    return output, [t.detach() for t in (*tensors_in(output), *grads, *module.buffers())]


def nesting(output):
    if isinstance(output, (list, tuple)):
        return type(output), [nesting(part) for part in output]
    if isinstance(output, dict):
        return type(output), {key: nesting(part) for key, part in output.items()}
    return output if output is None else (output.shape, output.dtype, output.requires_grad)


def built(name, dtype=torch.float32):
    torch.manual_seed(0)
    build, count, passes = TAKEN[name]
    return build().to(dtype), count, passes


@pytest.mark.parametrize("name", TAKEN)
def test_results_are_its_own_in_float64(name):
    """Outputs, gradients and a training step's buffers, on lengths that the periods divide and do not."""
    module, count, passes = built(name, torch.float64)
    dims = 2 if isinstance(module, VocosPair) else 3
    taken_whole_and_stays_itself(module, passes, [waves(count, length, torch.float64, dims) for length in (173, 222)])


def taken_whole_and_stays_itself(module, passes, inputs):
    """Accelerated, it gives for all inputs in turn what it gives by itself, in float64; its state dict stays."""
    before, found = copy.deepcopy(module.state_dict()), []
    with hf.use_backend("reference"):
        for fused in (True, False):
            module.load_state_dict(before)
            if fused:
                (entry,) = hf.accelerate(module).entries
                assert entry.outcome == "accelerated" and f"in {passes} pass" in entry.why
                same_state(module.state_dict(), before)
            found.append([results(module, x) for x in inputs])
            hf.restore(module)
    for (output, ours), (own_output, own) in zip(*found):
        assert nesting(output) == nesting(own_output)
        for a, b in zip(ours, own, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def same_state(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@needs_extension
@pytest.mark.parametrize("name", ["vits", "jik876 scales", "coqui vocoder", "parallel wavegan", "dac"])
def test_parameters_after_five_steps_are_its_own(name):
    """With the C++ kernels, in float32."""
    found = []
    for fused in (True, False):
        module, count, _ = built(name)
        assert not fused or hf.accelerate(module)
        optimizer = torch.optim.SGD(module.parameters(), 0.05)
        for step in range(5):
            outputs = tensors_in(module(*waves(count, 300, seed=step)))
            optimizer.zero_grad()
            sum((t - 1).square().mean() for t in outputs).backward()
            optimizer.step()
        found.append(module.state_dict())
    start = built(name)[0].state_dict()
    assert any(not torch.equal(a, b) for a, b in zip(start.values(), found[0].values()))
    for key in start:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-4, atol=1e-6)


@needs_extension
def test_a_second_calls_gradients_are_added_in_place():
    """Into the first one's: fresh memory for a sum of all parameters would cost a tenth of a step."""
    module, _, _ = built("coqui vocoder")
    assert hf.accelerate(module)
    found, of_arguments = [], gradients.of_arguments

    def watched(*args):
        grads = of_arguments(*args)
        found.extend(grad.data_ptr() for grad in grads if grad is not None)
        return grads

    with mock.patch.object(gradients, "of_arguments", watched):
        sum(s.square().mean() for x in waves(2) for s in module(x)[0]).backward()
    assert all(p.grad.data_ptr() in found for p in module.parameters())


@needs_extension
def test_a_generators_half_by_its_own_losses():
    """VITS detaches the real maps: the real half has no backward."""
    module, _, _ = built("vits")
    y, y_hat = waves(2)
    grads, actives = [], []
    run = backward.Backward.run

    def watched(self):
        actives.append(self.active)
        return run(self)

    for _ in range(2):
        x = y_hat.clone().requires_grad_()
        with mock.patch.object(backward.Backward, "run", watched):
            _, scores, real, generated = module(y, x)
            pairs = [(a.detach(), b) for r, g in zip(real, generated) for a, b in zip(r, g)]
            loss = sum((a - b).abs().mean() for a, b in pairs) * 2 + sum(((1 - s) ** 2).mean() for s in scores)
            grads.append(torch.autograd.grad(loss, [x, *module.parameters()]))
        hf.accelerate(module)
    assert_alike(grads[1], grads[0])
    assert len(actives) == 2 and all(side == 1 for active in actives for _, side in active)


@needs_extension
@pytest.mark.parametrize("name", ["vits", "parallel wavegan"])
def test_autocast_to_bfloat16(name):
    found = []
    for fused in (True, False):
        module, count, _ = built(name)
        assert not fused or hf.accelerate(module)
        with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
            warnings.simplefilter("error")
            output = tensors_in(module(*waves(count)))
        assert output[0].dtype == torch.bfloat16
        grads = torch.autograd.grad(sum(t.float().square().mean() for t in output), list(module.parameters()))
        found.append([*output, *grads])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype and (a.float() - b.float()).norm() <= 0.05 * b.float().norm() + 1e-3


@needs_extension
def test_frozen_gives_the_generators_gradient_only():
    module, _, _ = built("vits")
    assert hf.accelerate(module)
    y, y_hat = waves(2)
    y_hat.requires_grad_()
    with hf.frozen(module):
        _, scores, _, _ = module(y, y_hat)
        sum(s.square().mean() for s in scores).backward()
    assert y_hat.grad.any() and all(p.grad is None for p in module.parameters())

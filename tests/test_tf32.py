"""What kernels are held against in TF32: plain PyTorch whose convolutions round their operands, and nothing else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hifigan_fast import parity, reference
from hifigan_fast.backends.gpu import devices
from hifigan_fast.backends.gpu.devices import Absent
from hifigan_fast.reference import tf32


def rounded(x):
    return tf32.Operand.apply(x)


def test_operands_are_the_nearest_with_ten_bits():
    ulp = tf32.EPS
    given = [1.0, 1 + ulp, 1 + 0.49 * ulp, 1 + 0.51 * ulp, 1 + 0.5 * ulp, 1 + 1.5 * ulp, -1 - 1.5 * ulp, 0.0, 3e-39]
    nearest = [1.0, 1 + ulp, 1.0, 1 + ulp, 1.0, 1 + 2 * ulp, -1 - 2 * ulp, 0.0]
    found = rounded(torch.tensor(given, dtype=torch.float32, device="cpu"))
    assert found[:-1].tolist() == nearest and abs(found[-1].item() - 3e-39) < 1e-41
    random = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    many = rounded(torch.from_numpy(random)).numpy()
    assert (np.abs(many - random) <= 0.5 * ulp * 2.0 ** np.floor(np.log2(np.abs(random)))).all()


@pytest.mark.parametrize(
    "convolution, shape, weight", [(F.conv1d, (2, 4, 30), (6, 2, 5)), (F.conv2d, (2, 4, 9, 3), (6, 2, 5, 1))]
)
def test_all_three_directions_round_their_operands_and_biases_do_not(convolution, shape, weight):
    random = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(size, generator=random, dtype=torch.float32, device="cpu").requires_grad_()
        for size in (shape, weight, weight[:1])
    )
    with tf32.InTF32():
        out = convolution(x, w, b, 1, 0, 1, 2)
        grad = torch.randn(out.shape, generator=random, dtype=torch.float32, device="cpu")
        out.backward(grad)
    a, v = (rounded(t.detach()).double().requires_grad_() for t in (x, w))
    right = convolution(a, v, b.detach().double(), 1, 0, 1, 2)
    right.backward(rounded(grad).double())
    for ours, exact in ((out, right), (x.grad, a.grad), (w.grad, v.grad)):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(b.grad, grad.transpose(0, 1).flatten(1).sum(1))


ALIKE = ((1, 4), torch.float32), ((4, 1), torch.float32), ((4, 4), torch.float64)


@pytest.mark.parametrize("channels, dtype", ALIKE)
def test_layers_of_one_channel_and_other_dtypes_are_as_they_are(channels, dtype):
    shapes = (1, channels[0], 30), (channels[1], channels[0], 5)
    x, w = (torch.randn(shape, dtype=dtype, device="cpu") for shape in shapes)
    with tf32.InTF32():
        inside = F.conv1d(x, w, None)
    assert torch.equal(inside, F.conv1d(x, w, None))


class Coarse(reference.MultiPeriodDiscriminator):
    """Judged with operands of fewer bits."""


def verdict(bits, scale):
    """On plain PyTorch whose convolutions round operands, scaled, to so many bits, held against TF32's ten."""
    torch.manual_seed(0)
    ours = parity.trained_like(Coarse([3]))
    plain = reference.MultiPeriodDiscriminator([3])
    plain.load_state_dict(ours.state_dict())
    nearest = tf32.Operand.forward

    def in_its_way(function):
        def judged(module, *how, **more):
            if not isinstance(module if isinstance(module, torch.nn.Module) else module(), Coarse):
                return function(module, *how, **more)
            with pytest.MonkeyPatch.context() as patch, tf32.InTF32():
                patch.setattr(tf32, "DROPPED", 23 - bits)
                patch.setattr(
                    tf32.Operand, "forward", staticmethod(lambda context, x: nearest(None, x * scale) / scale)
                )
                return function(module, *how, **more)

        return judged

    with devices.standing_for(Absent("sm_90", tf32=True)), pytest.MonkeyPatch.context() as patch:
        for name in ("evaluate", "evaluate_steps"):
            patch.setattr(parity, name, in_its_way(getattr(parity, name)))
        return parity.compare(ours, plain, *parity.waveforms(1, 4099), ["reference"], steps=True)["reference"]


@pytest.mark.parametrize("scale", [1.3, 1.7])
def test_operands_that_are_rounded_otherwise_as_exactly_pass(scale):
    assert verdict(10, scale).passed


def test_fewer_bits_than_tf32_has_fail():
    """In every class of gradients; bfloat16 has seven bits."""
    found = verdict(8, 1.3)
    assert not found.passed and found.ratio > 3
    assert all(ratio > parity.LIMIT for kind, (ratio, _) in found.worst.items() if kind.endswith("gradients"))

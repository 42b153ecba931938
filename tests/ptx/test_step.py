"""Every kernel of a training step, compiled with the shipped configurations for two generations and executed."""

import contextlib
import functools
import re

import pytest
import torch
from triton.runtime.jit import JITFunction

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, pooling
from hifigan_fast.backends.cuda import windows
from hifigan_fast.backends.cuda.kernel import Kernel
from hifigan_fast.backends.cuda.kernels import CudaKernels
from hifigan_fast.backends.triton import configs
from hifigan_fast.geometry import Layer
from hifigan_fast.reference.tf32 import InTF32

from ..small import SmallEnsemble, assert_power_iterations_are_right
from .faults import Stuck
from .launch import executing, executing_cuda
from .windows import planted

TRITON, CUDA = (dispatch.BACKENDS[name] for name in ("triton", "cuda"))
EXECUTING = {"triton": executing, "cuda": executing_cuda}
TARGETS = (TRITON, 80), (TRITON, 90), (CUDA, 75), (CUDA, 80), (CUDA, 90)
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HEAD = {"taps": 3, "stride": 1, "padding": 1, "slope": 1.0}


def scale(groups, first, second, length=150, **case):
    layers = Layer(1, first, 5, 4, 2), Layer(first, second, 41, 4, 20, groups), Layer(second, 1, **HEAD)
    return {"layers": layers, "periods": (1,), "folded": False, "length": length, **case}


DENSE = Layer(1, 32, 5, 3, 2), Layer(32, 128, 5, 3, 2), Layer(128, 136, 5, 1, 2), Layer(136, 1, **HEAD)
LONG_ROWS = Layer(1, 1100, 3, 3, 1), Layer(1100, 40, 5, 3, 2), Layer(40, 8, 150, 2, 75), Layer(8, 1, **HEAD)
# Every class of layers; groups wider and narrower than a block, odd channels, folds, norms, weights shared and not.
ENSEMBLES = {
    "odd channels": {"norm": "weight"},
    "spectral norm, two sigmas": {"norm": "spectral", "sigmas": 2, "folded": False},
    "both norms, periods 1 and 11": {"norm": "mixed", "periods": (1, 11), "length": 97},
    "dense": {"layers": DENSE},
    "groups of 8": scale(4, 16, 32),
    "groups of 32 and 64": scale(2, 64, 128, periods=(1, 1)),
    "256 groups of 4": scale(256, 1024, 1024, 60, samples=1),
    "rows of weights in several parts": {"layers": LONG_ROWS, "periods": (1,), "length": 60, "samples": 1},
    "a long stem": {"layers": (Layer(1, 48, 300, 2, 150), Layer(48, 1, **HEAD)), "length": 30, "samples": 1},
}


@contextlib.contextmanager
def judged(backend, target, arithmetic, edit=None):
    """Within the block the backend's kernels are executed; no faults."""
    if target < 80 and arithmetic in ("tf32", "bfloat16"):
        pytest.skip(f"compute capability {target / 10} has no {arithmetic}")
    session = EXECUTING[backend.name](target, edit, tf32=arithmetic == "tf32")
    with session as session:
        yield session
    assert not session.faults, str(session.faults)


def assert_step_is_right(name, arithmetic, backend, target, length=150):
    """Maps, losses and gradients of an ensemble, called and by the step losses -> the session."""
    dtype, pair = DTYPES[arithmetic], parity.build_pair(name, trained=True)
    with judged(backend, target, arithmetic) as session:
        waves = parity.waveforms(1, length)
        autocast = dtype if dtype.itemsize == 2 else None
        verdict = parity.compare(*pair, *waves, [backend.name], autocast=autocast, steps=True)[backend.name]
    assert verdict.passed, verdict.worst
    return session


def assert_losses_are_right(dtype, backend, target):
    """Of logits and maps that begin anywhere, some too long for one program -> the session."""
    random = torch.Generator().manual_seed(0)
    scores = [torch.randn(size, generator=random).to(dtype) for size in ((2, 1), (2, 1500), (1, 9), (3, 5))]
    memory = [torch.randn(size, generator=random).to(dtype) for size in (1, 1024, 2 * 16384 + 3, 4001)]
    real = [*memory[:3], memory[3][1:]]
    generated = [(m + 0.1).to(dtype) for m in real]
    generated[1][5] = real[1][5]

    def run(kind):
        leaves = [[t.to(kind).detach().requires_grad_() for t in own] for own in (scores, scores, real, generated)]
        adversarial = hf.discriminator_loss(leaves[0], leaves[1][:2])[0] + 0.5 * hf.generator_loss(leaves[1])[0]
        features = hf.feature_loss([leaves[2]], [leaves[3]])
        (adversarial + features).backward()
        return [adversarial.detach(), features.detach(), *(t.grad for own in leaves for t in own if t.grad is not None)]

    with judged(backend, target, str(dtype)[6:]) as session, hf.use_backend(backend.name):
        found = run(dtype)
    with hf.use_backend("reference"):
        right = run(torch.float64)
    for ours, theirs in zip(found, right, strict=True):
        eps = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.double(), theirs, rtol=8 * eps, atol=eps)
    return session


def worst_ratio(name, arithmetic, backend, target, edit=None):
    """(the session, the ratio that the rule is about)"""
    in_its_arithmetic = InTF32() if arithmetic == "tf32" else contextlib.nullcontext()  # plain PyTorch
    with judged(backend, target, arithmetic, edit) as session, in_its_arithmetic:
        return session, SmallEnsemble(**ENSEMBLES[name]).worst_ratio(backend, DTYPES[arithmetic])


def assert_ensemble_is_right(name, arithmetic, backend, target):
    session, ratio = worst_ratio(name, arithmetic, backend, target)
    assert ratio <= parity.LIMIT
    return session


def executed_power_iterations(iterations, calls, backend, target):
    with judged(backend, target, "float32") as session:
        assert_power_iterations_are_right(backend, iterations, calls)
    return session


def assert_pooling_is_right(length, dtype, backend, target):
    plain, sides = hf.reference.MultiScaleDiscriminator(), [torch.randn(2, 1, length).to(dtype) for _ in range(2)]
    with judged(backend, target, "float32") as session:
        levels = pooling.pooled_sides(backend, sides)
    for own, side in zip(levels, sides):
        for a, b in zip(own, plain.pooled(side.double()), strict=True):
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(a.double(), b, rtol=4 * eps, atol=4 * eps)
    return session


def kernels_of(backend):
    """Names of all its kernels."""
    kernels = [own for own in vars(type(backend.kernels)).values() if isinstance(own, (JITFunction, Kernel))]
    return {f"{kernel.__module__}.{kernel.__name__}" for kernel in kernels}


def sessions_of_every_kernel(backend, target):
    yield assert_ensemble_is_right("both norms, periods 1 and 11", "bfloat16", backend, target)
    yield assert_losses_are_right(torch.bfloat16, backend, target)
    yield executed_power_iterations(1, 2, backend, target)
    yield assert_pooling_is_right(511, torch.float32, backend, target)


def test_every_triton_kernel(narrow, poisoned):
    sessions = sessions_of_every_kernel(TRITON, 90)
    assert set().union(*(session.kernels for session in sessions)) == kernels_of(TRITON)


def test_every_cuda_kernel(narrow, poisoned, monkeypatch):
    sessions = list(sessions_of_every_kernel(CUDA, 80))
    direct(monkeypatch)
    sessions.append(assert_ensemble_is_right("spectral norm, two sigmas", "bfloat16", CUDA, 80))
    assert set().union(*(session.kernels for session in sessions)) == kernels_of(CUDA)


def assert_a_mix_is_right(name, arithmetic, target, monkeypatch):
    """Convolutions by CUDA C++ on what Triton's kernels pack, store and sum up."""
    monkeypatch.setitem(EXECUTING, "triton", functools.partial(executing, way="cuda"))
    session = assert_ensemble_is_right(name, arithmetic, TRITON, target)
    ran = {kernel.removeprefix("hifigan_fast.backends.") for kernel in session.kernels}
    assert {f"cuda.kernel.convolution_{direction}" for direction in configs.DIRECTIONS} < ran
    assert {f"triton.convolution.{direction}" for direction in configs.DIRECTIONS} < ran  # stems and heads
    assert "triton.weights.finish" in ran and "cuda.kernel.pack" not in ran


def test_cuda_kernels_within_a_pass_of_tritons(monkeypatch, poisoned):
    assert_a_mix_is_right("spectral norm, two sigmas", "bfloat16", 90, monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("arithmetic", DTYPES)
@pytest.mark.parametrize("name", [name for name in ENSEMBLES if name != "a long stem"])  # and nothing else
def test_mixes(name, arithmetic, target, monkeypatch, poisoned):
    assert_a_mix_is_right(name, arithmetic, target, monkeypatch)


def direct(monkeypatch):
    """Have the CUDA kernels for layers of any geometry run all layers."""
    monkeypatch.setattr(windows, "launched", lambda *_: None)
    monkeypatch.setattr(CudaKernels, "_of_role", lambda *_: None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("arithmetic", DTYPES)
@pytest.mark.parametrize("name", ["odd channels", "both norms, periods 1 and 11", "groups of 8"])
def test_layers_of_any_geometry(name, arithmetic, monkeypatch, poisoned):
    direct(monkeypatch)
    assert_ensemble_is_right(name, arithmetic, CUDA, 80)


def test_a_phase_without_taps_by_the_kernel_of_any_geometry(monkeypatch, poisoned):
    direct(monkeypatch)
    layers = Layer(1, 6, 5, 3, 2), Layer(6, 40, 2, 3, 0), Layer(40, 1, **HEAD)
    with judged(CUDA, 75, "float32"):
        assert SmallEnsemble(layers, (1,), samples=1).worst_ratio(CUDA, torch.float32) <= parity.LIMIT


def misaligned(tensor):
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def test_saved_tensors_that_come_back_misaligned(poisoned):
    """Kernels take 16 bytes of them at once."""
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, misaligned):
        assert_ensemble_is_right("groups of 8", "bfloat16", CUDA, 80)


ALL = pytest.mark.parametrize("backend, target", TARGETS, ids=lambda own: getattr(own, "name", own))
ARITHMETICS = pytest.mark.parametrize("arithmetic", DTYPES)
ANY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


@pytest.mark.exhaustive
@ALL
@ARITHMETICS
@pytest.mark.parametrize("name", parity.ENSEMBLES)
def test_steps(name, arithmetic, backend, target, narrow, poisoned):
    assert_step_is_right(name, arithmetic, backend, target)


@pytest.mark.exhaustive
@ALL
@ARITHMETICS
@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles(name, arithmetic, backend, target, poisoned):
    assert_ensemble_is_right(name, arithmetic, backend, target)


@pytest.mark.parametrize("backend", [TRITON, CUDA], ids=lambda own: own.name)
def test_tf32_is_no_less_exact_than_rounded_operands(backend, poisoned):
    assert_ensemble_is_right("odd channels", "tf32", backend, 90)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "file, right, wrong",
    [
        ("head_input_grad.cu", "nullptr, slope)", "nullptr, slope), sums[n] = to_tf32(sums[n])"),
        ("convolution_matrix.cuh", "+= __uint_as_float(a[i][n])", "+= to_tf32(__uint_as_float(a[i][n]))"),
        ("pack.cu", "TF32 && !job[PACK_EXACT]", "TF32"),
    ],
)
def test_what_cudnn_does_not_round_is_seen_where_it_is(file, right, wrong, poisoned):
    with planted(file, right, wrong):
        _, ratio = worst_ratio("odd channels", "tf32", CUDA, 90)
    assert ratio > parity.LIMIT


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", [80, 90])
def test_activations_that_are_not_rounded_are_seen(target, poisoned):
    def edit(text):
        return (
            re.sub(r"cvt\.rna?\.tf32\.f32", "mov.b32", text) if re.search("entry (forward|weight_grad)", text) else text
        )

    _, ratio = worst_ratio("odd channels", "tf32", TRITON, target, edit)
    assert ratio > parity.LIMIT


@pytest.mark.exhaustive
@ALL
@ANY_DTYPE
def test_losses(dtype, backend, target, poisoned):
    assert_losses_are_right(dtype, backend, target)


@pytest.mark.exhaustive
@ALL
@pytest.mark.parametrize("iterations, calls", [(0, 1), (1, 1), (1, 2), (3, 2)])
def test_power_iterations(iterations, calls, backend, target, poisoned):
    executed_power_iterations(iterations, calls, backend, target)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend, target", [(TRITON, 80), (CUDA, 80)], ids=["triton", "cuda"])
def test_programs_that_do_not_meet_are_seen(backend, target, poisoned):
    with EXECUTING[backend.name](target, lambda text: text.replace(".acq_rel", ".relaxed")) as session:
        assert_power_iterations_are_right(backend, 1, 1)
    assert "unordered" in session.faults.kinds()


@pytest.mark.exhaustive
def test_programs_that_wait_for_ever_are_seen(poisoned):
    """For more than there are."""
    with executing_cuda(80, lambda text: text.replace("%nctaid.x", "99")), pytest.raises(Stuck):
        assert_power_iterations_are_right(CUDA, 1, 1)


@pytest.mark.exhaustive
@ALL
@ANY_DTYPE
@pytest.mark.parametrize("length", [8, 511, 2048])
def test_pooling(length, dtype, backend, target, narrow, poisoned):
    assert_pooling_is_right(length, dtype, backend, target)

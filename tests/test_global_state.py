"""Results do not follow PyTorch's global state: the default dtype and device, inference mode, deterministic fill."""

import ast
from pathlib import Path

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast.backends import cpu

from .global_state import STATES
from .test_properties import build

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "hifigan_fast").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

# What makes a tensor of the default dtype on the default device, unless it is told; then what cannot be told.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_permuted", "empty_strided", "eye", "full", "hann_window"),
    *("linspace", "logspace", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}
UNTOLD = {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor", "LongTensor", "IntTensor"}


def follows_global_state(source):
    """The calls in a module that leave a tensor's dtype or device to global state, as "line: call"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        said = {keyword.arg for keyword in node.keywords}
        for called in (node.func, *node.args[:1]):  # itself, or by functools.partial
            kind, _, name = ast.unparse(called).rpartition(".")
            if kind == "torch" and (name in UNTOLD or (name in FACTORIES and not {"dtype", "device"} <= said)):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_allocation_says_its_dtype_and_device(path):
    assert not follows_global_state(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "call",
    ["torch.empty(3)", "torch.zeros(2, dtype=torch.int64)", "torch.Tensor(3)", "partial(torch.randn, generator=g)"],
)
def test_an_allocation_that_does_not_is_found(call):
    assert follows_global_state(f"import torch\nx = {call}\n")


def gradients(modules, y, y_hat):
    """All outputs, losses and gradients of a pair, maps' and step losses'."""
    found, leaves = [], [y, y_hat, *(p for module in modules for p in module.parameters())]
    for module in modules:
        real, generated, real_maps, fake_maps = module(y, y_hat)
        loss = hf.discriminator_loss(real, generated)[0] + hf.feature_loss(real_maps, fake_maps)
        found += [*real, *generated, loss, *torch.autograd.grad(loss, leaves, allow_unused=True)]
    for half in (hf.discriminator_step_loss, hf.generator_step_loss):
        *scalars, terms = half(modules, y, y_hat)
        found += [*scalars, *torch.autograd.grad(sum(scalars), leaves, allow_unused=True)]
    return [None if t is None else t.detach().clone() for t in found]


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    waves = [torch.randn(1, 1, 700).requires_grad_() for _ in range(2)]
    return [build(hf, periods).requires_grad_() for periods in ((2, 3), None)], *waves


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(
    "backend, state",
    [
        *(("cpu", state) for state in STATES if state not in ("none", "inference mode")),
        ("reference", "bfloat16"),
        ("reference", "meta by default"),
    ],
)
def test_results_are_the_same_under_any_global_state(pair, backend, state):
    if backend == "cpu" and cpu.extension()[1]:
        pytest.skip(cpu.extension()[1])
    with hf.use_backend(backend):
        expected = gradients(*pair)
        with STATES[state]():
            found = gradients(*pair)
    for ours, other in zip(found, expected, strict=True):
        assert (ours is None) == (other is None)
        assert ours is None or (ours.dtype == other.dtype and torch.equal(ours, other))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_was_kept_without_gradients_serves_with_them(backend, mode):
    """The first call of a shape fills every cache: what it keeps must not be an inference tensor."""
    if backend == "cpu" and cpu.extension()[1]:
        pytest.skip(cpu.extension()[1])
    module = build(hf, None).requires_grad_()
    y, y_hat = (torch.randn(1, 1, 713).requires_grad_() for _ in range(2))
    with hf.use_backend(backend):
        with mode():
            hf.generator_step_loss(module, y, y_hat)
            hf.feature_loss(*module(y, y_hat)[2:])
        loss = sum(hf.generator_step_loss(module, y, y_hat)[:2])
        loss.backward()
    assert y_hat.grad.isfinite().all() and y_hat.grad.any()

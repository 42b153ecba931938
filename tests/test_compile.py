"""torch.compile, torch.export and opcheck: the passes are operators, opaque to what traces."""

import copy
import itertools

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch.library import opcheck

import hifigan_fast as hf
from hifigan_fast import dispatch, parity
from hifigan_fast.discriminators import convs_of
from hifigan_fast.dispatch import BACKENDS
from hifigan_fast.geometry import Layer
from hifigan_fast.passes import description
from hifigan_fast.passes.autograd import OPERATORS
from hifigan_fast.passes.call import Call
from hifigan_fast.passes.maps import maps_of

from .needs import needs_extension
from .small import SmallEnsemble, assert_alike

pytestmark = [
    pytest.mark.filterwarnings("error:.*custom operator:UserWarning"),  # aliased outputs
    pytest.mark.usefixtures("narrow"),
]
ENSEMBLES = {"mpd": lambda: hf.MultiPeriodDiscriminator((2, 3)), "msd": hf.MultiScaleDiscriminator}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def discriminator_half(module, y, y_hat):
    return hf.discriminator_loss(*module(y, y_hat)[:2])[0]


def generator_half(module, y, y_hat):
    _, generated, real_maps, fake_maps = module(y, y_hat)
    return hf.generator_loss(generated)[0] + hf.feature_loss(real_maps, fake_maps)


def step(half, module, y, y_hat):
    """The loss, and every gradient."""
    y_hat = y_hat.clone().requires_grad_()
    module.zero_grad()
    loss = half(module, y, y_hat)
    loss.backward()
    return [loss.detach(), y_hat.grad, *(p.grad for p in module.parameters()), *(b.clone() for b in module.buffers())]


def test_answers_are_constants_as_torch_marks_them():
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(dispatch._constant(lambda: None)) == vars(marked) != {}


@pytest.mark.parametrize("half", [discriminator_half, generator_half])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_step_compiles_without_a_graph_break(name, backend, half):
    if backend == "inductor" and (name, half) != ("mpd", generator_half):
        pytest.skip("a minute of the code generator each; what it is given is tested by aot_eager")
    module = ENSEMBLES[name]()
    eager = copy.deepcopy(module)
    compiled = torch.compile(half, fullgraph=True, backend=backend)
    for seed in range(2):  # spectral norm moves on
        y, y_hat = parity.waveforms(1, 500)
        assert_alike(step(compiled, module, y + seed, y_hat), step(half, eager, y + seed, y_hat))


def test_the_graph_holds_the_fused_pass():
    found = []

    def spy(graph, inputs):
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compile(hf.MultiPeriodDiscriminator((2, 3)), backend=spy, fullgraph=True)(*parity.waveforms(1, 300))
    assert "hifigan_fast.ensemble.default" in found and not any(".conv" in name for name in found)


@pytest.mark.parametrize("name", [pytest.param("mpd", marks=pytest.mark.exhaustive), "msd"])
def test_another_length_is_not_compiled_again(name):
    module = ENSEMBLES[name]()
    eager = copy.deepcopy(module)
    counter, pool_counter = (torch._dynamo.testing.CompileCounterWithBackend("aot_eager") for _ in range(2))
    compiled = torch.compile(generator_half, fullgraph=True, backend=counter, dynamic=True)
    pool = torch.compile(lambda x: F.avg_pool1d(x, 4, 2, 2), backend=pool_counter, dynamic=True)
    counts, pool_counts = set(), set()
    for length, batch in ((500, 2), (733, 3), (900, 4)):
        y, y_hat = parity.waveforms(batch, length)
        assert_alike(step(compiled, module, y, y_hat), step(generator_half, eager, y, y_hat))
        pool(y)
        counts.add(counter.frame_count)
        pool_counts.add(pool_counter.frame_count)
    # PyTorch 2.6 and 2.7 compile the pooling alone once for even and once for odd lengths.
    assert len(counts) == (len(pool_counts) if name == "msd" else 1)


def test_compiled_maps_are_the_references_in_layout_and_gradient():
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(2, 400)
    eager, compiled = mpd(y, y_hat), torch.compile(mpd, backend="aot_eager", fullgraph=True)(y, y_hat)
    for ours, plain in zip(compiled[2] + compiled[3], eager[2] + eager[3]):
        for a, b in zip(ours, plain):
            assert a.stride() == b.stride() and torch.equal(a, b)
    deep = [maps[3][1][2] for maps in (compiled, eager)]
    grads = [torch.autograd.grad(m.square().sum(), mpd.discriminators[1].convs[:3].parameters()) for m in deep]
    assert_alike(*grads)


@needs_extension
def test_compiled_under_autocast():
    mpd = hf.MultiPeriodDiscriminator((2, 3))
    y, y_hat = parity.waveforms(1, 400)

    def run(y, y_hat):
        with torch.autocast("cpu", torch.bfloat16):
            return mpd(y, y_hat)[1]

    ours, plain = torch.compile(run, backend="aot_eager", fullgraph=True)(y, y_hat), run(y, y_hat)
    assert all(a.dtype == torch.bfloat16 and torch.equal(a, b) for a, b in zip(ours, plain))


def test_modules_without_a_fused_pass_compile_too():
    mpd = hf.MultiPeriodDiscriminator((2, 3)).double()
    y, y_hat = parity.waveforms(1, 300, torch.float64)
    compiled = torch.compile(mpd, backend="aot_eager", fullgraph=True)(y, y_hat)
    assert torch.equal(compiled[0][0], mpd(y, y_hat)[0][0])


FROZEN = {
    "period": lambda: hf.DiscriminatorP(3),
    "scale": hf.DiscriminatorS,
    "spectral norm": lambda: hf.DiscriminatorS(use_spectral_norm=True).eval(),
}


@pytest.mark.parametrize("build", FROZEN.values(), ids=FROZEN)
def test_a_frozen_discriminator_exports(build):
    d = build().requires_grad_(False)
    y, _ = parity.waveforms(1, 500)
    program = torch.export.export(d, (y,), dynamic_shapes={"x": {2: torch.export.Dim.AUTO}})
    assert "hifigan_fast.ensemble" in str(program.graph)
    for length in (500, 777, 2048):
        y, _ = parity.waveforms(1, length)
        assert torch.equal(program.module()(y)[0], d(y)[0])


def arguments(small, backend, needs_grad=True):
    waves, layers, states, leaves = small.leaves(torch.float32)
    for leaf in leaves:
        leaf.requires_grad_(needs_grad)
    call = Call(backend, small.ensemble, torch.float32, states)
    # Dense, but permuted: samples lie innermost.
    flat = [
        w.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_(needs_grad) for s in waves for w in s
    ]
    parameters = [t for own in layers for p in own for t in (p.raw, p.magnitude, p.bias)]
    return call, (flat, parameters, call.flat_states(), *description.described(call))


TINY = (Layer(1, 2, 3, 2, 1), Layer(2, 4, 3, 1, 1, groups=2), Layer(4, 1, 3, 1, 1, slope=1.0))
CASES = {  # small: each check runs an operator many times, some in Triton's interpreter
    "folded": {"layers": TINY, "length": 31},
    "scales, spectral": {"layers": TINY, "folded": False, "norm": "spectral", "sigmas": 2, "length": 24},
    "mixed norms": {"layers": TINY, "norm": "mixed", "length": 20},
}


@pytest.mark.parametrize(
    "case, name",
    [
        *itertools.product(CASES, ["cpu", "reference"]),
        ("scales, spectral", "triton"),
        *(pytest.param(case, "triton", marks=pytest.mark.exhaustive) for case in ("folded", "mixed norms")),
    ],
)
def test_opcheck(case, name):
    backend = BACKENDS[name]
    reason = backend.cannot_run(torch.device("cpu"), torch.float32)
    if reason:
        pytest.skip(reason)
    small = SmallEnsemble(**CASES[case])
    tensors, numbers = arguments(small, backend)[1][:3], arguments(small, backend)[1][3:]
    if name != "triton":  # these two are the same for each, and the interpreter is slow
        opcheck(OPERATORS.ensemble.default, (*tensors, *numbers))
        opcheck(OPERATORS.ensemble_step.default, (*tensors, "generator", *numbers))
    call, forward = arguments(small, backend, needs_grad=False)
    opcheck(OPERATORS.ensemble_forward.default, forward)
    buffers, scaling, packed = OPERATORS.ensemble_forward.default(*forward)
    maps = maps_of(small.ensemble, buffers)
    grads = [torch.randn_like(m) if index % 3 else None for index, m in enumerate(maps)]  # as dense and permuted
    waves, parameters, states, *numbers = forward
    needs = [True] * (len(waves) + len(parameters))
    needs[len(waves) :] = [p is not None for p in parameters]
    sizes = description.sizes(waves, numbers)
    saved = waves, parameters, states, buffers, scaling, packed, needs, *sizes, *numbers
    opcheck(OPERATORS.ensemble_backward.default, (grads, "", None, None, *saved))
    opcheck(OPERATORS.ensemble_losses.default, (buffers, "generator", *sizes, *numbers))
    one = torch.ones(())
    opcheck(OPERATORS.ensemble_backward.default, ([], "generator", one, one, *saved))


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("name", ["reference", "triton"])
def test_opcheck_power_iterations(name, iterations):
    if BACKENDS[name].cannot_run(torch.device("cpu"), torch.float32):
        pytest.skip("no Triton interpreter here")
    matrices = [torch.randn(6, 10), torch.randn(4, 7)]
    us, vs = ([torch.nn.functional.normalize(torch.randn(m.shape[i]), dim=0) for m in matrices] for i in (0, 1))
    opcheck(OPERATORS.power_iterations.default, (matrices, us, vs, 1e-12, iterations, 2, name))


def test_an_exported_program_refuses_another_dtype():
    d = hf.DiscriminatorP(3).requires_grad_(False)
    y, _ = parity.waveforms(1, 300)
    module = torch.export.export(d, (y,)).module().double()
    with pytest.raises((ValueError, RuntimeError), match="float64"):
        module(y.double())


def test_compiled_transforms_see_each_convolution():
    mpd = hf.MultiPeriodDiscriminator((2,))
    for conv in convs_of(mpd.discriminators[0]):  # legacy weight norm keeps what a transform made: the reference fails
        torch.nn.utils.remove_weight_norm(conv)
    y, y_hat = parity.waveforms(1, 300)

    def score(x):
        return mpd(y, x)[1][0].sum()

    found = torch.compile(torch.func.grad(score), backend="aot_eager")(y_hat)
    torch.testing.assert_close(found, torch.func.grad(score)(y_hat))


def test_a_hook_on_every_module_is_seen_by_a_compiled_one():
    mpd, seen = hf.MultiPeriodDiscriminator((2,)), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        torch.compile(mpd, backend="eager")(*parity.waveforms(1, 300))
    finally:
        handle.remove()
    assert seen.count(torch.nn.Conv2d) == 2 * 6

"""The Triton and CUDA backends on a GPU: parity at real shapes, every configuration, graphs, streams, memory."""

import dataclasses

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference, trust, warm
from hifigan_fast.backends.triton import configs
from hifigan_fast.bench.steps import FastLosses, discriminator_step, frozen_generator_step
from hifigan_fast.bench.workloads import build
from hifigan_fast.passes import description
from hifigan_fast.passes.call import Call
from hifigan_fast.training.config import load_config
from hifigan_fast.training.step import Trainer
from hifigan_fast.tuning import command
from hifigan_fast.voice import write_clips

from .. import ways
from ..small import SmallEnsemble

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=["triton", "cuda"])
def backend(request):
    """The name of one whose kernels run here."""
    reason = dispatch.BACKENDS[request.param].cannot_run(torch.device("cuda"), torch.float32)
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(autouse=True)
def without_tf32():
    """Each test says itself whether float32 may be TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def waves(batch, length, dtype=torch.float32):
    return [x.to("cuda", dtype) for x in parity.waveforms(batch, length)]


def modules(name, dtype=torch.float32):
    with torch.device("cuda"):
        return [module.to(dtype) for module in parity.build_pair(name, trained=True)]


def judged(backend, name, batch, length, dtype=torch.float32, autocast=None):
    pair, (y, y_hat) = modules(name, dtype), waves(batch, length, dtype)
    return parity.compare(*pair, y, y_hat, [backend], autocast=autocast)[backend]


@pytest.mark.parametrize("name", ["mpd", "msd"])
@pytest.mark.parametrize("batch, length", [(2, 8192), (1, 16391), (4, 407)])
def test_float32(name, batch, length, backend):
    verdict = judged(backend, name, batch, length)
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_tf32(name, backend):
    torch.backends.cudnn.allow_tf32 = True
    verdict = judged(backend, name, 2, 8192)
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("name", ["mpd", "msd"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_modules(name, dtype, backend):
    verdict = judged(backend, name, 2, 8192, dtype)
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_autocast(name, backend):
    verdict = judged(backend, name, 2, 8192, autocast=torch.bfloat16)
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("backend", ["triton", "cuda", "reference"], indirect=True)
def test_a_recomputation_is_not_cast_by_the_region_of_the_backward_pass(backend):
    (ours, _), (y, y_hat) = modules("mpd"), waves(1, 8192)
    grads = []
    for enabled in (False, True):
        with hf.use_backend(backend), hf.save("recompute"):
            real, _, _, _ = ours(y, y_hat)
            with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                grads.append(torch.autograd.grad(sum(r.sum() for r in real), list(ours.parameters())))
    for cast, plain in zip(*grads):
        assert (cast - plain).norm() <= 1e-4 * plain.norm() + 1e-10


def test_the_default_is_triton():
    ours, _ = modules("mpd")
    assert "triton" in hf.explain(ours) and "reference" not in hf.explain(ours)


@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16", "tf32", "float32"])
def test_first_contact(arithmetic, backend):
    found = trust.run(backend, "cuda", arithmetic)
    assert found["passed"], found


def test_a_quick_tuning_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    command.run(quick=True, arithmetics=["half"], say=said.append)
    found = configs.measurements(torch.device("cuda"))
    configs.forget_measured()
    assert len(found) == len(configs.DIRECTIONS) * len(configs.LIBRARY_CLASSES), said
    assert all(entry["ms"]["triton"] > 0 < entry["ms"]["library"] for entry in found.values()), said


@pytest.mark.exhaustive  # compiles all of a step's kernels for each
@pytest.mark.parametrize("generation", [g for g in configs.table() if g.startswith("sm_")])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_every_configuration(generation, dtype, name, monkeypatch):
    """Those of other generations too, where this device has the memory that they take."""
    from triton.runtime.errors import OutOfResources

    monkeypatch.setattr(configs, "generation_of", lambda capability: generation)
    try:
        with ways.by("triton"):
            verdict = judged("triton", name, 1, 4096, dtype)
    except OutOfResources as error:
        pytest.skip(f"more than this device has: {error}")
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize(
    "case", [{"periods": (23, 37), "samples": 3, "length": 150}, {"norm": "mixed", "sigmas": 2}, {}]
)
def test_small_ensembles(case, backend):
    small = SmallEnsemble(**case)
    small.waves = [[w.cuda() for w in side] for side in small.waves]
    small.parameters = [
        [type(p)(*(t if t is None else t.cuda() for t in vars(p).values())) for p in own] for own in small.parameters
    ]
    small.states = [[s and tuple(t.cuda() for t in s) for s in own] for own in small.states]
    assert small.worst_ratio(dispatch.BACKENDS[backend]) <= parity.LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_every_run(dtype):
    ours, _ = modules("msd", dtype)
    ours.eval()
    y, y_hat = waves(2, 8192, dtype)
    results = [parity.evaluate(ours, y, y_hat) for _ in range(2)]
    for kind, named in results[0].tensors.items():
        for name, tensor in named.items():
            assert torch.equal(tensor, results[1].tensors[kind][name]), (kind, name)


def spectral(random):
    shapes = [(128, 15), (1024, 5120), (1, 3072), (512, 1312)]
    return [tuple(torch.randn(n, generator=random, device="cuda") for n in (s, s[0], s[1])) for s in shapes]


def test_power_iterations(backend):
    """Programs that wait for one another: again and again, under load from another stream, and in a CUDA graph."""
    matrices, side = spectral(torch.Generator("cuda").manual_seed(0)), torch.cuda.Stream()
    expected = [tuple(t.double() for t in own) for own in matrices]
    for _ in range(100):
        with torch.cuda.stream(side):
            spectral(torch.Generator("cuda").manual_seed(1))[1][0].square_()
        found = dispatch.BACKENDS[backend].power_iterations(matrices, 1e-12, 1, 2)
        right = dispatch.BACKENDS["reference"].power_iterations(expected, 1e-12, 1, 2)
        for ours, other in zip(found, right):
            torch.testing.assert_close(ours.double(), other, rtol=1e-4, atol=1e-5)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = dispatch.BACKENDS[backend].power_iterations(matrices, 1e-12, 1, 2)
    for _ in range(3):
        graph.replay()
        right = dispatch.BACKENDS["reference"].power_iterations(expected, 1e-12, 1, 2)
    for ours, other in zip(found, right):
        torch.testing.assert_close(ours.double(), other, rtol=1e-4, atol=1e-5)


def test_power_iterations_on_two_streams(backend):
    random = torch.Generator("cuda").manual_seed(0)
    jobs = [(spectral(random), torch.cuda.Stream()) for _ in range(2)]
    expected = [[tuple(t.double() for t in own) for own in matrices] for matrices, _ in jobs]
    torch.cuda.synchronize()
    for _ in range(50):
        for matrices, stream in jobs:
            with torch.cuda.stream(stream):
                kernels = dispatch.BACKENDS[backend]
                kernels.power_iterations(matrices, 1e-12, 1, 2)
                kernels.power_iterations(matrices, 1e-12, 0, 1)  # fewer registers: of both streams at once
    torch.cuda.synchronize()
    for (matrices, _), own in zip(jobs, expected):
        for _ in range(50):
            dispatch.BACKENDS["reference"].power_iterations(own, 1e-12, 1, 2)
        for moved, right in zip(matrices, own):
            for ours, other in zip(moved[1:], right[1:]):
                torch.testing.assert_close(ours.double(), other, rtol=1e-4, atol=1e-5)


def test_a_feature_loss_on_two_streams(backend):
    random, streams = torch.Generator("cuda").manual_seed(0), [torch.cuda.Stream() for _ in range(2)]
    sizes = 2**22, 2**20 + 7, 5
    maps = [[[torch.randn(n, generator=random, device="cuda") for n in sizes] for _ in range(2)] for _ in streams]
    expected = [torch.stack([(r - g).double().abs().mean() for r, g in zip(*pair)]) for pair in maps]
    torch.cuda.synchronize()
    found = []
    for _ in range(50):
        for pair, stream in zip(maps, streams):
            with torch.cuda.stream(stream):
                found.append(dispatch.BACKENDS[backend].feature_l1(*pair))
    torch.cuda.synchronize()
    for index, means in enumerate(found):
        torch.testing.assert_close(means.double(), expected[index % 2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_feature_loss_of_maps_that_are_not_aligned(dtype):
    """What is not aligned is read otherwise: by 16 bytes it would be a fault of the device."""
    random, sizes = torch.Generator("cuda").manual_seed(0), (4096, 3000, 70000)
    losses = []
    for kind in (hf, reference):
        random.manual_seed(0)
        sides = [[torch.randn(n + 3, generator=random, device="cuda").to(dtype)[3:] for n in sizes] for _ in range(2)]
        for m in sides[1]:
            m.requires_grad_()
        loss = kind.feature_loss([sides[0]], [sides[1]])
        losses.append([loss.float(), *(g.float() for g in torch.autograd.grad(loss, sides[1]))])
    for ours, plain in zip(*losses):
        torch.testing.assert_close(ours, plain, rtol=2e-2, atol=1e-8)


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_the_library_with_step_losses_and_the_same_bits(name, by_library):
    test_step_losses(name)
    test_the_same_bits_every_run(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_the_library_in_the_place_of_our_kernels(name, dtype, by_library):
    verdict = judged("triton", name, 2, 8192, dtype)
    assert verdict.passed, verdict.worst


@pytest.fixture
def by_cuda():
    """The Triton backend leaves every layer class that it may to the CUDA kernels."""
    reason = dispatch.BACKENDS["cuda"].cannot_run(torch.device("cuda"), torch.float32)
    if reason:
        pytest.skip(reason)
    with ways.by("cuda"):
        yield


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_cuda_kernels_within_tritons_passes_the_same_bits_and_graphs(name, by_cuda):
    test_step_losses(name)
    test_the_same_bits_every_run(torch.bfloat16)
    test_a_step_in_a_cuda_graph(name)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_cuda_kernels_within_tritons_passes(name, dtype, by_cuda):
    verdict = judged("triton", name, 2, 8192, dtype)
    assert verdict.passed, verdict.worst


def step(nets, y, y_hat):
    discriminator_step(nets, y, y_hat, FastLosses)


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_a_step_in_a_cuda_graph(name):
    ours, _ = modules(name)
    y, y_hat = waves(2, 8192)
    ours.eval()  # spectral norm's vectors stay: every run gives the same
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step([ours], y, y_hat)
    torch.cuda.current_stream().wait_stream(side)
    ours.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        real, generated, _, _ = ours(y, y_hat)
        hf.discriminator_loss(real, generated)[0].backward()
    new = waves(2, 8192)[1] * 0.7
    y.copy_(new)
    graph.replay()
    captured = [p.grad.clone() for p in ours.parameters()]
    step([ours], y, y_hat)
    for p, grad in zip(ours.parameters(), captured):
        assert torch.equal(p.grad, grad)


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_step_losses(name):
    found = []
    for kind in (hf, reference):
        module, (y, y_hat) = modules(name)[0], waves(2, 8192)
        y_hat.requires_grad_()
        losses = kind.generator_step_loss(module, y, y_hat)
        grads = torch.autograd.grad(losses.adversarial + losses.features, [y_hat, *module.parameters()])
        found.append([losses.adversarial, losses.features, losses.terms, *grads])
    for ours, apart in zip(*found):
        assert (ours - apart).norm() <= 1e-5 * apart.norm() + 1e-10


@pytest.mark.parametrize("name", ["mpd", "msd"])
def test_compiled(name):
    module, (y, y_hat) = modules(name)[0], waves(2, 8192)
    module.eval()  # spectral norm stands still

    def run():
        return hf.discriminator_step_loss(module, y, y_hat).adversarial

    grads = [torch.autograd.grad(f(), list(module.parameters())) for f in (torch.compile(run, fullgraph=True), run)]
    for ours, eager in zip(*grads):
        assert (ours - eager).norm() <= 1e-5 * eager.norm() + 1e-10


def test_opcheck(backend):
    small = SmallEnsemble(length=61)
    waves_in, layers, states, _ = small.leaves(torch.float32)
    call = Call(dispatch.BACKENDS[backend], small.ensemble, torch.float32, states)
    tensors = [w for side in waves_in for w in side], [t for own in layers for p in own for t in vars(p).values()]
    moved = [[t.detach().cuda().requires_grad_() for t in own] for own in tensors]
    arguments = *moved, call.flat_states(), *description.described(call)
    torch.library.opcheck(torch.ops.hifigan_fast.ensemble.default, arguments)


def test_training_replays_a_graph():
    pytest.importorskip("librosa", reason="training needs librosa")
    config = load_config("v3", batch_size=2)
    y, losses = 0.3 * torch.randn(6, 2, config.segment_size, generator=torch.Generator().manual_seed(0)), []
    for cuda_graph in (False, True):
        trainer = Trainer(config, torch.device("cuda"), cuda_graph=cuda_graph)
        losses.append([trainer.train_step(batch).read() for batch in y])
    for graphed, plain in zip(*losses):
        torch.testing.assert_close(graphed, plain, rtol=2e-2, atol=0)


@pytest.mark.filterwarnings("error:.*without a CUDA graph")
def test_runs_of_the_studies_side_by_side(tmp_path):
    """Plain PyTorch's and ours, which begin alike; and graphs replayed side by side are those replayed alone."""
    for library in ("librosa", "soundfile", "auraloss", "pesq"):
        pytest.importorskip(library, reason="the studies measure by it")
    from studies import clips, course, results, runs

    torch.backends.cudnn.allow_tf32 = True
    data = clips.chosen(write_clips(tmp_path / "voice", clips.CLIPS, 1.0)[0].parent, tmp_path)
    plan = dataclasses.replace(runs.GPU, steps=12, mark=12, mean=6)
    wanted = [runs.Run(way, 1) for way in ("plain", "step-losses", "autocast")]
    for folder, own in (("beside", wanted), ("alone", wanted[:1]), ("alone", wanted[1:2])):
        assert course.work(own, plan, data, tmp_path, tmp_path / folder, torch.device("cuda", 0)) == 0
    found = results.of_plan(plan, wanted, tmp_path / "beside")
    errors = [found[run.name]["curve"]["mel_error"] for run in wanted]
    for own in errors[1:]:
        assert own == pytest.approx(errors[0], rel=0.1)
    for name, own in results.of_plan(plan, wanted[:2], tmp_path / "alone").items():
        assert own["curve"]["mel_error"] == pytest.approx(found[name]["curve"]["mel_error"], rel=0.05)


def test_two_streams():
    nets = [modules("mpd")[0] for _ in range(2)]
    inputs = [waves(2, 8192), [x * 0.5 for x in waves(2, 8192)]]
    expected = []
    for net, pair in zip(nets, inputs):
        step([net], *pair)
        expected.append([p.grad.clone() for p in net.parameters()])
    streams = [torch.cuda.Stream() for _ in nets]
    torch.cuda.synchronize()
    for _ in range(5):
        for net, pair, stream in zip(nets, inputs, streams):
            with torch.cuda.stream(stream):
                step([net], *pair)
    torch.cuda.synchronize()
    for net, grads in zip(nets, expected):
        assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads))


def test_memory():
    """A discriminator step of batch 16 × 8192 holds at most 0.6 of eager's memory."""
    peaks = []
    y, y_hat = waves(16, 8192)
    for plain in (True, False):
        nets = [module.cuda() for module in build(["mpd", "msd"], plain=plain)]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        discriminator_step(nets, y, y_hat, hf.reference if plain else FastLosses)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del nets
    assert peaks[1] <= 0.6 * peaks[0], peaks


def test_a_step_finds_what_was_compiled_ahead(monkeypatch, tmp_path):
    """For this device as for one that is not there, by CPU tensors: the very kernels that a step asks for."""
    from triton import knobs
    from triton.runtime.jit import JITFunction

    from hifigan_fast.backends.triton import adversarial, convolution, feature_l1, pooling, spectral, stem, weights

    def forget():
        for module in (adversarial, convolution, feature_l1, pooling, spectral, stem, weights):
            for kernel in vars(module).values():
                if isinstance(kernel, JITFunction):
                    kernel.device_caches.clear()

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    forget()
    warm.compiled(warm.this_device(), "bf16")
    forget()
    found = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda src, cache_hit, **_: found.append((cache_hit, src.name)))
    ours, y_and_y_hat = [modules(name)[0] for name in ("mpd", "msd")], waves(3, 5001)
    with torch.autocast("cuda", torch.bfloat16):
        discriminator_step(ours, *y_and_y_hat, FastLosses)
        frozen_generator_step(ours, *y_and_y_hat, FastLosses)
    assert len(found) > 60 and all(hit for hit, _ in found), found

"""What a call keeps for the next one: never stale, bounded, and worth it."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

import hifigan_fast as hf
from hifigan_fast import dispatch, geometry, parity
from hifigan_fast.autograd import run_ensemble, run_step
from hifigan_fast.backends import kept
from hifigan_fast.geometry import Layer, Run, Runs
from hifigan_fast.passes import Call

from .small import SmallEnsemble, plain_maps

TRITON = dispatch.BACKENDS["triton"]
CPU = torch.device("cpu")
REFUSED = TRITON.cannot_run(CPU, torch.float32)
interpreted = pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))


def step(module, y, y_hat, backend):
    """A discriminator's step, down to the waveform: all that comes out, and all that is left behind."""
    module.zero_grad()
    y_hat = y_hat.clone().requires_grad_()
    with hf.use_backend(backend):
        real, generated, maps, _ = module(y, y_hat)
        loss = hf.discriminator_loss(real, generated)[0]
        (loss + maps[0][1].square().sum()).backward()
    return [loss.detach(), y_hat.grad, *(p.grad for p in module.parameters()), *(b.clone() for b in module.buffers())]


def assert_same(found, right):
    for ours, plain in zip(found, right, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


def a_parameter_replaced(module):
    conv = module.discriminators[0].convs[1]
    conv.bias = nn.Parameter(conv.bias.detach() + 1)


def a_parameter_replaced_by_its_equal(module):  # whose gradient is wanted from then on
    conv = module.discriminators[0].conv_post
    conv.bias = nn.Parameter(conv.bias.detach().clone())


def a_parameter_elsewhere_in_memory(module):
    for conv in module.discriminators[0].convs:
        conv.bias.data = torch.stack([conv.bias.data + 1, conv.bias.data], 1)[:, 0]


def a_parameter_not_aligned(module):
    raw = module.discriminators[1].convs[1].weight_v
    raw.data = torch.cat([raw.data.new_zeros(1), raw.data.flatten() * 2])[1:].view_as(raw)


def other_values_loaded(module):
    module.load_state_dict({name: 1.25 * value for name, value in module.state_dict().items()})


def other_tensors_loaded(module):
    module.load_state_dict({name: 1.25 * value for name, value in module.state_dict().items()}, assign=True)


def frozen_in_part(module):
    module.discriminators[0].convs[0].weight_v.requires_grad_(False)
    module.discriminators[1].requires_grad_(False)


def a_hook(module):
    module.discriminators[0].convs[1].register_forward_hook(lambda conv, args, out: 2 * out)


def a_hook_before(module):
    module.discriminators[1].register_forward_pre_hook(lambda d, args: (2 * args[0],))


def a_hook_on_gradients(module):
    module.discriminators[1].convs[0].register_full_backward_hook(
        lambda conv, ins, outs: tuple(None if grad is None else 3 * grad for grad in ins)
    )


def a_parametrization(module):
    for d in module.discriminators:
        nn.utils.remove_weight_norm(d.convs[0])
        nn.utils.parametrizations.weight_norm(d.convs[0])
    module.discriminators[0].convs[0].parametrizations.weight.original0.data.mul_(2)


def a_norm_removed(module):
    nn.utils.remove_weight_norm(module.discriminators[1].convs[1])


def another_norm(module):
    nn.utils.remove_weight_norm(module.discriminators[0].convs[1])
    nn.utils.spectral_norm(module.discriminators[0].convs[1])


def another_stride(module):
    for d in module.discriminators:
        d.convs[1].stride = (1, 1)


def another_period(module):
    module.discriminators[1].period = 5


def a_forward_of_its_own(module):
    module.discriminators[1].forward = lambda x: hf.DiscriminatorP.forward(module.discriminators[1], 2 * x)


def a_convolution_replaced(module):
    module.discriminators[0].convs[1] = copy.deepcopy(module.discriminators[0].convs[1])
    module.discriminators[0].convs[1].bias.data.add_(1)


def a_discriminator_replaced(module):
    module.discriminators[1] = copy.deepcopy(module.discriminators[1])
    module.discriminators[1].convs[0].bias.data.add_(1)


def one_discriminator_less(module):
    del module.discriminators[1]


CHANGES = [
    a_parameter_replaced,
    a_parameter_replaced_by_its_equal,
    a_parameter_elsewhere_in_memory,
    a_parameter_not_aligned,
    other_values_loaded,
    other_tensors_loaded,
    frozen_in_part,
    a_hook,
    a_hook_before,
    a_hook_on_gradients,
    a_parametrization,
    a_norm_removed,
    another_norm,
    another_stride,
    another_period,
    a_forward_of_its_own,
    a_convolution_replaced,
    a_discriminator_replaced,
    one_discriminator_less,
]


@pytest.fixture
def mpd(narrow):
    torch.manual_seed(0)
    return hf.MultiPeriodDiscriminator((2, 3))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_module_is_read_again(mpd, change, backend="reference"):
    y, y_hat = parity.waveforms(1, 60)
    for _ in range(2):  # the second by what the first has kept
        step(mpd, y, y_hat, backend)
    change(mpd)
    twin = copy.deepcopy(mpd) if change is not a_forward_of_its_own else mpd
    assert_same(step(mpd, y, y_hat, backend), step(twin, y, y_hat, "modules"))


def test_training_and_evaluation_alternate(narrow, backend="reference"):
    """Spectral norm moves in the one, and not in the other."""
    torch.manual_seed(0)
    module = hf.MultiPeriodDiscriminator((2, 3), use_spectral_norm=True)
    twin, (y, y_hat) = copy.deepcopy(module), parity.waveforms(1, 60)
    for training in (True, True, False, True):
        found, right = (step(m.train(training), y, y_hat, how) for m, how in ((module, backend), (twin, "modules")))
        assert_same(found, right)
    for m in (module, twin):
        for conv in (*m.discriminators[0].convs, m.discriminators[1].conv_post):
            next(iter(conv._forward_pre_hooks.values())).n_power_iterations = 2
    assert_same(step(module, y, y_hat, backend), step(twin, y, y_hat, "modules"))


def test_a_cast_is_seen(mpd):
    y, y_hat = parity.waveforms(1, 60)
    mpd(y, y_hat)
    mpd.discriminators[0].convs[1].double()
    with pytest.raises(ValueError, match="y: expected the dtype of the parameters, torch.float64, got torch.float32"):
        mpd(y, y_hat)
    mpd.double()
    assert mpd(y.double(), y_hat.double())[0][0].dtype == torch.float64
    mpd.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert mpd(y, y_hat)[0][0].dtype == torch.bfloat16
    assert mpd(y, y_hat)[0][0].dtype == torch.float32


@pytest.mark.parametrize("kind, waveforms", [(hf.MultiPeriodDiscriminator, 2), (hf.DiscriminatorP, 1)])
def test_a_module_that_was_read_can_go(kind, waveforms, narrow):
    module = kind((2,)) if waveforms == 2 else kind(2)
    module(*parity.waveforms(1, 60)[:waveforms])
    left = weakref.ref(module)
    del module
    gc.collect()
    assert left() is None


def test_a_module_that_its_own_contents_lead_to_can_go(narrow):
    """As one that a hook's object holds: a cycle, which Python collects."""

    class Logger:
        def __init__(self, module):
            self.module = module
            module.register_forward_hook(self.hook)

        def hook(self, *_):
            pass

    module, y = hf.MultiPeriodDiscriminator((2,)), torch.zeros(1, 1, 300)
    Logger(module)
    module(y, y)
    found = weakref.ref(module)
    del module
    gc.collect()
    assert found() is None


def test_a_copy_is_read_for_itself(narrow):
    """Also a shallow one, which shares all that the first holds."""
    module, y = hf.DiscriminatorP(2), torch.randn(1, 1, 300)
    module(y)
    for other in (copy.copy(module), copy.deepcopy(hf.DiscriminatorP(2))):
        other._parameters, other._modules = dict(other._parameters), dict(other._modules)
        other.conv_post = nn.utils.weight_norm(nn.Conv2d(128, 1, (3, 1), 1, (1, 0)))
        with hf.use_backend("modules"):
            right = other(y)[0]
        assert torch.allclose(other(y)[0], right, atol=1e-5)
        assert not torch.allclose(module(y)[0], right, atol=1e-5)


@interpreted
def test_gradients_of_maps_and_of_losses_are_other_programs():
    """Of two layers both take as many tensors of the same kinds."""
    small = SmallEnsemble((Layer(1, 4, 3, 2, 1), Layer(4, 1, 3, 1, 1, slope=1.0)), (2,), samples=1, length=20)

    def of_maps(backend):
        waves, layers, states, leaves = small.leaves(torch.float32)
        maps = run_ensemble(Call(backend, small.ensemble, torch.float32, states), waves, layers)
        total = sum(m.square().sum() for side in maps for own in side for m in own)
        return torch.autograd.grad(total, leaves)

    def of_losses(backend):
        waves, layers, states, leaves = small.leaves(torch.float32)
        found = run_step(Call(backend, small.ensemble, torch.float32, states), "generator", waves, layers)
        return torch.autograd.grad(found[0] + found[2], leaves)

    for grads in 2 * (of_maps, of_losses):
        assert_same(grads(TRITON), grads(dispatch.BACKENDS["reference"]))


def test_another_backend_another_call(mpd):
    y, y_hat = parity.waveforms(1, 60)
    right = step(mpd, y, y_hat, "modules")
    for backend in ("cpu", "reference", "modules", "cpu"):
        if backend == "modules" or dispatch.BACKENDS[backend].cannot_run(CPU, torch.float32) is None:
            assert_same(step(mpd, y, y_hat, backend), right)


LAYERS = (Layer(1, 4, 3, 2, 1), Layer(4, 4, 3, 1, 1), Layer(4, 1, 3, 1, 1, slope=1.0))


@interpreted
def test_gradients_of_other_maps_in_other_layouts():
    """A backward pass knows which maps it has gradients of, which of them are wanted, and how they lie."""
    small = SmallEnsemble(LAYERS, (1, 2), samples=1, length=20, seed=1)

    def grads(backend, used, turned, frozen):
        waves, layers, states, leaves = small.leaves(torch.float32)
        for p in layers[frozen] if frozen is not None else ():
            p.raw.requires_grad_(False)
        if backend is None:
            flat = iter(plain_maps(small.ensemble, waves, layers, states))
            maps = [[[next(flat) for _ in LAYERS] for _ in small.parameters] for _ in waves]
        else:
            maps = run_ensemble(Call(backend, small.ensemble, torch.float32, states), waves, layers)
        total = 0
        for side, stack, depth in used:
            m = maps[side][stack][depth]
            dims = list(range(m.dim()))[:: -1 if turned else 1]
            weights = torch.linspace(1, 2, m.numel(), dtype=m.dtype, device="cpu").view([m.shape[d] for d in dims])
            total = total + (m * weights.permute(dims)).sum()
        total.backward()
        return [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]

    some, others = [(0, 0, 2), (1, 1, 0)], [(0, 0, 1), (1, 0, 2), (1, 1, 2)]
    for case in (
        (some, False, 0),
        (some, False, None),
        (others, False, None),
        (some, True, None),
    ):
        assert_same(grads(TRITON, *case), grads(None, *case))


@interpreted
def test_a_call_runs_on_other_memory_without_being_asked_again(monkeypatch):
    small = SmallEnsemble(LAYERS, (2,), samples=1, length=20, norm="mixed", sigmas=2, seed=2)

    def losses(backend):
        waves, layers, states, leaves = small.leaves(torch.float32)
        found = run_step(Call(backend, small.ensemble, torch.float32, states), "generator", waves, layers)
        return [*found, *torch.autograd.grad(found[0] + found[2], leaves)]

    losses(TRITON)
    for own in small.parameters:
        for p in own:
            p.raw, p.bias = p.raw * 1.5, p.bias + 1
    for name in ("forward", "prepare", "input_grad", "weight_grad", "parameter_grads"):
        monkeypatch.setattr(TRITON, name, None)
    assert_same(losses(TRITON), losses(dispatch.BACKENDS["reference"]))


@pytest.fixture
def chain():
    """again(inputs): doubled and tripled copies of two inputs by a program, and how often it has been asked."""
    import triton
    import triton.language as tl

    from hifigan_fast.backends.gpu import program

    @triton.jit
    def weigh(x, y, to, by, SIZE: tl.constexpr):
        at = tl.arange(0, SIZE)
        tl.store(to + at, by * tl.load(x + at) + tl.load(y + at))

    programs, asked = {}, []

    def again(x, y, allocate=program.empty):
        def run():
            asked.append(1)
            found = []
            for by in (2.0, 3.0):
                middle, out = allocate((4,), x.dtype, CPU), program.empty((4,), x.dtype, CPU)
                TRITON.kernels.launch(CPU, weigh, (1,), x, y, middle, by, SIZE=4)
                TRITON.kernels.launch(CPU, weigh, (1,), middle, x, out, 1.0, SIZE=4)
                del middle  # the next may lie there
                found.append(out)
            return [found]

        return program.again(TRITON.kernels, programs, (), [x, y], run)[0], len(asked)

    return again


def numbers(first, count=4):
    return torch.arange(first, first + count, dtype=torch.float32, device="cpu")


def right(x, y):
    return [by * x + y + x for by in (2, 3)]


@interpreted
def test_a_program_is_asked_once(chain):
    for first in range(4):
        x, y = numbers(first), numbers(7 * first)
        found, asked = chain(x, y)
        assert asked == 1 and all(map(torch.equal, found, right(x, y)))


@interpreted
def test_a_program_of_one_tensor_given_twice_is_none(chain):
    """Which of the two a launch meant is not known."""
    x, y = numbers(1), numbers(5)
    for pair in ((x, x), (x, y), (y, x), (y, y)):
        found, asked = chain(*pair)
        assert all(map(torch.equal, found, right(*pair)))
    assert asked == 2  # the third by the second's program


@interpreted
def test_another_alignment_or_dtype_is_another_program(chain):
    x, y = numbers(1), numbers(5)
    cases = (x, y), (numbers(0, 5)[1:], y), (x, numbers(4, 5)[1:]), (x.double(), y.double()), (x, y)
    counts = []
    for pair in cases:
        found, asked = chain(*pair)
        counts.append(asked)
        assert all(map(torch.equal, found, right(*pair)))
    assert counts == [1, 2, 3, 4, 4]


@interpreted
def test_memory_that_a_program_does_not_know_of_makes_it_none(chain):
    def unknown(shape, dtype, device):
        return torch.empty(shape, dtype=dtype, device=device)

    x, y = numbers(1), numbers(5)
    for expected in (1, 2, 3):
        found, asked = chain(x, y, allocate=unknown)
        assert asked == expected and all(map(torch.equal, found, right(x, y)))


@interpreted
def test_memory_is_used_again_but_never_twice_at_once():
    from hifigan_fast.backends.gpu import program

    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        firsts, lengths, sizes = (torch.randint(0, most, (12,), generator=random).tolist() for most in (9, 4, 5000))
        spans = {slot: (first, first + n, size) for slot, (first, n, size) in enumerate(zip(firsts, lengths, sizes))}
        places, total = program.laid_out(spans)
        for (one, at), (other, there) in itertools.combinations(places, 2):
            (a, b, n), (c, d, m) = spans[one], spans[other]
            assert b < c or d < a or at + n <= there or there + m <= at
        assert all(at % program.LINE == 0 and at + spans[slot][2] <= total for slot, at in places)
    assert program.laid_out({0: (0, 1, 600), 1: (1, 2, 500), 2: (2, 3, 1024)}) == ([(0, 0), (1, 1024), (2, 0)], 1536)


@interpreted
def test_what_is_kept_is_bounded():
    from hifigan_fast.backends.gpu import tables

    for rows in range(10_000):
        run = Run(0, 1, 2, rows + 10, rows + 5, 0, 0, 0, 0)
        tables.tiles(Runs([run]), 128, CPU)
    assert len(tables.tiles.found) == kept.MOST and not tables.tiles.held
    assert geometry.ensemble_of.cache_info().maxsize == geometry.KEPT


def test_what_a_graph_took_stays(monkeypatch):
    """It holds addresses."""
    made = kept.kept(lambda number: [number])
    monkeypatch.setattr(kept, "capturing", lambda: True)
    first = made(-1)
    monkeypatch.setattr(kept, "capturing", lambda: False)
    for number in range(2 * kept.MOST):
        made(number)
    assert list(made.held.values()) == [first] and len(made.found) == kept.MOST


# Of a half of a step with both ensembles: launches, PyTorch's operators, calls of Python's (functions of C too). By the
# clock they were 13 to 14 ms of one core; before plans: 51, 4488 and 40285, of the generator's part 40, 3864 and 33933.
MOST = {
    "discriminator": (51, 1500, 10500),
    "generator": (40, 800, 11500),
    "discriminator_by_step_losses": (51, 1300, 10000),
    "generator_by_step_losses": (40, 750, 9500),
}


@interpreted
@pytest.mark.parametrize("half", MOST)
def test_a_step_costs_the_host_little(half, monkeypatch):
    """Counted, not timed: `python -m benchmarks.host` does both, with compiled kernels."""
    from benchmarks import host
    from hifigan_fast.backends.triton import launch

    made = []
    monkeypatch.setattr(launch, "_interpret", lambda *_: made.append(1) or (lambda *_: made.append(1)))
    geometry.ensemble_of.cache_clear()  # of what was made by a launch that does something
    run = getattr(host.Steps(), half)
    with hf.use_backend("triton"):
        for _ in range(2):
            list(run())
        counts = [host.by_part(run, lambda: len(made)), host.operators_by_part(run), host.calls_by_part(run)]
    counts = [sum(own.values()) for own in counts]
    assert all(count <= most for count, most in zip(counts, MOST[half])), counts

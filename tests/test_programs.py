"""What a pass keeps for the next one: programs of the same memory and kinds, bounded, and worth it."""

import itertools
from types import SimpleNamespace

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, geometry
from hifigan_fast.backends import kept
from hifigan_fast.backends.gpu import driver
from hifigan_fast.geometry import Layer, Run, Runs
from hifigan_fast.passes.autograd import run_ensemble, run_step
from hifigan_fast.passes.call import Call

from .small import SmallEnsemble, assert_same, plain_maps

TRITON = dispatch.BACKENDS["triton"]
CPU = torch.device("cpu")
REFUSED = TRITON.cannot_run(CPU, torch.float32)
interpreted = pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))


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
def test_gradients_under_another_norm_are_another_program():
    """Of one geometry, and of a weight norm whose magnitudes are frozen the same gradients are wanted as of none."""
    ensemble = SmallEnsemble(LAYERS, (2,), samples=1, length=20).ensemble

    def grads(backend, norm):
        small = SmallEnsemble(LAYERS, (2,), samples=1, length=20, norm=norm, seed=3)
        waves, layers, states, leaves = small.leaves(torch.float32)
        for p in layers[0]:
            if p.magnitude is not None:
                p.magnitude.requires_grad_(False)
        maps = run_ensemble(Call(backend, ensemble, torch.float32, states), waves, layers)
        sum(m.square().sum() for side in maps for own in side for m in own).backward()
        return [t.grad for t in leaves]

    for norm in ("weight", "plain", "weight"):
        assert_same(grads(TRITON, norm), grads(dispatch.BACKENDS["reference"], norm))


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


@interpreted
def test_losses_of_tensors_that_begin_anywhere_run_again_where_others_lie(monkeypatch):
    """The aligned address before a tensor lies in what was its neighbour when the launch was recorded."""
    from hifigan_fast.backends.gpu import losses

    def placed(numbers, *places):
        random = torch.Generator().manual_seed(numbers)
        memory = [torch.randn(24, generator=random, dtype=torch.float32, device="cpu") for _ in places]
        return [memory[buffer][first : first + 5] for buffer, first in places]

    def found(backend, pair):
        by = torch.tensor([3.0], dtype=torch.float32, device="cpu")
        real, generated = ([m] for m in pair)
        (total, _), grads = backend.squared_means(pair, (1, 0), torch.float32), [True, True]
        return [
            backend.feature_l1(real, generated),
            *[own[0] for own in backend.feature_l1_backward(real, generated, by, [True], [True])],
            total,
            *backend.squared_means_backward(pair, (1, 0), by[0], None, grads),
        ]

    def expected(real, generated):
        away, scores = generated - real, [real - 1, generated]
        sign = away.sgn() * 3 / 5
        return [
            away.abs().mean()[None],
            -sign,
            sign,
            sum(s.square().mean() for s in scores),
            *[s * 6 / 5 for s in scores],
        ]

    for number, places in enumerate((((0, 1), (0, 6)), ((0, 1), (1, 2)), ((1, 5), (0, 10)))):
        pair = placed(number, *places)
        torch.testing.assert_close(found(TRITON, pair), expected(*pair))
        monkeypatch.setattr(losses, "from_aligned", None)


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
        tables.tiles(Runs([run]), 128, 1, CPU)
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
    "discriminator": (51, 1350, 5000),
    "generator": (40, 570, 6500),
    "discriminator_by_step_losses": (51, 1100, 4250),
    "generator_by_step_losses": (40, 330, 4100),
}


@interpreted
@pytest.mark.parametrize("half", MOST)
def test_a_step_costs_the_host_little(half, monkeypatch):
    """Counted, not timed: `python -m benchmarks.host` does both, with compiled kernels."""
    from benchmarks import host
    from hifigan_fast.backends.triton import launch

    made = []

    class Launched:
        """As a compiled kernel on a device: a recorded pass asks the driver."""

        def __init__(self, *_):
            made.append(1)

        def driven(self, _):
            return driver.Function(0, 32, 0), [("pointer", 0)]

    monkeypatch.setattr(driver, "_library", lambda: SimpleNamespace(cuLaunchKernelEx=lambda *_: made.append(1)))
    monkeypatch.setattr(driver, "have_context", lambda device: None)
    monkeypatch.setattr(launch, "_interpret", Launched)
    geometry.ensemble_of.cache_clear()  # of what was made by a launch that does something
    run = getattr(host.Steps(), half)
    with hf.use_backend("triton"):
        for _ in range(2):
            list(run())
        counts = [host.by_part(run, lambda: len(made)), host.operators_by_part(run), host.calls_by_part(run)]
    geometry.ensemble_of.cache_clear()
    counts = [sum(own.values()) for own in counts]
    assert all(count <= most for count, most in zip(counts, MOST[half])), counts

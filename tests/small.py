"""Ensembles of few channels, so that random geometries cost milliseconds; and their plain PyTorch counterpart."""

import itertools
from unittest import mock

import torch
import torch.nn.functional as F

from hifigan_fast import norms, parity
from hifigan_fast.dispatch import BACKENDS
from hifigan_fast.geometry import Ensemble, Layer, Stack
from hifigan_fast.passes.autograd import run_ensemble
from hifigan_fast.passes.call import Call

CONVS = (Layer(1, 6, 5, 3, 2), Layer(6, 8, 5, 3, 2, groups=2), Layer(8, 20, 7, 1, 3), Layer(20, 1, 3, 1, 1, slope=1.0))


class SmallEnsemble:
    """Stacks, random parameters and waveforms; runs on a backend or in plain PyTorch."""

    def __init__(
        self, layers=CONVS, periods=(2, 3), folded=True, sides=2, samples=2, length=100, norm="weight", sigmas=1, seed=0
    ):
        random = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        stacks = tuple(Stack(tuple(layers), period if folded else 1, folded) for period in periods)
        lengths = (length,) if folded else tuple(length // 2**i + (i > 0) for i in range(len(periods)))
        waves = tuple(0 if folded else i for i in range(len(stacks)))
        sets, self.states = [], []
        for _ in stacks:
            own = sides if norm in ("spectral", "mixed") and sigmas > 1 else 1
            sets.append(tuple(len(self.states) + side % own for side in range(sides)))
            self.states += [[None] * len(layers) for _ in range(own)]
        self.ensemble = Ensemble(stacks, waves, lengths, samples, sides, tuple(sets))
        self.waves = [[randn(samples, 1, n) for n in lengths] for _ in range(sides)]
        self.parameters = []
        for _ in stacks:
            own = []
            for depth, layer in enumerate(layers):
                raw = randn(layer.out_channels, layer.in_channels // layer.groups, layer.taps)
                raw = (raw + raw.sign()) / raw[0].numel() ** 0.5  # none near zero: weight norm divides by its length
                magnitude = 1 + 0.3 * randn(layer.out_channels, 1, 1) if self._has(norm, "weight", depth) else None
                own.append(norms.Parameters(raw, magnitude, 0.3 * randn(layer.out_channels)))
            self.parameters.append(own)
        if norm in ("spectral", "mixed"):
            for states, stack in zip(self.states, self.ensemble.set_stacks):
                for depth, p in enumerate(self.parameters[stack]):
                    if not self._has(norm, "spectral", depth):
                        continue
                    u, matrix = randn(len(p.raw)), p.raw.flatten(1)
                    for _ in range(3):  # as unsettled as in training, not so that sigma is nearly zero
                        v = F.normalize(matrix.t() @ u, dim=0)
                        u = F.normalize(matrix @ v, dim=0)
                    states[depth] = (u, v)
        self.weighting = random.initial_seed() + 1
        self._judges = {}  # by dtype: plain PyTorch's results, and its oracle

    @staticmethod
    def _has(norm, kind, depth):
        """Whether a layer has that norm; "mixed" alternates."""
        return norm == kind or (norm == "mixed" and ("weight", "spectral")[depth % 2] == kind)

    def _cast(self, dtype):
        """Leaves of one dtype that require gradients, and spectral states."""
        waves = [[w.to(dtype).requires_grad_() for w in side] for side in self.waves]
        layers = [
            [
                norms.Parameters(
                    *(None if t is None else t.to(dtype).requires_grad_() for t in (p.raw, p.magnitude, p.bias))
                )
                for p in own
            ]
            for own in self.parameters
        ]
        states = []
        for own, stack in zip(self.states, self.ensemble.set_stacks):
            states.append([])
            for state, p in zip(own, layers[stack]):
                if state is not None:
                    u, v = (t.to(dtype) for t in state)
                    sigma = torch.dot(u, p.raw.detach().flatten(1) @ v)
                    state = norms.Spectral(u, v, sigma)
                states[-1].append(state)
        return waves, layers, states

    def leaves(self, dtype):
        waves, layers, states = self._cast(dtype)
        flat = [w for side in waves for w in side]
        flat += [t for own in layers for p in own for t in (p.raw, p.magnitude, p.bias) if t is not None]
        return waves, layers, states, flat

    def on(self, backend, dtype=torch.float32):
        """Maps and gradients by the package, as (maps, gradients), both flat lists."""
        waves, layers, states, flat = self.leaves(dtype)
        with mock.patch.dict(BACKENDS, {backend.name: backend}):  # operators know backends by name
            maps = run_ensemble(Call(backend, self.ensemble, dtype, states), waves, layers)
            return self._finish([m for side in maps for own in side for m in own], flat)

    def plain(self, dtype, sides_of=None):
        """The same in plain PyTorch; `sides_of`: maps whose sides of each leaky ReLU are taken."""
        waves, layers, states, flat = self.leaves(dtype)
        return self._finish(plain_maps(self.ensemble, waves, layers, states, sides_of), flat)

    def _finish(self, maps, leaves):
        random = torch.Generator().manual_seed(self.weighting)
        total = sum(parity.weigh(m, random) for m in maps)
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
        return [m.detach() for m in maps], grads

    def _judge(self, dtype):
        """Plain PyTorch's results, and their oracle: the same for every backend that is judged."""
        if dtype not in self._judges:
            theirs = self.plain(dtype)
            self._judges[dtype] = theirs, self.plain(torch.float64, sides_of=theirs[0])
        return self._judges[dtype]

    def worst_ratio(self, backend, dtype=torch.float32):
        """The worst error ratio over all maps and gradients, small tensors together."""
        ours, (theirs, oracle) = self.on(backend, dtype), self._judge(dtype)
        same = all(torch.equal(a > 0, b > 0) for a, b in zip(ours[0], theirs[0]))
        oracles = [oracle if same else self.plain(torch.float64, sides_of=ours[0]), oracle]
        eps = torch.finfo(dtype).eps
        ratios = []
        for kind in (0, 1):
            plain = [_or_oracle(*pair) for pair in zip(theirs[kind], oracles[1][kind])]
            pairs = list(zip(zip(ours[kind], oracles[0][kind]), zip(plain, oracles[1][kind])))
            # Few terms make torch's own error a matter of luck, and the gradient of a weight-normed scalar is a zero
            # that rounding misses: the floor is wide here. The real shapes are judged by the narrow one.
            least = max(oracle.square().mean().sqrt().item() for _, (_, oracle) in pairs if oracle is not None)
            groups = {}  # small tensors together, as the gate judges them: a single rounding is luck too
            for number, pair in enumerate(pairs):
                few = pair[1][1] is not None and pair[1][1].numel() < parity.SMALL
                groups.setdefault("small" if few else number, []).append(pair)
            ratios += [parity.error_ratio(own, parity.SMALL_FLOOR_ULPS, eps, least) for own in groups.values()]
        return max(float("inf") if ratio != ratio else ratio for ratio in ratios)


def _or_oracle(plain, oracle):
    """PyTorch's own result; but its bfloat16 weight gradients of one tap may be memory it never wrote (torch 2.13)."""
    return plain if plain is None or plain.isfinite().all() else oracle.to(plain.dtype)


def plain_maps(ensemble, waves, layers, states, sides_of=None):
    """Every map by F.conv1d / F.conv2d, in the order of `run_ensemble`."""
    maps = []
    sides_of = iter(sides_of) if sides_of is not None else itertools.repeat(None)
    for side in range(ensemble.sides):
        for index, stack in enumerate(ensemble.stacks):
            x = waves[side][ensemble.waves[index]]
            if stack.folded:
                x = F.pad(x, (0, -x.shape[-1] % stack.period), "reflect") if x.shape[-1] % stack.period else x
                x = x.view(*x.shape[:2], -1, stack.period)
            for depth, (layer, p) in enumerate(zip(stack.layers, layers[index])):
                state = states[ensemble.weight_sets[index][side]][depth]
                weight = p.raw
                if p.magnitude is not None:
                    weight = p.magnitude * p.raw / p.raw.flatten(1).norm(dim=1)[:, None, None]
                elif state is not None:
                    weight = p.raw / torch.dot(state.u, p.raw.flatten(1) @ state.v)
                if stack.folded:
                    args = (layer.stride, 1), (layer.padding, 0), 1, layer.groups
                    x = F.conv2d(x, weight.unsqueeze(3), p.bias, *args)
                else:
                    x = F.conv1d(x, weight, p.bias, layer.stride, layer.padding, 1, layer.groups)
                taken = next(sides_of)
                positive = (x if taken is None else taken) > 0
                x = torch.where(positive, x, x * layer.slope)
                maps.append(x)
    return maps


def assert_alike(ours, plain, tolerance=1e-4):
    """Lists of tensors or None: each of ours is its counterpart, but for rounding."""
    for a, b in zip(ours, plain, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).norm() <= tolerance * b.norm() + 1e-9


def assert_power_iterations_are_right(backend, iterations, calls):
    """Of matrices of odd sizes: the states of all calls, and where the vectors are left."""
    random = torch.Generator().manual_seed(0)
    shapes = [(1, 7), (130, 33), (64, 1500)]
    ours = [tuple(torch.randn(size, generator=random) for size in (shape, shape[0], shape[1])) for shape in shapes]
    plain = [tuple(t.double() for t in own) for own in ours]
    found = backend.power_iterations(ours, 1e-12, iterations, calls)
    expected = BACKENDS["reference"].power_iterations(plain, 1e-12, iterations, calls)
    for state, right in zip(found, expected, strict=True):
        torch.testing.assert_close(state.double(), right, rtol=1e-5, atol=1e-6)
    for own, moved in zip(ours, plain):
        torch.testing.assert_close(tuple(t.double() for t in own), moved, rtol=1e-5, atol=1e-6)


def assert_same(found, right):
    for ours, plain in zip(found, right, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)

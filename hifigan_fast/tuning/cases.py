"""What is measured: the layers of HiFi-GAN's discriminators, each alone, as a training step has them."""

from dataclasses import dataclass, replace

import torch

from ..backends.contract import WeightSet, weights_of, wide
from ..backends.gpu.convolutions import Sums
from ..backends.reference import ReferenceBackend
from ..backends.triton import configs
from ..discriminators import DiscriminatorP, DiscriminatorS, stack_of
from ..geometry import Ensemble
from ..reference import PERIODS

BATCH, LENGTH = 16, 8192
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}  # of an arithmetic, the first first
LIMIT = 2e-2  # relative error that no dtype's rounding reaches


@dataclass(frozen=True)
class Place:
    """One layer of an ensemble."""

    ensemble: Ensemble
    depth: int

    @property
    def layer(self):
        return self.ensemble.layers[self.depth]

    @property
    def role(self):
        return self.ensemble.role(self.depth)

    @property
    def flops(self):
        return self.layer.flops(self.ensemble.offsets(self.depth + 1, self.ensemble.members)[1])


def ensembles(batch=BATCH, length=LENGTH):
    """The periods and the scales, both sides; spectral norm's scale has two sets of weights."""
    with torch.device("meta"):
        period, scale = stack_of(DiscriminatorP(PERIODS[0])), stack_of(DiscriminatorS())
    periods = tuple(replace(period, period=p) for p in PERIODS)
    yield Ensemble(periods, (0,) * len(periods), (length,), batch, 2, tuple((i, i) for i in range(len(periods))))
    lengths = length, length // 2 + 1, length // 4 + 1
    yield Ensemble((scale,) * 3, (0, 1, 2), lengths, batch, 2, ((0, 1), (2, 2), (3, 3)))


def places(found):
    """{layer class: its `Place`s in these ensembles, that of the most work first}."""
    classes = {}
    for ensemble in found:
        for depth in range(len(ensemble.layers)):
            place = Place(ensemble, depth)
            classes.setdefault(configs.layer_class(place.role, place.layer), []).append(place)
    return {name: sorted(own, key=lambda place: -place.flops) for name, own in classes.items()}


class Case:
    """One layer in one direction and dtype: operands, and a call of each backend.

    Args:
        matching: an input gradient not as in a discriminator's step only, but also as in a generator's, which adds the
            feature loss's gradients.
    """

    def __init__(self, place, direction, dtype, device, matching=False):
        self.role, self.layer, self.direction, self.dtype = place.role, place.layer, direction, dtype
        ensemble, members = place.ensemble, place.ensemble.members
        self.runs = ensemble.runs(place.depth, members)
        (_, ins), (_, outs) = (ensemble.offsets(d, members) for d in (place.depth, place.depth + 1))
        random = torch.Generator(device).manual_seed(0)

        def randn(*shape, dtype=dtype):
            return torch.randn(*shape, generator=random, device=device, dtype=torch.float32).to(dtype)

        layer = self.layer
        if self.role == "stem":
            self.x = randn(ensemble.wave_offsets[1], dtype=wide(dtype))
        else:
            self.x = randn(ins * layer.in_channels)
        self.grad = randn(outs * layer.out_channels)
        shape = layer.out_channels, layer.in_channels // layer.groups, layer.taps
        self.sets = [
            WeightSet(randn(*shape, dtype=wide(dtype)), None, None, randn(shape[0], dtype=wide(dtype)))
            for _ in range(ensemble.set_count)
        ]
        self.sources = [([None] * len(self.runs), None)]  # what `input_grad` takes from outside
        if matching:
            others = [randn(run.sequences * run.in_rows * layer.in_channels) for run in self.runs]
            self.sources.append((others, torch.full((len(others),), 0.5, dtype=torch.float32, device=device)))

    def call(self, backend):
        """() -> the direction's result, in the backend's own form."""
        layer, runs = self.layer, self.runs
        (weights,) = weights_of((layer,), [self.sets], *backend.prepare((layer,), [self.sets], self.dtype))
        out, grads_in = torch.empty_like(self.grad), [torch.empty_like(self.x) for _ in self.sources]

        def forward():
            backend.forward(self.role, layer, runs, self.x, weights, out)
            return [out]

        def input_grad():
            for source, grad_in in zip(self.sources, grads_in):
                backend.input_grad(self.role, layer, 0.1, runs, self.grad, weights, self.x, *source, grad_in)
            return grads_in

        def weight_grad():
            return backend.weight_grad(self.role, layer, runs, self.x, self.grad, weights)

        return {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}[self.direction]

    def right(self):
        """The reference's results, in the form that `agrees` compares with."""
        return [tensor.clone() for tensor in _comparable(self.call(ReferenceBackend())())]


def _comparable(result):
    """Results of any backend in one form: a weight gradient's are its sums, a set each, and the biases'."""
    if isinstance(result, Sums):
        own = [slice(*of) for _, of in sorted(result.of_set.items())]
        return [result.partial[s].sum(0).transpose(1, 2) for s in own] + [result.bias[s].sum(0) for s in own]
    if isinstance(result, tuple):
        return [grad for grad, _ in result[0]] + list(result[1])
    return result


def agrees(result, right):
    """Whether a result is right. It is gone afterwards: what the next call does not write is not right by chance."""
    pairs = zip(_comparable(result), right, strict=True)
    found = all((a.float() - b.float()).norm() <= LIMIT * b.float().norm() for a, b in pairs)
    for tensor in (result.partial, result.bias) if isinstance(result, Sums) else result:
        tensor.fill_(float("nan"))
    return found

"""What is timed: one step of one set of discriminators, or of a whole training, by every way; and the work in it."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .steps import PASSES, forget_gradients
from .workloads import left, modules_of


class Work(NamedTuple):
    """The least that a step does: operations by the direct count, and elements of maps and parameters that it moves."""

    flops: float
    elements: float

    def times(self, passes):
        return Work(passes * self.flops, passes * self.elements)

    def plus(self, other):
        return Work(self.flops + other.flops, self.elements + other.elements)

    def floor_ms(self, gflops, gbytes, itemsize):
        """Milliseconds that it takes at least where so much is multiplied, and moved, a second."""
        return 1e-6 * max(self.flops / gflops, itemsize * self.elements / gbytes)


class _Outputs(TorchDispatchMode):
    """Counts the elements that convolutions write."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.elements += out.numel()
        return out


def work_of(modules, call):
    """The `Work` of plain PyTorch's convolutions in `call`: maps written, the modules' parameters read once."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Outputs() as outputs:
        call()
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    return Work(flops.get_total_flops(), outputs.elements + parameters)


class Case(NamedTuple):
    """One step of one ensemble.

    work: what the step does at least.
    calls: {way: a callable that does it once}.
    forget: {way: a callable that lets go of what its calls leave: gradients, and an optimizer's states}.
    refused: {way: why it is not timed}, of `calls`.
    """

    ensemble: str
    step: str
    work: Work
    calls: dict[str, Callable]
    forget: dict[str, Callable]
    refused: Mapping[str, str] = MappingProxyType({})


def _forward(modules, y, y_hat):
    for module in modules:
        module(y, y_hat)


def forward_work(modules, y, y_hat):
    """The `Work` of plain PyTorch's modules forward, both sides."""
    return work_of(modules, functools.partial(_forward, modules, y, y_hat))


def cases(workload, waves, steps, ways):
    """Yield the cases of a workload's ensembles, for `steps` on `waves` (real and generated, [B, 1, T])."""
    modules = modules_of(workload, ways, waves[0].device)
    plain = next(name for name, way in ways.items() if not (way.ours or way.prepare))
    for ensemble in workload.ensembles:
        work = forward_work(modules[plain][ensemble], *waves)
        for step in steps:
            calls = {n: way.call(step, modules[n][ensemble], *waves) for n, way in ways.items() if way.does(step)}
            forget = {name: functools.partial(forget_gradients, modules[name][ensemble]) for name in calls}
            refused = {name: f"accelerate: {why}" for name in calls if (why := left(modules[name][ensemble]))}
            yield Case(ensemble, step, work.times(PASSES[step]), calls, forget, refused)

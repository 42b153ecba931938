"""Measures configurations on this GPU, and keeps them for it: `hifigan-fast tune`.

A candidate counts only if its results are the reference's: some are silently wrong on some versions of Triton.
"""

import itertools
import json
import re
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch

from ... import cache
from ...geometry import Ensemble, Layer, Stack
from ..contract import WeightSet, weights_of
from ..gpu import devices
from ..gpu.convolutions import Sums
from ..reference import ReferenceBackend
from . import configs

PERIODS = (2, 3, 5, 7, 11)
BATCH, LENGTH = 16, 8192
# Of each class the layer that takes the most time.
LAYERS = {
    "stem": Layer(1, 32, 5, 3, 2),
    "narrow": Layer(128, 256, 41, 2, 20, 16),
    "middle": Layer(128, 128, 41, 2, 20, 4),
    "grouped": Layer(1024, 1024, 41, 1, 20, 16),
    "dense": Layer(1024, 1024, 5, 1, 2),
    "head": Layer(1024, 1, 3, 1, 1, slope=1.0),
}
CHOICES = {
    "BM": (64, 128, 256),
    "BN": (16, 32, 64, 128, 256),
    "BK": (16, 32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4),
}
ROUNDS = 3  # of changing one number at a time
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}  # of an arithmetic, the first first
QUICK_SECONDS = 60
LIMIT = 2e-2  # relative error that no dtype's rounding reaches


def neighbours(config):
    """Configurations that differ in one number, by a step."""
    for name, numbers in CHOICES.items():
        was = getattr(config, name)
        for number in numbers:
            if number != was and max(number, was) <= 2 * min(number, was):
                yield replace(config, **{name: number})


class Case:
    """One class in one direction and dtype: operands, and a call of each backend."""

    def __init__(self, name, direction, dtype, device, batch=BATCH, length=LENGTH):
        self.name, self.layer, self.direction = name, LAYERS[name], direction
        self.role = name if name in ("stem", "head") else "conv"
        self.dtype = dtype
        rows = length // 9 if name in ("narrow", "middle") else length // 81
        stem = self.role == "stem"
        # The layer alone, as a stack; its input is a stem's output unless it is a stem itself.
        under = (self.layer,) if stem else (Layer(1, self.layer.in_channels, 1, 1, 0), self.layer)
        stacks = tuple(Stack(under, period, True) for period in PERIODS)
        sets = tuple((i, i) for i in range(len(stacks)))
        ensemble = Ensemble(stacks, (0,) * len(stacks), (length if stem else rows,), batch, 2, sets)
        depth, members = len(under) - 1, tuple(ensemble.members)
        self.runs = ensemble.runs(depth, members)
        (_, ins), (_, outs) = (ensemble.offsets(d, members) for d in (depth, depth + 1))
        random = torch.Generator(device).manual_seed(0)

        def randn(*shape, dtype=dtype):
            return torch.randn(*shape, generator=random, device=device, dtype=torch.float32).to(dtype)

        wave_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        self.x = randn(ensemble.wave_offsets[1], dtype=wave_dtype) if stem else randn(ins * self.layer.in_channels)
        self.grad = randn(outs * self.layer.out_channels)
        shape = self.layer.out_channels, self.layer.in_channels // self.layer.groups, self.layer.taps
        self.sets = [
            WeightSet(randn(*shape, dtype=wave_dtype), None, None, randn(shape[0], dtype=wave_dtype)) for _ in stacks
        ]
        # As in a discriminator's step, and as in a generator's: what `input_grad` takes from outside.
        self.sources = []
        if direction == "input_grad":
            others = [randn(run.sequences * run.in_rows * self.layer.in_channels) for run in self.runs]
            matching = torch.full((len(others),), 0.5, dtype=torch.float32, device=device)
            self.sources = [([None] * len(others), None), (others, matching)]

    def call(self, backend):
        """() -> the direction's result as a list of tensors; weight gradients as the reference's sums of sets."""
        layer, runs = self.layer, self.runs
        (weights,) = weights_of((layer,), [self.sets], *backend.prepare((layer,), [self.sets], self.dtype))
        out = torch.empty_like(self.grad)
        grads_in = [torch.empty_like(self.x) for _ in self.sources]

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


def _flat(result):
    """Results of either backend in one form."""
    if isinstance(result, Sums):
        return [result.partial[slice(*own)].sum(0).transpose(1, 2) for _, own in sorted(result.of_set.items())]
    if isinstance(result, tuple):
        return [grad for grad, _ in result[0]]
    return result


def _agrees(found, right):
    return all((a.float() - b.float()).norm() <= LIMIT * b.float().norm() for a, b in zip(found, right, strict=True))


def _time(call):
    from triton.testing import do_bench

    return do_bench(call, warmup=5, rep=30, return_mode="median")


@dataclass(frozen=True)
class Best:
    """The configuration to take, and milliseconds: ours at their best, and the library's where it may run."""

    config: configs.Config
    ours: float
    library: float | None

    def __str__(self):
        rival = "" if self.library is None else f", PyTorch's own {self.library:.3f} ms"
        return f"ours {self.ours:.3f} ms{rival}: {'the library' if self.config.by == 'library' else 'ours'}"


def best(backend, case, before, rounds=ROUNDS, time=_time, say=print):
    """The fastest right configuration of a case that steps from `before` lead to -> `Best`; `before` if none is faster.

    It says too whether PyTorch's own convolution is faster still.
    """
    right = [t.clone() for t in _flat(case.call(ReferenceBackend())())]
    call, found = case.call(backend), {}

    def measured(config):
        """Milliseconds; infinite for what does not fit or is wrong."""
        if config not in found:
            with configs.trying(config):
                try:
                    found[config] = time(call) if _agrees(_flat(call()), right) else float("inf")
                except Exception as error:  # whatever the compiler or the device refuses it with
                    say(f"    {config}: {type(error).__name__}")
                    found[config] = float("inf")
            say(f"    {config}: {found[config]:.3f} ms")
        return found[config]

    kept = replace(before, by="triton")
    for _ in range(rounds):
        fastest = min((kept, *neighbours(kept)), key=measured)
        if measured(fastest) > 0.98 * measured(kept):
            break
        kept = fastest
    ours = measured(kept)
    if case.name not in configs.LIBRARY_CLASSES:
        return Best(kept, ours, None)
    library = measured(replace(kept, by="library"))
    return Best(replace(kept, by="library" if library < 0.98 * ours else "triton"), ours, library)


def _numbers(config):
    """A configuration as tables have it."""
    return list(astuple(config)[:5]) + [config.by] * (config.by != "triton")


def write(path, table):
    """The table as JSON, a configuration a line."""
    text = json.dumps(configs.like(table, lambda g, d, a, name: _numbers(table[g][d][a][name])), indent=1)
    text = re.sub(r"\[\s+([\w,\s\"]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    Path(path).write_text(text + "\n")


def _keep(device, what, entry):
    """Add an entry to a device's measurements (`configs.measurements`)."""
    with cache.locked(configs.MEASURED):
        found = configs.measurements(device) | {what: entry}
        cache.keep(configs.MEASURED, lambda entries: entries.update({configs.place(device): found}))
    configs.forget_measured()


def _cases(generation, quick):
    """(direction, arithmetic, class) of what is measured."""
    of, classes = configs.table()[generation], configs.LIBRARY_CLASSES if quick else configs.CLASSES
    return [
        (direction, arithmetic, name)
        for arithmetic, name, direction in itertools.product(DTYPES, reversed(classes), configs.DIRECTIONS)
        if name in of[direction].get(arithmetic, ())
    ]


def run(out=None, quick=False, device=None, timed=_time, say=print):
    """Measure on a GPU, and keep what was found for this device and these versions (`configs.measurements`).

    Args:
        out: a file for the whole table too, as the package ships one.
        quick: our configurations as they are against the library, in the classes where it may run, for a minute; what
            an earlier run has measured comes last.
    """
    from . import TritonBackend

    device, backend = device or torch.device("cuda"), TritonBackend()
    generation = configs.generation_of(devices.capability(device))
    known, cases = configs.measurements(device), _cases(generation, quick)
    if quick:
        cases.sort(key=lambda case: ", ".join(case) in known)
    rounds, aside = (0, lambda _: None) if quick else (ROUNDS, say)
    begun, before_tf32 = time.monotonic(), torch.backends.cudnn.allow_tf32
    try:
        for number, (direction, arithmetic, name) in enumerate(cases):
            if quick and time.monotonic() - begun > QUICK_SECONDS:
                say(f"a minute is over, {len(cases) - number} of {len(cases)} are left: another run begins with them")
                break
            torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
            before, what = configs.config(generation, direction, arithmetic, name), f"{direction}, {arithmetic}, {name}"
            case = Case(name, direction, DTYPES[arithmetic], device, BATCH, LENGTH)
            found = best(backend, case, before, rounds, timed, aside)
            say(f"  {what}: {found}")
            entry = {"generation": generation, "config": _numbers(found.config), "ms": [found.ours, found.library]}
            _keep(device, what, entry)  # whatever comes, this much is done
            if out:
                write(out, configs.in_use())
    finally:
        torch.backends.cudnn.allow_tf32 = before_tf32
    say(f"kept for {configs.contact(device)['device']} in {cache.folder() / configs.MEASURED}")
    return 0

"""Other projects' discriminators at full size, accelerated, against themselves: error, time to probe, both halves of a
step. Processor time of one thread, in turn, so that other work on the machine disturbs little.

python -m benchmarks.wild
PYTHONPATH=build/wild python -m benchmarks.wild    published packages' own classes too (`make build/wild`)
"""

import contextlib
import copy
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from tabulate import tabulate

import hifigan_fast
from hifigan_fast import parity, reference
from hifigan_fast.bench.report import within
from hifigan_fast.bench.timing import ratio
from hifigan_fast.bench.workloads import VITS_SCALE
from hifigan_fast.cli import positive
from tests.wild import parts, real, variants

from . import report

PERIODS = (2, 3, 5, 7, 11)
PERIOD_CHANNELS = (1, 32, 128, 512, 1024, 1024)


# How a set is called on both waveforms -> real scores, generated scores, real maps, generated maps; `apart` is the
# context of the real one's call where the project makes two.
def _pair(module, y, y_hat, apart):
    return module(y, y_hat)


def _rows(module, y, y_hat, apart):
    return module(y.squeeze(1), y_hat.squeeze(1))  # [batch, samples]


def _coqui_pair(module, y, y_hat, apart):
    real, real_maps, generated, generated_maps = module(y, y_hat)
    return real, generated, real_maps, generated_maps


def _single(module, y, y_hat, apart):
    generated, generated_maps = module(y_hat)
    with apart:
        real, real_maps = module(y)
    return real, generated, real_maps, generated_maps


def _maps(module, y, y_hat, apart):
    generated = module(y_hat)
    with apart:
        found = module(y)
    return [own[-1] for own in found], [own[-1] for own in generated], found, generated


def _one(module, y, y_hat, apart):
    return _maps(lambda x: [module(x)], y, y_hat, apart)


class Set(NamedTuple):
    """A project's set, and how it trains with it.

    Attributes:
        real: its generator's loss has the real maps "attached", "detached", or from a call under "no_grad".
        steps: whether the step losses take it.
    """

    build: Callable
    batch: int
    samples: int
    call: Callable
    real: str
    steps: bool = True

    def waves(self):
        y, y_hat = parity.waveforms(self.batch, self.samples)
        return y, y_hat.detach()

    def discriminator(self, module, y, y_hat):
        scores, generated, *_ = self.call(module, y, y_hat, contextlib.nullcontext())
        return reference.discriminator_loss(scores, generated)[0]

    def generator(self, module, y, y_hat):
        apart = torch.no_grad() if self.real == "no_grad" else contextlib.nullcontext()
        _, generated, maps, generated_maps = self.call(module, y, y_hat, apart)
        if self.real == "detached":
            maps = [[m.detach() for m in own] for own in maps]
        return reference.generator_loss(generated)[0] + reference.feature_loss(maps, generated_maps)


def _periods(periods, kind=parts.Period):
    return [kind(period, channels=PERIOD_CHANNELS) for period in periods]


def _vits(*periods):
    return parts.Pair(parts.Scale(layers=VITS_SCALE), *_periods(periods))


def _gan(*strides):
    """ParallelWaveGAN's and espnet2's, whose scales differ by recipe in their strides."""
    channels, groups = (128, 128, 256, 512, 1024, 1024), (4, 16, 16, 16, 16)
    grouped = [(*sizes, 41, s, 20, g) for *sizes, s, g in zip(channels, channels[1:], strides, groups)]
    layers = ((1, 128, 15, 1, 7, 1), *grouped, (1024, 1024, 5, 1, 2, 1))
    scales = [variants.GanScale(norm, layers) for norm in ("spectral", "weight", "weight")]
    return variants.GanSet(scales, _periods(PERIODS, variants.GanPeriod))


def _published(name, *how):
    return Set(lambda: real.build(name, full=True), *how)


SETS = {
    "VITS": Set(lambda: _vits(*PERIODS), 4, 8192, _pair, "detached"),
    "RVC v2": Set(lambda: _vits(*PERIODS, 17, 23, 37), 1, 17280, _pair, "detached"),
    "BigVGAN, periods": Set(lambda: parts.Pair(*_periods(PERIODS)), 1, 32768, _pair, "attached"),
    "ParallelWaveGAN, for LJSpeech": Set(lambda: _gan(4, 4, 4, 4, 1), 1, 8192, _maps, "no_grad"),
    "espnet2": Set(lambda: _gan(2, 2, 4, 4, 1), 1, 8192, _maps, "no_grad"),
    "so-vits-svc-fork": _published("so-vits-svc-fork", 4, 8192, _pair, "detached"),
    "coqui-tts, VITS": _published("coqui-tts vits", 4, 8192, _coqui_pair, "detached"),
    "coqui-tts, vocoder": _published("coqui-tts vocoder", 1, 8192, _single, "no_grad"),
    "descript-audio-codec, one period": _published("descript-audio-codec", 1, 8192, _one, "detached"),
    "vocos, periods": _published("vocos", 1, 8192, _rows, "attached", False),
}


def _discriminator(loss):
    def run(module, y, y_hat):
        module.zero_grad(set_to_none=True)
        loss(module, y, y_hat).backward()

    return run


def _generator(loss, frozen):
    def run(module, y, y_hat):
        module.zero_grad(set_to_none=True)
        with hifigan_fast.frozen(module) if frozen else contextlib.nullcontext():
            loss(module, y, y_hat.clone().requires_grad_()).backward()

    return run


def halves(case):
    """{half: [(what, whether accelerated, a step)]}, the project's own way first."""
    found = {
        "discriminator step": [
            ("own", False, _discriminator(case.discriminator)),
            ("accelerated", True, _discriminator(case.discriminator)),
        ],
        "generator's part": [
            ("own", False, _generator(case.generator, False)),
            ("frozen", True, _generator(case.generator, True)),
        ],
    }
    if case.steps:
        step, generator_step = hifigan_fast.discriminator_step_loss, hifigan_fast.generator_step_loss
        loss = _discriminator(lambda m, y, x: step(m, y, x).adversarial)
        found["discriminator step"].append(("step loss", True, loss))
        loss = _generator(lambda m, y, x: sum(generator_step(m, y, x)[:2]), True)
        found["generator's part"].append(("frozen, step loss", True, loss))
    return found


def measured(case, repeats):
    """Seconds to probe, the proof's error ratio, and the rows of both halves of a step."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the legacy norms are deprecated
        fast = case.build()
    start = time.process_time()
    (entry,) = hifigan_fast.accelerate(fast).entries
    probing = time.process_time() - start
    if entry.outcome != "accelerated":
        raise ValueError(f"{entry.kind} was {entry.outcome}: {entry.why}")
    own, waves, rows = copy.deepcopy(fast), case.waves(), []
    hifigan_fast.restore(own)
    for half, ways in halves(case).items():
        seconds = [[] for _ in ways]
        for _ in range(repeats + 1):  # the first does not count
            for (_, accelerated, step), taken in zip(ways, seconds):
                start = time.process_time()
                step(fast if accelerated else own, *waves)
                taken.append(time.process_time() - start)
        for (way, *_), taken in zip(ways[1:], seconds[1:]):
            speedup = ratio(seconds[0][1:], taken[1:])
            rows.append(
                {
                    "half": f"{half}, {way}",
                    "own_ms": 1e3 * statistics.median(seconds[0][1:]),
                    "fast_ms": 1e3 * statistics.median(taken[1:]),
                    "speedup": speedup["median"],
                    "range": within(speedup),
                }
            )
    return probing, float(re.search(r"error (\S+) times", entry.why)[1]), rows


def command(args):
    torch.set_num_threads(1)
    names = args.sets or list(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown:
        raise ValueError(f"sets: got {unknown[0]!r}, expected of {', '.join(SETS)}")
    found = []
    for name in names:
        case = SETS[name] if args.batch_of_all is None else SETS[name]._replace(batch=args.batch_of_all)
        try:
            probing, error, rows = measured(case, args.repeats)
        except pytest.skip.Exception as absent:
            print(f"{name}: {absent}")
            continue
        shape = f"{case.batch} × {case.samples}"
        print(f"{name}, {shape}: probed in {probing:.1f} s, error {error:.2g} times its own", flush=True)
        print(tabulate(rows, headers="keys", floatfmt=("", ".0f", ".0f", ".2f")), flush=True)
        found += [{"set": name, "shape": shape, "probing_s": probing, "error": error, **row} for row in rows]
    if args.out:
        report.write(args.out, {**report.conditions(args), "wild": found})


def main(argv=None):
    parser = report.parser("wild", __doc__.split(". ")[0].replace("\n", " "), repeats=5)
    parser.add_argument("--sets", nargs="+", metavar="NAME", help=f"of {'; '.join(SETS)}; default all")
    parser.add_argument(
        "--batch", dest="batch_of_all", metavar="N", type=positive, help="of every set; default its own"
    )
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""A discriminator step at other shapes than the usual, against plain PyTorch: one short sample, long segments; and what
a step of batch 8 holds in memory.

python -m benchmarks.shapes
"""

import statistics
import sys

from tabulate import tabulate

from hifigan_fast import parity, reference
from hifigan_fast.bench.memory import in_fresh_process, resident_mib
from hifigan_fast.bench.steps import FastLosses, discriminator_step
from hifigan_fast.bench.timing import interleaved
from hifigan_fast.bench.workloads import ENSEMBLES, build

from . import report

SHAPES = {"batch 1 × 8192": (1, 8192), "batch 2 × 65536": (2, 65536)}


def cases():
    """{name: {implementation: a callable of one step}}."""
    both, found = ENSEMBLES["both"], {}
    for name, shape in SHAPES.items():
        waves = parity.waveforms(*shape)
        plain, fast = build(both, plain=True), build(both, plain=False)
        found[name] = {
            "plain": lambda m=plain, w=waves: discriminator_step(m, *w, reference),
            "fast": lambda m=fast, w=waves: discriminator_step(m, *w, FastLosses),
        }
    return found


def peak_memory(plain):
    """MiB that two discriminator steps of batch 8 × 8192 add to what a fresh process with its modules held at most."""
    y, y_hat = parity.waveforms(8, 8192)
    modules = build(ENSEMBLES["both"], plain=plain)
    before = resident_mib("VmHWM")
    for _ in range(2):
        discriminator_step(modules, y, y_hat, reference if plain else FastLosses)
    return resident_mib("VmHWM") - before


def command(args):
    rows = []
    for name, calls in cases().items():
        taken = interleaved(calls, args.repeats)
        fast, plain = (1e3 * statistics.median(taken[name][1:]) for name in ("fast", "plain"))
        rows.append({"what": name, "unit": "ms", "plain": plain, "fast": fast, "ratio": plain / fast})
    plain, fast = (in_fresh_process(peak_memory, which) for which in (True, False))
    memory = "peak memory, batch 8 × 8192"
    rows.append({"what": memory, "unit": "MiB", "plain": plain, "fast": fast, "ratio": plain / fast})
    headers = ("what", "", "plain PyTorch", "hifigan_fast", "ratio")
    print(tabulate([list(row.values()) for row in rows], headers=headers, floatfmt=("", "", ".0f", ".0f", ".2f")))
    if args.out:
        report.write(args.out, {**report.conditions(args), "shapes": rows})


if __name__ == "__main__":
    sys.exit(report.run(command, report.parser("shapes", __doc__.splitlines()[0], 3).parse_args()))

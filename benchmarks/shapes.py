"""A discriminator step at other shapes than the usual, against plain PyTorch: one short sample, long segments; and what
a step of batch 8 holds in memory.

python -m benchmarks.shapes
"""

import statistics
import sys

import torch
from tabulate import tabulate

from hifigan_fast import parity
from hifigan_fast.bench import memory
from hifigan_fast.bench.steps import DISCRIMINATOR, ORIGINAL, OURS, WAYS
from hifigan_fast.bench.timing import interleaved
from hifigan_fast.bench.workloads import WORKLOADS, modules_of

from . import report

NAMES = {ORIGINAL: "plain", OURS: "fast"}
SHAPES = {"batch 1 × 8192": (1, 8192), "batch 2 × 65536": (2, 65536)}


def cases():
    """{name: {implementation: a callable of one step}}."""
    found, ways = {}, {way: WAYS[way] for way in NAMES}
    for name, shape in SHAPES.items():
        waves = parity.waveforms(*shape)
        modules = modules_of(WORKLOADS["hifigan"], ways, torch.device("cpu"))
        found[name] = {NAMES[n]: way.call(DISCRIMINATOR, modules[n]["both"], *waves) for n, way in ways.items()}
    return found


def peak_memory(way):
    """MiB that a discriminator step of batch 8 × 8192 holds at most above its networks."""
    how = "hifigan", way, [DISCRIMINATOR], 8, 8192, torch.get_num_threads()
    return memory.in_fresh_process(memory.halves, *how)[DISCRIMINATOR]


def command(args):
    rows = []
    for name, calls in cases().items():
        times = {way: 1e3 * statistics.median(seconds[1:]) for way, seconds in interleaved(calls, args.repeats).items()}
        rows.append({"what": name, "unit": "ms", **times})
    held = {name: peak_memory(way) for way, name in NAMES.items()}
    rows.append({"what": "peak memory, batch 8 × 8192", "unit": "MiB", **held})
    rows = [{**row, "ratio": row["plain"] / row["fast"]} for row in rows]
    headers = ("what", "", "plain PyTorch", "hifigan_fast", "ratio")
    print(tabulate([list(row.values()) for row in rows], headers=headers, floatfmt=("", "", ".0f", ".0f", ".2f")))
    if args.out:
        report.write(args.out, {**report.conditions(args), "shapes": rows})


if __name__ == "__main__":
    sys.exit(report.run(command, report.parser("shapes", __doc__.splitlines()[0], 3).parse_args()))

"""What `hifigan_fast.save` trades: peak memory and time of both halves of a step, by what is kept of the maps.

python -m benchmarks.saving
"""

import statistics
import sys

import torch
from tabulate import tabulate

import hifigan_fast
from hifigan_fast import parity
from hifigan_fast.bench import memory
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, STEP_LOSSES, WAYS
from hifigan_fast.bench.timing import interleaved
from hifigan_fast.bench.workloads import WORKLOADS, modules_of
from hifigan_fast.dispatch import SAVED

from . import report

STEPS = GENERATOR, DISCRIMINATOR
WAY = WAYS[STEP_LOSSES]


def held(what, batch, threads):
    """{step: MiB above the modules}, in a process of its own."""
    with hifigan_fast.save(what):
        return memory.halves("hifigan", STEP_LOSSES, STEPS, batch, report.SEGMENT, threads)


def times(batch, repeats):
    """{(step, what is kept): milliseconds}, in turn."""
    modules = modules_of(WORKLOADS["hifigan"], {STEP_LOSSES: WAY}, torch.device("cpu"))[STEP_LOSSES]["both"]
    waves, found = parity.waveforms(batch, report.SEGMENT), {}
    for step in STEPS:
        run = WAY.call(step, modules, *waves)
        calls = {what: hifigan_fast.save(what)(run) for what in SAVED}
        for what, seconds in interleaved(calls, repeats).items():
            found[step, what] = 1e3 * statistics.median(seconds[1:])
    return found


def command(args):
    ms, rows = times(args.batch, args.repeats), []
    for what in SAVED:
        mib = memory.in_fresh_process(held, what, args.batch, torch.get_num_threads())
        rows += [{"save": what, "half": step, "ms": ms[step, what], "mib": mib[step]} for step in STEPS]
    print(tabulate(rows, headers="keys", floatfmt=".0f"))
    if args.out:
        report.write(args.out, {**report.conditions(args), "saving": rows})


def main(argv=None):
    parser = report.parser("saving", __doc__.splitlines()[0], repeats=5)
    report.add_batch(parser)
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

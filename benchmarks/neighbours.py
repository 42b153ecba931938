"""What a neighbour on the machine costs ours and PyTorch: a discriminator step on one core while another is busy.

python -m benchmarks.neighbours

Of machines that are rented by the core this is what others do there. Needs Linux and two cores.
"""

import contextlib
import multiprocessing
import os
import statistics
import sys

import numpy as np
import torch
from tabulate import tabulate

from hifigan_fast import losses, parity, reference
from hifigan_fast.bench.steps import discriminator_step
from hifigan_fast.bench.timing import interleaved
from hifigan_fast.bench.workloads import ENSEMBLES, build

from . import report

COPIED = {"the cache that cores share": 8 << 20, "memory": 512 << 20}  # bytes read, and as many written
NEIGHBOURS = ("nobody", "multiply-adds in registers", *COPIED)


def _busy(what, core, begun):
    os.sched_setaffinity(0, {core})
    if what in COPIED:
        source, target = np.ones((2, COPIED[what]), np.uint8)
        begun.set()
        while True:
            np.copyto(target, source)
    extension = report.extension()
    begun.set()
    while True:
        extension.peak(1)


@contextlib.contextmanager
def beside(what, core):
    """Within the block a process on a core does this and nothing else; "nobody": there is none."""
    if what == "nobody":
        yield
        return
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    process = spawn.Process(target=_busy, args=(what, core, begun), daemon=True)
    process.start()
    try:
        begun.wait()
        yield
    finally:
        process.kill()
        process.join()


def steps(ensemble, batch):
    """{"original", "ours": a discriminator step of an ensemble}."""
    y, y_hat = parity.waveforms(batch, report.SEGMENT)
    plain, ours = (build(ensemble, plain=kind) for kind in (True, False))
    built = {"original": (plain, reference.losses), "ours": (ours, losses)}
    return {
        name: lambda modules=modules, by=by: discriminator_step(modules, y, y_hat, by)
        for name, (modules, by) in built.items()
    }


def measured(ensemble, batch, repeats, core):
    """{neighbour: {way: seconds}} of a step, each beside every neighbour in turn: the machine changes by the minute."""
    calls, taken = steps(ensemble, batch), {what: {} for what in NEIGHBOURS}
    for _ in range(repeats):
        for what, of in taken.items():
            with beside(what, core):
                for way, (_, second) in interleaved(calls, 1).items():
                    of.setdefault(way, []).append(second)
    return taken


def command(args):
    report.extension()  # of which a neighbour needs one
    own, other = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {own})
    torch.set_num_threads(1)
    rows = []
    for name in ("mpd", "msd"):
        quiet = {}
        for what, times in measured(ENSEMBLES[name], args.batch, args.repeats, other).items():
            row = {"ensemble": name, "neighbour": what}
            for way, seconds in times.items():
                ms = 1e3 * statistics.median(seconds)
                row |= {f"{way}, ms": ms, f"{way}, × quiet": ms / quiet.setdefault(way, ms)}
            rows.append(row)
    print(tabulate(rows, headers="keys", floatfmt=("", "", ".0f", ".2f", ".0f", ".2f")))
    if args.out:
        report.write(args.out, {**report.conditions(args), "neighbours": rows})


def main(argv=None):
    parser = report.parser("neighbours", __doc__.splitlines()[0], repeats=5)
    report.add_batch(parser)
    parser.set_defaults(batch=1)
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

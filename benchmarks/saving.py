"""What `hifigan_fast.save` trades: peak memory and time of both halves of a step, by what is kept of the maps.

python -m benchmarks.saving
"""

import statistics
import sys
import time

from tabulate import tabulate

import hifigan_fast
from hifigan_fast import parity
from hifigan_fast.bench.memory import in_fresh_process, resident_mib
from hifigan_fast.dispatch import SAVED

from . import report


def halves(what, batch, repeats):
    """(milliseconds, MiB above the modules) of a discriminator and of a frozen generator step."""
    ensembles = [hifigan_fast.MultiPeriodDiscriminator(), hifigan_fast.MultiScaleDiscriminator()]
    y, y_hat = parity.waveforms(batch, report.SEGMENT)
    y_hat.requires_grad_()

    def discriminator():
        for ensemble in ensembles:
            ensemble.zero_grad()
        hifigan_fast.discriminator_step_loss(ensembles, y, y_hat.detach()).adversarial.backward()

    def generator():
        with hifigan_fast.frozen(*ensembles):
            found = hifigan_fast.generator_step_loss(ensembles, y, y_hat)
            (found.adversarial + found.features).backward()

    before, rows = resident_mib("VmHWM"), []
    for half in (generator, discriminator):  # the second needs more
        seconds = []
        with hifigan_fast.save(what):
            for _ in range(repeats):
                start = time.perf_counter()
                half()
                seconds.append(time.perf_counter() - start)
        rows.append({"half": half.__name__, "ms": 1e3 * statistics.median(seconds)})
        rows[-1]["mib"] = resident_mib("VmHWM") - before
    return rows


def command(args):
    rows = []
    for what in SAVED:
        rows += [{"save": what, **row} for row in in_fresh_process(halves, what, args.batch, args.repeats)]
    print(tabulate(rows, headers="keys", floatfmt=".0f"))
    if args.out:
        report.write(args.out, {**report.conditions(args), "saving": rows})


def main(argv=None):
    parser = report.parser("saving", __doc__.splitlines()[0], repeats=5)
    report.add_batch(parser)
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

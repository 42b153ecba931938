"""A discriminator step at other shapes than the usual, against plain PyTorch: one short sample, long segments, and the
scale discriminator of VITS, whose groups are up to 256; and what a step of batch 8 holds in memory.

python -m benchmarks.shapes
"""

import statistics
import sys

from tabulate import tabulate
from torch import nn
from torch.nn.utils import weight_norm

import hifigan_fast
from hifigan_fast import bench, parity, reference

from . import report

SHAPES = {"batch 1 × 8192": (1, 8192), "batch 2 × 65536": (2, 65536)}
# (in, out, taps, stride, padding, groups): DiscriminatorS of jaywalnut310/vits, models.py
VITS = (
    (1, 16, 15, 1, 7, 1),
    (16, 64, 41, 4, 20, 4),
    (64, 256, 41, 4, 20, 16),
    (256, 1024, 41, 4, 20, 64),
    (1024, 1024, 41, 4, 20, 256),
    (1024, 1024, 5, 1, 2, 1),
)


def vits_scale(base):
    """`base`, a scale discriminator, with VITS's convolutions."""
    module = base()
    convs = [nn.Conv1d(i, o, taps, stride, padding, groups=groups) for i, o, taps, stride, padding, groups in VITS]
    module.convs = nn.ModuleList(weight_norm(conv) for conv in convs)
    return module


def _vits_step(module, y, y_hat, losses):
    def run():
        for parameter in module.parameters():
            parameter.grad = None
        losses.discriminator_loss(*([module(x)[0]] for x in (y, y_hat)))[0].backward()

    return run


def cases():
    """{name: {implementation: a callable of one step}}."""
    both, found = bench.ENSEMBLES["both"], {}
    for name, shape in SHAPES.items():
        waves = parity.waveforms(*shape)
        plain, fast = bench.build(both, plain=True), bench.build(both, plain=False)
        found[name] = {
            "plain": lambda m=plain, w=waves: bench.discriminator_step(m, *w, reference),
            "fast": lambda m=fast, w=waves: bench.discriminator_step(m, *w, bench.FastLosses),
        }
    waves = parity.waveforms(4, 8192)
    found["VITS's V-S, batch 4 × 8192"] = {
        "plain": _vits_step(vits_scale(reference.DiscriminatorS), *waves, reference),
        "fast": _vits_step(vits_scale(hifigan_fast.DiscriminatorS), *waves, hifigan_fast),
    }
    return found


def peak_memory(plain):
    """MiB that two discriminator steps of batch 8 × 8192 add to what a fresh process with its modules held at most."""
    y, y_hat = parity.waveforms(8, 8192)
    modules = bench.build(bench.ENSEMBLES["both"], plain=plain)
    before = report.peak_mebibytes()
    for _ in range(2):
        bench.discriminator_step(modules, y, y_hat, reference if plain else bench.FastLosses)
    return report.peak_mebibytes() - before


def command(args):
    rows = []
    for name, calls in cases().items():
        taken = bench.interleaved(calls["fast"], calls["plain"], args.repeats)
        fast, plain = (1e3 * statistics.median(seconds) for seconds in taken)
        rows.append({"what": name, "unit": "ms", "plain": plain, "fast": fast, "ratio": plain / fast})
    plain, fast = (report.in_fresh_process(peak_memory, which) for which in (True, False))
    memory = "peak memory, batch 8 × 8192"
    rows.append({"what": memory, "unit": "MiB", "plain": plain, "fast": fast, "ratio": plain / fast})
    headers = ("what", "", "plain PyTorch", "hifigan_fast", "ratio")
    print(tabulate([list(row.values()) for row in rows], headers=headers, floatfmt=("", "", ".0f", ".0f", ".2f")))
    if args.out:
        report.write(args.out, {**report.conditions(args), "shapes": rows})


if __name__ == "__main__":
    sys.exit(report.run(command, report.parser("shapes", __doc__.splitlines()[0], 3).parse_args()))

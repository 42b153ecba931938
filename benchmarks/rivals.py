"""The discriminators' step, MPD and MSD together, by every way that PyTorch has to make it faster, and by ours.

python -m benchmarks.rivals --batch 1 --no-compile
"""

import contextlib
import statistics
import sys
import time

import torch
from tabulate import tabulate

from hifigan_fast import bench, parity, reference

from . import report
from .report import SEGMENT

CAPTION = (
    "channels_last: MPD's 2-D convolutions only, it has no meaning for MSD's 1-D ones. The first call includes what\n"
    "torch.compile compiles; the medians leave it out."
)


def channels_last(modules):
    """Keep the inputs of 2-D convolutions channels-last.

    `module.to(memory_format=...)` would not: weight norm makes each weight anew, contiguous, and a single channel has
    no order to keep. With it besides, the step takes longer.
    """

    def convert(conv, args):
        return (args[0].contiguous(memory_format=torch.channels_last),)

    for module in modules:
        for conv in module.modules():
            if isinstance(conv, torch.nn.Conv2d):
                conv.register_forward_pre_hook(convert)
    return modules


def rivals(y, y_hat, compiled=True):
    """{name: a callable of one step}; plain PyTorch's, which the others are held against, is the first."""

    def step(modules, losses, context=contextlib.nullcontext):
        def run():
            with context():
                bench.discriminator_step(modules, y, y_hat, losses)

        return run

    def bfloat16():
        return torch.autocast("cpu", torch.bfloat16)

    both = bench.ENSEMBLES["both"]
    plain, fast = bench.build(both, plain=True), bench.build(both, plain=False)
    found = {
        "eager": step(plain, reference),
        "eager, channels_last": step(channels_last(bench.build(both, plain=True)), reference),
        "torch.compile": step([torch.compile(module) for module in plain], reference),
        "eager, autocast bfloat16": step(plain, reference, bfloat16),
        "hifigan_fast": step(fast, bench.FastLosses),
        "hifigan_fast, autocast bfloat16": step(fast, bench.FastLosses, bfloat16),
    }
    if not compiled:
        del found["torch.compile"]
    return found


def interleaved(calls, repeats):
    """Run callables in turn -> {name: [seconds]}, the first call's in front, and {name: an error's first line}."""
    times, errors = {name: [] for name in calls}, {}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            if name in errors:
                continue
            start = time.perf_counter()
            try:
                call()
            except Exception as error:  # whatever a rival raises is its result
                errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            times[name].append(time.perf_counter() - start)
    return times, errors


def rows_of(times, errors):
    """Rows of {rival, ms, speedup, speedup_range, first_call_s}, or {rival, error}."""
    eager = next(iter(times))
    rows = []
    for name, (first, *taken) in times.items():
        if name in errors:
            rows.append({"rival": name, "error": errors[name]})
            continue
        row = {"rival": name, "ms": 1e3 * statistics.median(taken), "first_call_s": first}
        if eager not in errors:
            ratios = sorted(e / t for e, t in zip(times[eager][1:], taken))
            row |= {"speedup": statistics.median(ratios), "speedup_range": [ratios[0], ratios[-1]]}
        rows.append(row)
    return rows


def shown(rows):
    """The rows as the table that the command prints."""
    lines = [
        (
            r["rival"],
            r.get("ms"),
            r.get("speedup"),
            "{:.2f}–{:.2f}".format(*r["speedup_range"]) if "speedup" in r else r.get("error"),
            r.get("first_call_s"),
        )
        for r in rows
    ]
    headers = ("rival", "ms", "speed-up over eager, ×", "range", "first call, s")
    return tabulate(lines, headers=headers, floatfmt=("", ".0f", ".2f", "", ".1f"))


def command(args):
    result = report.conditions(args)
    print(
        f"discriminator step, MPD and MSD, batch {args.batch} × {SEGMENT}, {result['threads']} threads, "
        f"{args.repeats} interleaved repeats:\n"
    )
    y, y_hat = parity.waveforms(args.batch, SEGMENT)
    rows = rows_of(*interleaved(rivals(y, y_hat, args.compile), args.repeats))
    print(f"{shown(rows)}\n\n{CAPTION}")
    if args.out:
        peak = report.peak()
        report.write(args.out, {**result, "peak_gflops": peak / 1e9, "note": CAPTION, "rivals": rows})


def main(argv=None):
    parser = report.parser("rivals", "Time the discriminators' step, ours and PyTorch's own fast ways.", repeats=3)
    report.add_batch(parser)
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="without torch.compile, which takes minutes"
    )
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""Where a step's time should go on a GPU, before a GPU says where it goes: every launch, what it takes and its floor.

python -m benchmarks.static_cost --device H200 --dtype bfloat16 --ensemble mpd --step discriminator

A model, no measurement: floors are operations over the datasheet's rate, or bytes over its bandwidth, the larger.
"""

import argparse
import contextlib
import math
import sys
from collections import defaultdict

import torch
from tabulate import tabulate

from hifigan_fast.bench import steps
from hifigan_fast.bench.datasheets import DEVICES
from hifigan_fast.bench.workloads import ENSEMBLES, build

from . import ahead, report

STEPS = {
    "forward": steps.forward,
    "discriminator": steps.discriminator_step,
    "generator": steps.frozen_generator_step,
}


def launches_of(device, arithmetic, ensemble, step, batch, segment):
    """The `ahead.Launch`es of one step."""
    dtype = ahead.dtype_of(arithmetic)
    modules = build(ENSEMBLES[ensemble], plain=False)
    if dtype == torch.float16:
        modules = [module.half() for module in modules]
    own = torch.float16 if dtype == torch.float16 else torch.float32
    y, y_hat = (torch.zeros(batch, 1, segment, dtype=own, device="cpu") for _ in range(2))
    half = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else contextlib.nullcontext()
    with ahead.compiling(device.target, arithmetic == "tf32") as launches, half:
        STEPS[step](modules, y, y_hat, steps.FastLosses)
    return launches


def resident(device, launch):
    """Programs that a multiprocessor holds at once."""
    threads = 32 * launch.warps
    limits = [device.threads // threads, 32]
    if launch.registers:
        limits.append(device.registers // (math.ceil(launch.registers / 8) * 8 * threads))
    if launch.shared:
        limits.append(1024 * device.shared // (launch.shared + 1024))
    return max(1, min(limits))


def cost(device, arithmetic, launch):
    """(kernel, class, programs, waves, occupancy, GFLOP, MB, floor in µs, what bounds it)."""
    programs, at_once = math.prod(launch.grid), resident(device, launch)
    times = {
        "arithmetic": launch.flops / (1e12 * device.rate(arithmetic)),
        "memory": launch.bytes / (1e9 * device.bandwidth),
    }
    bound = max(times, key=times.get)
    return (
        launch.kernel,
        launch.layer_class,
        programs,
        programs / (at_once * device.multiprocessors),
        32 * launch.warps * at_once / device.threads,
        launch.registers,
        launch.flops / 1e9,
        launch.bytes / 1e6,
        1e6 * times[bound],
        bound,
    )


HEADERS = ("kernel", "class", "programs", "waves", "occupancy", "registers", "GFLOP", "MB", "floor, µs", "bound by")
FORMATS = ("", "", "", ".2f", ".2f", "", ".2f", ".1f", ".1f", "")


def command(args):
    device = DEVICES[args.device]
    launches = launches_of(device, args.dtype, args.ensemble, args.step, args.batch, report.SEGMENT)
    rows = [cost(device, args.dtype, launch) for launch in launches]
    print(tabulate(rows, headers=HEADERS, floatfmt=FORMATS))
    by_kernel = defaultdict(float)
    for row in rows:
        by_kernel[row[0]] += row[-2]
    print(f"\n{len(rows)} launches; floors, in µs: " + ", ".join(f"{k} {v:.0f}" for k, v in by_kernel.items()))
    print(f"Sum of the floors: {sum(by_kernel.values()) / 1e3:.2f} ms on a {args.device}. A model, not measured.")
    if args.out:
        named = [dict(zip(HEADERS, row)) for row in rows]
        report.write(args.out, {"model": True, "device": args.device, "dtype": args.dtype, "launches": named})


def main(argv=None):
    parser = report.parser("static_cost", "Model a step's launches on a GPU that is not there.", repeats=1)
    report.add_batch(parser)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--device", choices=DEVICES, default="H200", help="datasheet")
    parser.add_argument("--dtype", choices=ahead.DTYPES, default="bfloat16", help="of the maps")
    parser.add_argument("--ensemble", choices=ENSEMBLES, default="both", help="discriminators")
    parser.add_argument("--step", choices=STEPS, default="discriminator", help="what is called")
    parser.set_defaults(batch=16)
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""Where a step's time should go on a GPU, before a GPU says where it goes: every launch, what it takes and its floor.

python -m benchmarks.static_cost --device H200 --dtype bfloat16 --ensemble mpd --step discriminator

A model, no measurement: floors are operations over the datasheet's rate, or bytes over its bandwidth, the larger. With
--executed some programs of each launch are executed on the CPU, and what all would do is set against what a
multiprocessor does in a cycle: the model's time is that of the busiest part, as if all others hid behind it.
"""

import math
import sys
from collections import defaultdict

from tabulate import tabulate

from hifigan_fast.bench.datasheets import DEVICES

from . import counters, one_step, report

# Whose kernels can be executed: GHz at which the datasheet's rates are reached; GB/s of the second cache, assumed;
# phases of shared memory a cycle (Turing has half of the later ones' load and store units).
EXECUTED = {
    "T4": (1.59, 1270, 0.5),
    "A100": (1.41, 4500, 1),
    "RTX 4090": (2.52, 5000, 1),
    "H100": (1.83, 6500, 1),
    "H200": (1.83, 6500, 1),
}
SYNC = 620 / 989  # of Hopper's rate what `mma.sync` reaches, assumed


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


def busy(name, arithmetic, launch):
    """{part: µs that it is busy}, by what was counted."""
    device, (clock, cache, phases) = DEVICES[name], EXECUTED[name]
    rate = device.rate(arithmetic) * (SYNC if (device.target, launch.matrix) == ("sm_90", "mma.sync") else 1)
    counts, cycles = launch.counts, 1e3 * clock * device.multiprocessors  # a µs, of all multiprocessors
    return {
        "issue": sum(counts.instructions.values()) / (4 * cycles),
        "shared": (counts.phases[0] + counts.operands / 128) / (phases * cycles),
        "matrix": counts.flops / (1e6 * rate),
        "cache": 32 * counts.sectors[0] / (1e3 * cache),
        "memory": launch.bytes / (1e3 * device.bandwidth),
    }


HEADERS = ("kernel", "class", "programs", "waves", "occupancy", "registers", "GFLOP", "MB", "floor, µs", "bound by")
FORMATS = ("", "", "", ".2f", ".2f", "", ".2f", ".1f", ".1f", "")
PARTS = ("issue", "shared", "matrix", "cache", "memory")
NOTE = "A model, not measured."


def command(args):
    device = DEVICES[args.device]
    if args.executed and args.device not in EXECUTED:
        raise ValueError(f"--device: got {args.device}, whose code cannot be executed; expected {', '.join(EXECUTED)}")
    found = one_step.launches(device.target, args, counters.count if args.executed else None)
    headers, formats = HEADERS, FORMATS
    rows = [cost(device, args.dtype, launch) for launch in found]
    by_kernel = defaultdict(float)
    for own in rows:
        by_kernel[own[0]] += own[-2]
    if args.executed:
        headers, formats = (*HEADERS[:-1], *PARTS, "busiest"), (*FORMATS[:-1], *[".1f"] * len(PARTS), "")
        times = [busy(args.device, args.dtype, launch) for launch in found]
        rows = [(*own[:-1], *parts.values(), max(parts, key=parts.get)) for own, parts in zip(rows, times)]
    print(tabulate(rows, headers=headers, floatfmt=formats))
    print(f"\n{len(rows)} launches; floors, in µs: " + ", ".join(f"{k} {v:.0f}" for k, v in by_kernel.items()))
    print(f"Sum of the floors: {sum(by_kernel.values()) / 1e3:.2f} ms on a {args.device}. {NOTE}")
    if args.executed:
        print(f"Sum of the busiest parts: {sum(max(parts.values()) for parts in times) / 1e3:.2f} ms. {NOTE}")
    if args.out:
        named = [dict(zip(headers, own)) for own in rows]
        report.write(args.out, {"model": True, "device": args.device, "dtype": args.dtype, "launches": named})


def main(argv=None):
    parser = one_step.parser("static_cost", "Model a step's launches on a GPU that is not there.")
    parser.add_argument("--device", choices=DEVICES, default="H200", help="datasheet")
    parser.add_argument("--executed", action="store_true", help="also by what executed programs do")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

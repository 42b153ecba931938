"""What a GPU backend's kernels do on a GPU that is not there, counted: some programs of each launch are executed.

python -m benchmarks.counters --target sm_90 --dtype bfloat16 --ensemble mpd --step discriminator

Instructions are PTX's, a warp's each; the assembler makes one or more of each. Needs the repository's tests/ptx.
"""

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

from tabulate import tabulate

from hifigan_fast.backends.cuda.kernel import Kernel
from tests.ptx.counters import Counters
from tests.ptx.launch import Session
from tests.ptx.parse import Vector, parse

from . import one_step, report

TARGETS = ("sm_75", "sm_80", "sm_89", "sm_90")
ALIKE, APART = 2, 12  # programs of a convolution's launch that are executed, and of others, whose programs differ
SHOWN = ("mma", "float", "integer", "ldmatrix", "load shared", "store shared", "load global", "store global", "copy")


@dataclass
class Counts:
    """Of all programs of a launch, by those that were executed.

    Attributes:
        instructions: {class: warps that issued one}.
        flops: of matrix units, padding too; operands: bytes that they read of shared memory themselves.
        phases, sectors: of shared and of global memory, (taken, the fewest that would do).
    """

    instructions: Counter = field(default_factory=Counter)
    flops: float = 0.0
    operands: float = 0.0
    phases: tuple = (0.0, 0.0)
    sectors: tuple = (0.0, 0.0)

    def add(self, kernel, counters, by):
        """What some programs did, `by` times."""
        for name, count in counters.instructions(kernel).items():
            self.instructions[name] += by * count
        for (begin, end), warps in counters.blocks.items():
            for i in kernel.instructions[begin:end]:
                flops, operands = _product(i)
                self.flops, self.operands = self.flops + by * warps * flops, self.operands + by * warps * operands
        shared, memory = counters.total(counters.shared), counters.total(counters.global_)
        self.phases = self.phases[0] + by * shared.taken, self.phases[1] + by * shared.least
        self.sectors = self.sectors[0] + by * memory.taken, self.sectors[1] + by * memory.least


def _product(i):
    """(operations, bytes of operands in shared memory) of a warp's part of a matrix product."""
    shape = next(filter(None, (re.fullmatch(r"m(\d+)n(\d+)k(\d+)", mod) for mod in i.mods)), None)
    if shape is None or i.name not in ("mma", "wgmma"):
        return 0, 0
    m, n, k = map(int, shape.groups())
    if i.name == "mma":
        return 2 * m * n * k, 0
    rows = n if isinstance(i.operands[1], Vector) else n + m
    return 2 * m * n * k / 4, rows * k * (4 if "tf32" in i.mods else 2) / 4


def _stages(meta):
    """What a launch is executed for: of one whose programs meet between stages, one stage after another."""
    if not meta.get("launch_cooperative_grid"):
        return [meta]
    return [meta | {"first_stage": n, "stages": n + 1} for n in range(meta["first_stage"], meta["stages"])]


def spread(total, count):
    """So many of `total` programs, one of each part of the grid."""
    return sorted({(2 * i + 1) * total // (2 * count) for i in range(count)})


def count(kernel, grid, args, meta):
    """The `Counts` of a launch; ValueError where its programs do what they must not."""
    total, found = math.prod(grid), Counts()
    programs = spread(total, ALIKE if "GROUPS" in meta else APART)
    for stage in _stages(meta):
        session = Session()
        session.counters, session.programs = Counters(), programs
        session.launch(kernel, grid, args, stage)
        if session.faults:
            raise ValueError(str(session.faults))
        found.add(parse(session.texts[-1]), session.counters, total / len(programs))
    named = dict(zip(kernel.parameters if isinstance(kernel, Kernel) else kernel.arg_names, args))
    if "counters" in named:  # the others of the grid never came
        named["counters"].zero_()
    return found


def row(launch):
    """(kernel, class, programs, instructions of one by class, taken for each that would do)."""
    programs, counts = math.prod(launch.grid), launch.counts
    conflicts, sectors = (taken / least if least else None for taken, least in (counts.phases, counts.sectors))
    shown = [counts.instructions[name] / programs for name in SHOWN]
    rest = sum(counts.instructions.values()) / programs - sum(shown)
    return launch.kernel, launch.layer_class, programs, *shown, rest, conflicts, sectors


def command(args):
    rows = [row(launch) for launch in one_step.launches(args.target, args, count)]
    headers = ("kernel", "class", "programs", *SHOWN, "others", "phases / fewest", "sectors / fewest")
    print(tabulate(rows, headers=headers, floatfmt=("", "", "", *[".0f"] * (len(SHOWN) + 1), ".2f", ".2f")))
    print("\nInstructions of a program, as its warps issue them.")
    if args.out:
        report.write(args.out, {"target": args.target, "launches": [dict(zip(headers, own)) for own in rows]})


def main(argv=None):
    parser = one_step.parser("counters", "Count what a step's kernels do, executed on a CPU.")
    parser.add_argument("--target", choices=TARGETS, default="sm_90", help="compute capability")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""What the CUDA stems do at the shapes of a training step, counted as they are executed.

python -m tests.ptx.count_stems --kind bfloat16 --target 90
"""

import argparse
import math

from tabulate import tabulate

from benchmarks import ahead
from benchmarks.counters import spread
from hifigan_fast.backends.cuda import blocks

from . import stems
from .counters import Counters
from .launch import Session
from .parse import parse

PROGRAMS = 10  # of a launch that are executed
STEMS = {
    "periods": (stems.PERIOD, [(period, 32, 8192) for period in (2, 3, 5, 7, 11)]),
    "scale": (stems.SCALE, [(1, 32, 8192)]),
}
CONDITIONS = f"""Both sides of 16 × 8192, of the scales the first; {PROGRAMS} programs of each launch are executed.
Instructions, PTX's of a thread, and divisions among them are those for an element of the map, or of its gradient.
Sectors and phases: a program's, taken and the fewest that would do. Bytes of shared memory are a program's."""
HEADERS = ("stem", "direction", "programs", "instructions", "divisions", "sectors", "fewest", "phases", "fewest")
HEADERS += ("registers", "shared", "spills")


def counted(name, direction, kind, target):
    """A row of the table."""
    case = stems.Case.of(STEMS[name][0], kind, STEMS[name][1])

    def measure(kernel, grid, args, meta):
        session = Session()
        session.counters, session.programs = Counters(), spread(math.prod(grid), PROGRAMS)
        session.launch(kernel, grid, args, meta)
        assert not session.faults, str(session.faults)
        return session.counters, parse(session.texts[0])

    with ahead.compiling(f"sm_{target}", kind == "tf32", "cuda", measure=measure) as launches:
        stems.LAUNCHED[direction](case)
    (launch,) = launches
    counters, kernel = launch.counts
    programs = math.prod(launch.grid)
    executed = min(PROGRAMS, programs)
    each = case.grad.numel() * executed / programs / 32  # elements of a lane
    divisions = sum(
        warps * sum(i.name in ("div", "rem") for i in kernel.instructions[slice(*place)])
        for place, warps in counters.blocks.items()
    )
    requests = (counters.total(counters.global_), counters.total(counters.shared))
    return (
        name,
        direction,
        programs,
        sum(counters.instructions(kernel).values()) / each,
        divisions / each,
        *(number / executed for own in requests for number in (own.taken, own.least)),
        launch.registers,
        launch.shared,
        launch.spills,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description="Count what the stems do, executed on a CPU.")
    parser.add_argument("--kind", choices=stems.DTYPES, default="bfloat16", help="of the maps")
    parser.add_argument("--target", type=int, choices=blocks.SHARED, default=90, help="compute capability")
    parser.add_argument("--directions", nargs="+", choices=stems.LAUNCHED, default=[*stems.LAUNCHED], help="of three")
    args = parser.parse_args(argv)
    rows = [counted(name, own, args.kind, args.target) for name in STEMS for own in args.directions]
    print(tabulate(rows, headers=HEADERS, floatfmt=("", "", "", ".1f", ".2f", *[".0f"] * 7)))
    print(CONDITIONS)


if __name__ == "__main__":
    main()

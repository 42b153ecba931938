"""What each launch of a step takes on this GPU, in the order of the step: measured, by CUPTI through torch.profiler.

python -m benchmarks.launches --backend cuda --dtype bfloat16 --step discriminator --out launches.json

Beside it what the host's clock says of the same step, eager and as a CUDA graph: launches alone are less than either.
"""

import contextlib
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from hifigan_fast import dispatch
from hifigan_fast.backends.contract import wide
from hifigan_fast.bench import graphs, machine, steps, timing
from hifigan_fast.bench.workloads import ENSEMBLES, build
from hifigan_fast.parity import waveforms

from . import ahead, one_step, report

KINDS = {"kernel", "gpu_memset", "gpu_memcpy"}


def launched(run, repeats):
    """One dict a launch of `run`: name, grid, threads, registers, shared (bytes), us: the median of `repeats` runs."""
    for _ in range(graphs.WARM_UP):
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    events = sorted((e for e in events if e.get("cat") in KINDS), key=lambda e: e["ts"])
    if len(events) % repeats:
        raise ValueError(f"{repeats} runs have {len(events)} launches: not all of them were alike")
    each = len(events) // repeats
    return [_one(events[place::each]) for place in range(each)]


def _one(events):
    said, names = events[0]["args"], {e["name"] for e in events}
    if len(names) > 1:
        raise ValueError(f"launches of runs differ: {', '.join(sorted(names))}")
    return {
        "name": events[0]["name"],
        "grid": said.get("grid"),
        "threads": said.get("block"),
        "registers": said.get("registers per thread"),
        "shared": said.get("shared memory"),
        "us": round(statistics.median(e["dur"] for e in events), 2),
    }


def clocked(run, modules, repeats):
    """Median milliseconds of the step, {"eager", "graph"}; a graph's None where it cannot be captured."""
    calls, errors = timing.guarded({"eager": run, "graph": graphs.captured(run, modules)})
    times = timing.interleaved(calls, repeats, device=torch.device("cuda"))
    return {name: None if name in errors else 1e3 * statistics.median(own[1:]) for name, own in times.items()} | errors


def command(args):
    if not torch.cuda.is_available():
        raise ValueError("no GPU is here; `python -m benchmarks.static_cost` models one")
    dtype, device = ahead.dtype_of(args.dtype), torch.device("cuda")
    torch.backends.cudnn.allow_tf32 = args.dtype == "tf32"
    own = wide(dtype)  # of modules and waveforms
    modules = [module.to(device, own) for module in build(ENSEMBLES[args.ensemble], plain=False)]
    y, y_hat = (w.to(device, own) for w in waveforms(args.batch, report.SEGMENT))

    def run():
        half = torch.autocast("cuda", torch.bfloat16) if dtype == torch.bfloat16 else contextlib.nullcontext()
        with half, dispatch.use_backend(args.backend):
            one_step.STEPS[args.step](modules, y, y_hat, steps.FastLosses)

    found = launched(run, args.repeats)
    clock = clocked(run, modules, args.repeats)
    sums = defaultdict(float)
    for launch in found:
        sums[launch["name"]] += launch["us"]
    print(tabulate([list(launch.values()) for launch in found], headers=list(found[0])))
    print("\nµs: " + ", ".join(f"{name[:40]} {us:.0f}" for name, us in sorted(sums.items(), key=lambda item: -item[1])))
    print(f"{len(found)} launches, {sum(sums.values()) / 1e3:.3f} ms; by the clock: {clock}")
    if args.out:
        what = {name: getattr(args, name) for name in ("backend", "dtype", "ensemble", "step", "batch")}
        where = machine.conditions(args.repeats, device)
        report.write(args.out, {**what, **where, "clock_ms": clock, "launches": found})


def main(argv=None):
    parser = one_step.parser("launches", "Measure a step's launches on this GPU.")
    parser.set_defaults(repeats=10)
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

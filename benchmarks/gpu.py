"""Training steps on a GPU: the original loop, PyTorch's own fast ways and ours, with and without CUDA graphs.

python -m benchmarks.gpu --out benchmarks/results/gpu.json
python -m benchmarks.gpu --table benchmarks/results/gpu.json    # README's, of a run that was made

The parity gate comes first. Some minutes; with --compile, many more: compilers set their own pace. The file is written
after every figure. A floor is the convolutions' arithmetic at the rate of the device's own matrix products. Memory of a
graph's rows is what a replay adds, not what its pool holds.
"""

import contextlib
import functools
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from hifigan_fast import discriminators, dispatch, parity, reference
from hifigan_fast.bench import machine, steps
from hifigan_fast.bench.steps import FastLosses, channels_last
from hifigan_fast.bench.timing import forward_flops

from . import report

# (batch, segment, periods of the period discriminators): HiFi-GAN, VITS, RVC v2, BigVGAN
WORKLOADS = {
    "HiFi-GAN": (16, 8192, (2, 3, 5, 7, 11)),
    "VITS": (8, 8192, (2, 3, 5, 7, 11)),
    "RVC v2": (4, 17280, (2, 3, 5, 7, 11, 17, 23, 37)),
    "BigVGAN": (4, 65536, (2, 3, 5, 7, 11)),
}
STEPS = {
    "forward": steps.forward,
    "discriminator step": steps.discriminator_step,
    "generator step": steps.generator_step,
    "generator step, frozen": steps.frozen_generator_step,
}


def _with(losses, of=STEPS):
    """The steps by these losses: {name: what takes modules, y and y_hat}."""
    return {name: functools.partial(step, losses=losses) for name, step in of.items()}


# The same steps, their losses in one call.
BY_STEP_LOSSES = _with(
    FastLosses,
    {
        "discriminator step": steps.discriminator_step_by_one_loss,
        "generator step": steps.generator_step_by_one_loss,
        "generator step, frozen": steps.frozen_generator_step_by_one_loss,
    },
)
WORK = {"forward": 1, "discriminator step": 3, "generator step": 3, "generator step, frozen": 1.5}  # in forward passes
SECONDS = 0.6  # of timed runs, a case


def _bfloat16():
    return torch.autocast("cuda", torch.bfloat16)


def build(periods, plain):
    """[MPD, MSD] on the GPU, plain PyTorch's or ours."""
    module = reference if plain else discriminators
    torch.manual_seed(0)
    return [module.MultiPeriodDiscriminator(periods).cuda(), module.MultiScaleDiscriminator().cuda()]


def contenders(periods, everything, compiled):
    """{name: (modules, steps, context)}, the original loop first; all of PyTorch's ways and ours if `everything`."""
    plain, fast = build(periods, plain=True), build(periods, plain=False)
    eager, none = _with(reference), contextlib.nullcontext
    found = {"eager": (plain, eager, none), "eager, autocast bfloat16": (plain, eager, _bfloat16)}
    if everything:
        found["eager, channels_last"] = (channels_last(build(periods, plain=True)), eager, none)
    if compiled:
        once = {name: step for name, step in eager.items() if not name.endswith("frozen")}  # it would compile once more
        for mode in ("default", "max-autotune-no-cudagraphs"):
            modules = [torch.compile(module, mode=mode) for module in build(periods, plain=True)]
            found[f"torch.compile {mode}"] = (modules, once, none)
            found[f"torch.compile {mode}, autocast bfloat16"] = (modules, once, _bfloat16)
    ours = {"hifigan_fast": _with(FastLosses)}
    if everything:
        ours["hifigan_fast, step losses"] = BY_STEP_LOSSES
    for name, by in ours.items():
        found[name] = (fast, by, none)
        found[f"{name}, autocast bfloat16"] = (fast, by, _bfloat16)
    return found


def graphed(run):
    """`run` captured once -> its replay. What fails to be captured leaves the stream as it was."""
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    finally:
        torch.cuda.set_stream(main)
    return graph.replay


def timed(run):
    """Milliseconds of single runs, by events, after a warm-up; as many as fit into SECONDS, at least 5."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    taken, start = [], time.perf_counter()
    while len(taken) < 5 or (time.perf_counter() - start < SECONDS and len(taken) < 200):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        run()
        events[1].record()
        events[1].synchronize()
        taken.append(events[0].elapsed_time(events[1]))
    return sorted(taken)


def measured(run):
    """{ms, ms_10, ms_90, peak_mib} of a callable."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    taken = timed(run)
    return {
        "ms": statistics.median(taken),
        "ms_10": taken[len(taken) // 10],
        "ms_90": taken[-1 - len(taken) // 10],
        "peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20,
    }


def ceilings():
    """What this device reaches: matrix products in FLOP/s by dtype, and bytes a second of a copy."""
    found = {}
    torch.backends.cuda.matmul.allow_tf32 = True
    for name, dtype in (("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = 2 * 8192**3 / (1e-3 * statistics.median(timed(lambda a=a, b=b: a @ b)))
    x = torch.randn(2**28, dtype=torch.float32, device="cuda")
    y = torch.empty_like(x)
    found["bytes"] = 2 * x.numel() * 4 / (1e-3 * statistics.median(timed(lambda: y.copy_(x))))
    return found


def rates(row, flops, ceiling):
    """What a row's time makes of its step's work: TFLOP/s, and the time that the device's ceiling would take by it."""
    return {"tflops": 1e-9 * flops / row["ms"], "of_floor": 1e3 * flops / ceiling / row["ms"]} if "ms" in row else {}


def case(name, modules, step, context, y, y_hat, captured):
    """One contender's row, or the first line of what it raised."""

    def run():
        with context():
            step(modules, y, y_hat)

    for module in modules:
        for conv in module.modules():  # legacy weight norm's last graph would tie a capture to this stream
            if hasattr(conv, "weight_g"):
                conv.weight = conv.weight.detach()
    try:
        row = measured(graphed(run) if captured else run)
    except Exception as error:  # whatever a rival raises is its result
        row = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"contender": name, "graph": captured, **row}


def gate():
    """Parity of both ensembles on the GPU -> {ensemble: {arithmetic: worst ratio}}; ValueError where it fails."""
    found = {}
    for name, arithmetic in itertools.product(parity.ENSEMBLES, ("float32", "bfloat16", "tf32")):
        torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
        pair = [module.cuda() for module in parity.build_pair(name, trained=True)]
        y, y_hat = (x.cuda() for x in parity.waveforms(1, 8192))
        autocast = torch.bfloat16 if arithmetic == "bfloat16" else None
        verdict = parity.compare(*pair, y, y_hat, ["triton"], autocast=autocast)["triton"]
        found.setdefault(name, {})[arithmetic] = verdict.ratio
        # TF32 is reported, not judged: cuDNN may take some layers in float32 all the same.
        if arithmetic != "tf32" and not verdict.passed:
            raise ValueError(f"parity FAILED, no speed is reported: {name}, {verdict.worst}")
    return found


def measure(workloads, ceiling, compiled=False, say=print):
    """Yield rows of {workload, step, contender, graph, ms, …} over all workloads; `ceiling` as of `ceilings`."""
    for workload in workloads:
        batch, length, periods = WORKLOADS[workload]
        y, y_hat = (x.cuda() for x in parity.waveforms(batch, length))
        usual = workload == "HiFi-GAN"
        others = contenders(periods, usual, usual and compiled)
        forward = forward_flops(others["eager"][0], y, y_hat)
        for step, (name, (modules, by, context)) in itertools.product(STEPS, others.items()):
            if step not in by:
                continue
            for captured in (False, True):
                row = case(name, modules, by[step], context, y, y_hat, captured)
                say(f"  {workload}, {step}, {name}{', graph' if captured else ''}: {row.get('ms', row.get('error'))}")
                reached = ceiling["bfloat16" if "bfloat16" in name else "tf32"]
                yield {"workload": workload, "step": step, **row, **rates(row, WORK[step] * forward, reached)}
                if "error" in row:
                    break


def shown(rows):
    """The rows as a table."""
    keys = ("workload", "step", "contender", "graph")
    figures = ("ms", "ms_10", "ms_90", "tflops", "of_floor", "peak_mib", "error")
    lines = [(*(r[key] for key in keys), *map(r.get, figures)) for r in rows]
    headers = (*keys, "ms", "10%", "90%", "TFLOP/s", "of the floor", "MiB", "error")
    return tabulate(lines, headers=headers, floatfmt=".2f")


def compared(result):
    """README's table of a run: the original loop, the fastest of PyTorch's other ways, and ours."""

    def fastest(times):
        return min(times.items(), key=lambda item: item[1], default=(None, math.nan))

    lines = []
    for case, rows in itertools.groupby(result["rows"], lambda row: (row["workload"], row["step"])):
        times = {row["contender"] + ", graph" * row["graph"]: row["ms"] for row in rows if "ms" in row}
        ours = {name: ms for name, ms in times.items() if name.startswith("hifigan_fast")}
        rivals = {name: ms for name, ms in times.items() if name not in ours}
        (our_name, our_ms), (rival_name, rival_ms) = fastest(ours), fastest(rivals)
        original = rivals.get("eager", math.nan)
        both = original / our_ms, rival_ms / our_ms
        lines.append((*case, original, rival_name, rival_ms, our_name, our_ms, *(f"{by:.2f} ×" for by in both)))
    headers = ("workload", "step", "original loop, ms", "fastest rival", "ms", "fastest of ours", "ms")
    headers += ("speed-up", "over the rival")
    return f"{result['device']}\n\n" + tabulate(lines, headers=headers, floatfmt=".2f", tablefmt="github")


def command(args):
    if args.table:
        result = json.loads(Path(args.table).read_text())
        if "parity" not in result or "rows" not in result:
            raise ValueError(f"--table: expected a file that this command wrote, got {args.table}")
        print(compared(result))
        return
    if not torch.cuda.is_available():
        raise ValueError("device: no GPU is available to torch")
    torch.backends.cudnn.benchmark = True
    ratios = gate()
    torch.backends.cudnn.allow_tf32 = True
    result = {
        **machine.conditions(1),
        "device": torch.cuda.get_device_name(),
        "parity": ratios,
        "ceilings": ceilings(),
        "backend": dispatch.choose(torch.device("cuda"), torch.float32).backend.name,
    }
    print(f"{result['device']}: parity {ratios}, ceilings {result['ceilings']}")
    result["rows"] = []
    workloads = args.workloads.split(",") if args.workloads else WORKLOADS
    for row in measure(workloads, result["ceilings"], args.compile):
        result["rows"].append(row)
        if args.out:  # again and again: whatever comes, this much is kept
            report.save(args.out, result)
    print(shown(result["rows"]))


def main(argv=None):
    parser = report.parser("gpu", "Time training steps on a GPU against PyTorch's own ways.", repeats=1)
    parser.add_argument("--workloads", metavar="NAME,…", help=f"default: {', '.join(WORKLOADS)}")
    parser.add_argument("--table", metavar="FILE", help="measure nothing: print README's table of such a file")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which may take many minutes")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""Times of several ways in turn, and what they say of each other."""

import collections
import functools
import math
import statistics
import time

import torch

from .. import dispatch
from .gate import measured_backend
from .memory import allocated_mib
from .steps import ORIGINAL, WAYS, progress

NOISY = 0.05  # an uncertainty above it is marked
ADVICE = f"! a standard error is above {NOISY:.0%}: measure again with more --repeats, and nothing else running"


def interleaved(calls, repeats, after=lambda: None, device=None, times=None):
    """Run callables in turn, each round begun by the next, so that all meet the same machine -> {name: seconds}.

    The first call of each is in front of its seconds, one more than `repeats`. `after` is called after each call.
    device: a CUDA device that is waited for. times: a dict to return, which has what was timed before an interrupt.
    """
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    times, order = {} if times is None else times, collections.deque(calls)
    times.update((name, []) for name in calls)
    for _ in range(repeats + 1):
        for name in order:
            start = time.perf_counter()
            calls[name]()
            wait()
            times[name].append(time.perf_counter() - start)
            after()
        order.rotate(-1)  # what runs behind another finds its caches
    return times


def guarded(calls):
    """The same callables, and {name: an error's first line}: whatever a way raises is its result, and ends it."""
    errors = {}

    def watched(name, call):
        def run():
            if name not in errors:
                try:
                    call()
                except Exception as error:
                    errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]

        return run

    return {name: watched(name, call) for name, call in calls.items()}, errors


def uncertainty(values):
    """The standard error of the median over the median, by the quartiles of a normal distribution: less with more
    values. None of a single one, which does not tell.
    """
    if len(values) < 2:
        return None
    low, median, high = statistics.quantiles(values, n=4)
    return 0.93 * (high - low) / math.sqrt(len(values)) / median


def ratio(slower, faster):
    """{median, range, uncertainty} of the pairwise ratios of two lists of times."""
    ratios = [s / f for s, f in zip(slower, faster, strict=True)]
    return {
        "median": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "uncertainty": uncertainty(ratios),
    }


def is_noisy(uncertain):
    """Whether an uncertainty is worth a mark."""
    return uncertain is not None and uncertain > NOISY


def rows_of(times, errors, kind="cpu"):
    """One step's rows on a device of this kind, one a way: {way, dtype, ms, ms_range, first_s, over_original,
    best_rival, over_best, uncertainty, noisy}, or {way, dtype, error}.

    dtype: the arithmetic. over_original: how many times faster than the original loop, a `ratio`. over_best: the same
    over `best_rival`, the fastest of PyTorch's ways in this arithmetic; only of ours. uncertainty: the largest of these
    ratios' and of the times that they are made of.
    """
    taken = {name: seconds[1:] for name, seconds in times.items() if name not in errors}
    rows = []
    for name, seconds in times.items():
        way = WAYS[name]
        row = {"way": name, "dtype": way.arithmetic(kind)}
        if name in errors:
            rows.append(row | {"error": errors[name]})
            continue
        mine = taken[name]
        row |= {"ms": 1e3 * statistics.median(mine), "ms_range": [1e3 * min(mine), 1e3 * max(mine)]}
        row |= {"first_s": seconds[0], "over_original": None, "best_rival": None, "over_best": None}
        others = {"over_original": ORIGINAL} if ORIGINAL in taken else {}
        rivals = [r for r in taken if not WAYS[r].ours and WAYS[r].arithmetic(kind) == row["dtype"]]
        if way.ours and rivals:
            row["best_rival"] = others["over_best"] = min(rivals, key=lambda rival: statistics.median(taken[rival]))
        row |= {key: ratio(taken[other], mine) for key, other in others.items()}
        uncertain = [uncertainty(mine)]
        for key, other in others.items():
            uncertain += [row[key]["uncertainty"], uncertainty(taken[other])]
        widest = None if uncertain[0] is None else max(uncertain)
        rows.append(row | {"uncertainty": widest, "noisy": is_noisy(widest)})
    return rows


def called(row):
    """A row's way in words: ours with what ran it, plain PyTorch where no kernels did."""
    ran = row.get("backend")
    return row["way"] + (f" ({'plain PyTorch' if ran == dispatch.MODULES else ran})" if ran else "")


def line(row):
    """A row of ours in a line, as it is printed once it is there."""
    said = []
    for key, over in (("over_original", "the original loop"), ("over_best", row["best_rival"])):
        if row[key] and not (said and over == ORIGINAL):
            low, high = row[key]["range"]
            said.append(f"{row[key]['median']:.2f} × ({low:.2f}–{high:.2f}) {over}")
    loses = " (slower)" if row["over_best"] and row["over_best"]["median"] < 1 else ""
    return f"  {row['ensemble']}, {row['step']}, {called(row)}: {', '.join(said)}{loses}{' !' * row['noisy']}"


def measure(cases, repeats, bar, ceilings, device):
    """Time cases, and yield the rows of `rows_of` with {ensemble, step, backend: what ran ours, gflops: of the direct
    count of operations a second, floor_ms: what the `machine.ceilings` allow, of_floor: of the time, both None where
    none is known, peak_mib: None on a CPU and of a CUDA graph}. A case that an interrupt ends has the repeats that all
    its ways were done with. Ours are printed above the progress bar.
    """
    for case in cases:
        bar.set_description(f"{case.ensemble}, {case.step}")
        for row in _measured(case, repeats, bar, ceilings, device):
            if WAYS[row["way"]].ours and "ms" in row:
                bar.write(line(row))
            yield row


def _measured(case, repeats, bar, ceilings, device):
    calls, errors = guarded(case.calls)
    errors.update(case.refused)
    times, held, interrupt = {}, {}, None
    try:
        interleaved(calls, repeats, functools.partial(bar.update, progress(case.step)), device, times)
        for name in calls:
            # Of a graph there is none to account: its replay allocates nothing.
            if device.type == "cuda" and name not in errors and not WAYS[name].graph:
                held[name] = _held(calls[name], case.forget[name])
    except KeyboardInterrupt as ended:
        interrupt, whole = ended, min(map(len, times.values()), default=0)
        times = {name: seconds[:whole] for name, seconds in times.items() if whole > 1}
    for row in rows_of(times, errors, device.type):
        row = {"ensemble": case.ensemble, "step": case.step, **row}
        row["backend"] = measured_backend(device, row["dtype"]) if WAYS[row["way"]].ours else None
        if "ms" in row:
            row["gflops"] = 1e-6 * case.work.flops / row["ms"]
            peak, itemsize = ceilings["gflops"].get(row["dtype"]), 2 if row["dtype"] == "bfloat16" else 4
            row["floor_ms"] = case.work.floor_ms(peak, ceilings["gbytes"], itemsize) if peak else None
            row["of_floor"] = row["floor_ms"] / row["ms"] if peak else None
            row["peak_mib"] = held.get(row["way"])
        yield row
    if interrupt:
        raise interrupt


def _held(call, forget):
    forget()  # what the timed calls left: a step makes it anew, and it counts
    return allocated_mib(call)

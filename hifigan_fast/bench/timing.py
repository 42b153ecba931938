"""Times of several ways in turn, and what they say of each other."""

import functools
import statistics
import time

import torch

from .memory import allocated_mib
from .steps import ORIGINAL, WAYS, progress

NOISY = 0.15  # a spread above it is marked
ADVICE = f"! spread above {NOISY:.0%}: something else used the processor; end it, and measure again with more --repeats"


def interleaved(calls, repeats, after=lambda: None, device=None):
    """Run callables in turn, so that all meet the same machine -> {name: seconds}.

    The first call of each is in front of its seconds, one more than `repeats`. `after` is called after each call.
    device: a CUDA device that is waited for.
    """
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            wait()
            times[name].append(time.perf_counter() - start)
            after()
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


def spread(values):
    """Largest less smallest, over the median; None of a single value, which does not tell."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None


def _ratio(slower, faster):
    """The median and the range of pairwise ratios."""
    ratios = [s / f for s, f in zip(slower, faster)]
    return {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)], "spread": spread(ratios)}


def rows_of(times, errors, kind="cpu"):
    """One step's rows on a device of this kind, one a way: {way, dtype, ms, ms_range, first_s, over_original,
    best_rival, over_best, spread, noisy}, or {way, dtype, error}.

    dtype: the arithmetic. over_original: how many times faster than the original loop: {median, range, spread} of
    pairwise ratios. over_best: the same over `best_rival`, the fastest of PyTorch's ways in this arithmetic; only of
    ours. spread: the widest of these ratios' and of the times'.
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
        spreads = [spread(mine)]
        if ORIGINAL in taken:
            row["over_original"] = _ratio(taken[ORIGINAL], mine)
            spreads += [row["over_original"]["spread"], spread(taken[ORIGINAL])]
        rivals = [r for r in taken if not WAYS[r].ours and WAYS[r].arithmetic(kind) == row["dtype"]]
        if way.ours and rivals:
            best = min(rivals, key=lambda rival: statistics.median(taken[rival]))
            row |= {"best_rival": best, "over_best": _ratio(taken[best], mine)}
        widest = None if spreads[0] is None else max(spreads)
        rows.append(row | {"spread": widest, "noisy": widest is not None and widest > NOISY})
    return rows


def line(row):
    """A row of ours in a line, as it is printed once it is there."""
    said = []
    for key, over in (("over_original", "the original loop"), ("over_best", row["best_rival"])):
        if row[key] and not (said and over == ORIGINAL):
            low, high = row[key]["range"]
            said.append(f"{row[key]['median']:.2f} × ({low:.2f}–{high:.2f}) {over}")
    loses = " (slower)" if row["over_best"] and row["over_best"]["median"] < 1 else ""
    return f"  {row['ensemble']}, {row['step']}, {row['way']}: {', '.join(said)}{loses}{' !' * row['noisy']}"


def measure(cases, repeats, bar, ceilings, device):
    """Time cases, and yield the rows of `rows_of` with {ensemble, step, gflops: of the direct count of operations a
    second, floor_ms: what the `machine.ceilings` allow, of_floor: of the time, both None where none is known, peak_mib:
    None on a CPU and of a CUDA graph}. Ours are printed above the progress bar.
    """
    for case in cases:
        bar.set_description(f"{case.ensemble}, {case.step}")
        for row in _measured(case, repeats, bar, ceilings, device):
            if WAYS[row["way"]].ours and "ms" in row:
                bar.write(line(row))
            yield row


def _measured(case, repeats, bar, ceilings, device):
    calls, errors = guarded(case.calls)
    times = interleaved(calls, repeats, functools.partial(bar.update, progress(case.step)), device)
    rows = [{"ensemble": case.ensemble, "step": case.step, **row} for row in rows_of(times, errors, device.type)]
    for row in rows:
        if "ms" in row:
            row["gflops"] = 1e-6 * case.work.flops / row["ms"]
            peak, itemsize = ceilings["gflops"].get(row["dtype"]), 2 if row["dtype"] == "bfloat16" else 4
            row["floor_ms"] = case.work.floor_ms(peak, ceilings["gbytes"], itemsize) if peak else None
            row["of_floor"] = row["floor_ms"] / row["ms"] if peak else None
            accounted = device.type == "cuda" and not WAYS[row["way"]].graph  # a replay allocates nothing
            row["peak_mib"] = allocated_mib(calls[row["way"]]) if accounted else None
    return rows

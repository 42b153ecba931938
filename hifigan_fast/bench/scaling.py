"""How time grows: both halves of a step against batch, segment, number of periods and threads."""

import contextlib
import functools
import os
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from .. import discriminators, parity, reference
from . import memory
from .steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS, WAYS
from .timing import guarded, interleaved
from .workloads import modules_of

PERIODS = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
REPEATS = 2
LEAST = 2  # points of a fit


def _threads():
    """1, 2, 4, … and as many as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return sorted({2**i for i in range(cores.bit_length())} | {cores})


def _both_halves(way, modules, y, y_hat):
    halves = [way.call(step, modules, y, y_hat) for step in (DISCRIMINATOR, GENERATOR)]

    def run():
        for half in halves:
            half()

    return run


def _calls(modules, waves):
    """{way: a callable of both halves}, of modules by way."""
    return {name: _both_halves(WAYS[name], of, *waves) for name, of in modules.items()}


def _of_periods(count, device):
    """{way: a period discriminator of so many periods}."""
    made = {}
    for name, module in ((ORIGINAL, reference), (OURS, discriminators)):
        torch.manual_seed(0)
        made[name] = [module.MultiPeriodDiscriminator(PERIODS[:count]).to(device)]
    return made


class Axis(NamedTuple):
    """What is varied: its name and values, whose steps they are, {way: callable} at one of them, whether time grows
    with them, or falls.
    """

    name: str
    values: list[int]
    of: str
    calls: Callable[[int], dict[str, Callable]]
    grows: bool = True


def axes(plan):
    """The axes of a plan; all else is as the plan says."""
    last = plan.workload.ensembles[-1]
    ways = {name: WAYS[name] for name in (ORIGINAL, OURS)}

    @functools.cache
    def modules():
        return {name: of[last] for name, of in modules_of(plan.workload, ways, plan.device).items()}

    def waves(batch=plan.batch, length=plan.length):
        return [x.to(plan.device) for x in parity.waveforms(batch, length)]

    def at_threads(count):
        torch.set_num_threads(count)
        return _calls(modules(), waves())

    def at_periods(count):
        return _calls(_of_periods(count, plan.device), waves())

    yield Axis("batch", [2**i for i in range(7)], last, lambda n: _calls(modules(), waves(batch=n)))
    yield Axis("segment", [2**i for i in range(11, 17)], last, lambda n: _calls(modules(), waves(length=n)))
    yield Axis("periods", [1, 2, 3, 5, 8, len(PERIODS)], "mpd", at_periods)
    if plan.device.type == "cpu" and len(_threads()) > 1:
        yield Axis("threads", _threads(), last, at_threads, grows=False)


def exponent(at, ms):
    """How time grows: the slope of a line through both logarithms; None of fewer than `LEAST` points."""
    return float(np.polyfit(np.log(at), np.log(ms), 1)[0]) if len(at) >= LEAST else None


def trace(axis, budget, device, curve):
    """Time an axis into curve["ways"], {way: {at, ms, ms_range, exponent}}, value by value. Those that would take
    longer than `budget` seconds, in proportion to the last, do not fit into memory, or fail, are in curve["left_out"];
    all that come after one that fails, too.
    """
    taken, before, errors, held = 0, axis.values[0], {}, 0.0
    for value in axis.values:
        larger = value / before if axis.grows else before / value
        if errors or taken * larger > budget or (taken and not memory.room_for(larger, held)):
            curve["left_out"].append(value)
            continue
        memory.let_go()
        with contextlib.suppress(OSError):
            held = memory.begin_peak()
        try:
            calls, errors = guarded(axis.calls(value))
        except (RuntimeError, MemoryError):  # there is no room for its waveforms
            calls, errors = {}, True
        times = interleaved(calls, REPEATS, device=device)
        if errors:
            curve["left_out"].append(value)
            continue
        taken, before = (REPEATS + 1) * sum(statistics.median(seconds[1:]) for seconds in times.values()), value
        for name, (_, *seconds) in times.items():
            of = curve["ways"].setdefault(name, {"at": [], "ms": [], "ms_range": []})
            of["at"].append(value)
            of["ms"].append(1e3 * statistics.median(seconds))
            of["ms_range"].append([1e3 * min(seconds), 1e3 * max(seconds)])
            of["exponent"] = exponent(of["at"], of["ms"])


def measure(plan, budget, bar, curves):
    """Add a curve {over, ensemble, ways, left_out} for each of a plan's axes to `curves`; threads are put back."""
    threads = torch.get_num_threads()
    try:
        for axis in axes(plan):
            bar.set_description(f"scaling, {axis.name}")
            bar.update(0)
            curves.append({"over": axis.name, "ensemble": axis.of, "ways": {}, "left_out": []})
            trace(axis, budget, plan.device, curves[-1])
    finally:
        torch.set_num_threads(threads)

"""`hifigan-fast bench`."""

import contextlib
import functools
import itertools
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from .. import extras, parity
from . import cases, comparison, figures, machine, memory, page, report, scaling, timing
from .gate import judge, refused
from .steps import OURS, STEPS, TRAINING, Way, asked_ways, progress
from .workloads import WORKLOADS, Workload

QUICK_GATE = 4096  # samples: a float64 reference of the usual segment takes half a minute
REPEATS, FULL_REPEATS = {"cpu": 3, "cuda": 20}, {"cpu": 5, "cuda": 50}
QUICK_STEPS = {"cpu": ("discriminator", "generator"), "cuda": tuple(STEPS)}
BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
FILES = {"json": "bench.json", "figure": "bench.png", "html": "report.html"}
MORE = """--full: every backend, every step (whole trainings' too) and way, peak memory, more repeats
--scaling: how time grows with batch, segment, periods and threads"""


def _read_clips(folder, count):
    """The first `count` clips of a folder, mono and of whatever rate, as arrays."""
    from ..training import files

    clips = files.clips_below(folder)
    if not clips:
        raise ValueError(f"data: expected wavs or FLAC files in {str(folder)!r}, got none{files.hint(folder)}")
    return [files.read_clip(path) for path in clips[:count]]


class Plan(NamedTuple):
    """What is measured: a workload by its name and itself, its shape, the steps by name, the ways, how often, where;
    refused: {way: why it is not timed}.
    """

    name: str
    workload: Workload
    batch: int
    length: int
    steps: list[str]
    ways: dict[str, Way]
    repeats: int
    device: torch.device
    full: bool
    refused: Mapping[str, str] = MappingProxyType({})

    @property
    def passes(self):
        """Of all that is timed, on the progress bar."""
        each = [
            progress(step) * (1 if step in TRAINING else len(self.workload.ensembles))
            for step, way in itertools.product(self.steps, self.ways.values())
            if way.does(step)
        ]
        return (self.repeats + 1) * sum(each)

    def __str__(self):
        fits = f" (trained with {self.workload.batch})" if self.batch < self.workload.batch else ""
        shape = f"batch {self.batch} × {self.length}{fits}"
        if self.device.type == "cpu":
            shape += f", threads: {torch.get_num_threads()}"
        where = machine.named(self.device)
        return f"speed of {self.workload.what} on {where}, {shape}, interleaved repeats: {self.repeats}"


def _plan(workload, batch, length, steps, repeats, rivals, full, device):
    """The `Plan`; ValueError for what cannot be measured together."""
    from ..training.processes import pick_device

    device, chosen = pick_device(device), WORKLOADS[workload]
    kind, trained = device.type, workload == "hifigan"
    named = list(steps or (STEPS if full else QUICK_STEPS[kind]))
    if not trained:
        alone = [name for name in steps or () if STEPS[name] in TRAINING]
        if alone:
            raise ValueError(
                f"steps: {alone[0]} is a training of HiFi-GAN's, expected --workload hifigan, got {workload}"
            )
        named = [name for name in named if STEPS[name] not in TRAINING]
    named = [STEPS[name] for name in STEPS if name in named]
    batch, length = batch or (chosen.cpu_batch if kind == "cpu" else chosen.batch), length or chosen.segment
    if any(step in TRAINING for step in named):
        extras.require("a whole training step", "train", "librosa")
        from . import training

        for step in (step for step in named if step in TRAINING):
            training.config_of(step, batch, length)  # what it refuses it refuses now
    repeats = repeats or (FULL_REPEATS if full else REPEATS)[kind]
    ways = asked_ways(rivals, full, kind)
    for name in rivals or ():
        if not any(ways[name].does(step) for step in named):
            does = ", ".join(short for short, step in STEPS.items() if ways[name].does(step))
            raise ValueError(f"rivals: expected ways of {' or '.join(named)}, got {name}, which is one of {does}")
    return Plan(workload, chosen, batch, length, named, ways, repeats, device, full)


def _paths(out, files):
    """Where the results go, in the order of `FILES`; ValueError, before anything is measured, where that cannot be."""
    paths = {kind: Path((files or {}).get(kind) or Path(out) / name) for kind, name in FILES.items()}
    if paths["figure"].suffix not in (".png", ".svg"):
        raise ValueError(f"figure: expected a .png or .svg file, got {str(paths['figure'])!r}")
    named = {kind: kind if (files or {}).get(kind) else "out" for kind in FILES}
    taken = {}
    for kind, path in paths.items():
        if path.is_dir():
            raise ValueError(f"{named[kind]}: expected a file, got the folder {str(path)!r}")
        other = taken.setdefault(os.path.realpath(path), kind)
        if other != kind:
            raise ValueError(f"{kind}: expected another file than the one of {other}, got {str(path)!r} for both")
    for kind, path in paths.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _try(path)
        except OSError as error:
            raise ValueError(f"{named[kind]}: cannot write {str(path)!r}: {error.strerror}") from None
    return list(paths.values())


def _try(path):
    """Raise OSError where a file cannot be written; it stays as it is, or not there."""
    if not os.path.lexists(path):
        path.touch()
        path.unlink()
    elif path.is_file():  # nothing else is opened: a pipe would wait for its reader
        path.open("ab").close()


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _terminated(*_):
    raise Terminated


@contextlib.contextmanager
def _terminable():
    """Within the block SIGTERM ends what runs as Ctrl-C does: a scheduler's deadline keeps what was measured."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in its main thread alone
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cases(plan, waves):
    """The cases of a plan: of its workload's discriminators, then of whole training steps."""
    found = cases.cases(plan.workload, waves, [step for step in plan.steps if step not in TRAINING], plan.ways)
    if any(step in TRAINING for step in plan.steps):
        from . import training

        found = itertools.chain(found, training.cases(waves, plan.steps, plan.ways))
    for case in found:
        known = {name: why for name, why in plan.refused.items() if name in case.calls}
        yield case._replace(refused={**case.refused, **known})


def _measure(plan, waves, bar, result, budget, keep):
    """Fill in a result's rows, their memory, and how they scale within `budget` seconds a point; whatever is there when
    Ctrl-C comes stays. keep: called before what may take all memory, and with it this process.
    """
    for row in timing.measure(_cases(plan, waves), plan.repeats, bar, result["ceilings"], plan.device):
        result["speed"].append(row)
    keep()
    if plan.full and plan.device.type == "cpu":
        memory.measure(result["speed"], plan.name, plan.batch, plan.length, bar)
    failed = [row["error"] for row in result["speed"] if row["way"] == OURS and "error" in row]
    if budget and failed:
        bar.write(f"no curves of how time grows: {failed[0]}")
    elif budget:
        scaling.measure(plan, budget, bar, result["scaling"])


def run(
    data=None,
    out="bench-out",
    workload="hifigan",
    batch=None,
    length=None,
    steps=None,
    repeats=None,
    rivals=None,
    full=False,
    budget=None,
    device=None,
    verbose=False,
    files=None,
):
    """The main job: parity, then speed; prints a table, writes bench.json, bench.png and report.html to `out`, or to
    the paths of `files` (json, figure, html) -> exit status. Ctrl-C or SIGTERM ends the measurement, and what there is
    by then is written.

    It judges the backend that it measures, on a short segment, and times both halves of a training step; if `full`,
    every backend that can run here on the whole segment, every step by every way, more often, and peak memory.
    budget: seconds that a point of the scaling curves may take; None: no curves.
    """
    extras.require("the benchmark", "bench", "matplotlib", "tqdm", *([] if data is None else ["soundfile"]))
    from tqdm import tqdm

    plan = _plan(workload, batch, length, steps, repeats, rivals, full, device)
    clips = None if data is None else _read_clips(data, plan.batch)
    paths = _paths(out, files)
    status, failure, judged = 0, None, plan.length if full else min(plan.length, QUICK_GATE)
    with tqdm(desc="parity", total=plan.passes, bar_format=BAR, smoothing=0.1, leave=False, disable=None) as bar:
        result = report.begun(plan, f"the clips of {data}" if data else "synthetic voice")
        bar.write(f"parity against float64, batch 1 × {judged} of {result['waveforms']} (limit {parity.LIMIT}):")
        judging = judge(plan.workload, plan.ways, full, bar, plan.device, verbose, length=judged, clips=clips)
        result["parity"], passed = judging
        if not passed:
            bar.write("parity FAILED: no speed is reported")
            return 1
        bar.write(f"\n{plan}:")
        plan = plan._replace(refused=refused(result["parity"], plan.ways, plan.device))
        result["ceilings"] = machine.ceilings(plan.device)
        waves = [x.to(plan.device) for x in parity.waveforms(plan.batch, plan.length, clips=clips)]
        try:
            with _terminable():
                _measure(plan, waves, bar, result, budget, functools.partial(_keep, result, paths[0]))
        except KeyboardInterrupt as end:
            status = 128 + (signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT)
        except Exception as error:  # what was measured by then is kept
            status, failure = 2, error
    status = _finish(result, paths, status, more=not full)
    if failure is not None:
        raise failure
    return status


def _keep(result, path):
    """Write a result as it is."""
    result["noise"] = timing.ADVICE if any(row.get("noisy") for row in result["speed"]) else None
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def _finish(result, paths, status, more):
    """Print and write a result -> exit status."""
    if not result["speed"]:
        print("\nstopped before anything was measured; nothing was written")
        return status
    result["scaling"] = [curve for curve in result["scaling"] if curve["ways"]]
    print(f"\n{'stopped; measured by then:' if status else ''}\n{report.table(result['speed'])}")
    for curve in result["scaling"]:
        print(report.growth(curve))
    json_file, bars, html = paths
    written = [json_file]
    _keep(result, json_file)
    if any(row.get("over_original") for row in result["speed"]):
        figures.save(result, bars)
        html.write_text(page.page(result, shlex.join(["hifigan-fast", *sys.argv[1:]])), encoding="utf-8")
        written += [bars, html]
    print(f"\nwritten: {', '.join(map(str, written))}")
    if more and not status:
        print(MORE)
    return status


def compare(old, new):
    """Print what changed between two bench.json, or folders of several runs -> exit status."""
    print(comparison.compared(comparison.runs_at(old), comparison.runs_at(new)))
    return 0

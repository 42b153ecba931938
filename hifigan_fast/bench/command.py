"""`hifigan-fast bench`."""

import functools
import json
import shlex
import signal
import sys
from pathlib import Path

import torch

from .. import dispatch, extras, parity
from . import machine, report, timing
from .gate import gate
from .steps import DISCRIMINATOR, FORWARD, GENERATOR, ORIGINAL, OURS, PASSES, QUICK_RIVALS, RIVALS, WAYS
from .workloads import WORKLOADS

GATE_PASSES = 10  # about what the parity gate takes for an ensemble, in passes of the bar
QUICK_GATE = 4096  # samples: a float64 reference of the usual segment takes half a minute
REPEATS, FULL_REPEATS = 3, 5
BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
FILES = {"json": "bench.json", "figure": "bench.png", "html": "report.html"}
MORE = "--full: every backend, every step and way, more repeats"


def _read_clips(folder, count):
    """The first `count` clips of a folder, mono and of whatever rate, as arrays."""
    from ..training import files

    clips = files.clips_below(folder)
    if not clips:
        raise ValueError(f"data: expected wavs or FLAC files in {str(folder)!r}, got none{files.hint(folder)}")
    return [files.read_clip(path) for path in clips[:count]]


def _measured_backend():
    """The name of what runs the discriminators that are measured."""
    where = torch.device("cpu"), torch.float32
    if dispatch.requested() == dispatch.MODULES or dispatch.no_kernels(*where):
        return dispatch.MODULES
    return dispatch.choose(*where).backend.name


def _asked_ways(rivals, full):
    """The ways to measure: the original loop always, since the others are held against it."""
    wanted = {ORIGINAL, OURS, *(rivals or (RIVALS if full else QUICK_RIVALS))}
    return {name: way for name, way in WAYS.items() if name in wanted or (way.ours and full)}


def _judge(bar, data, clips, judged, full, verbose):
    """The parity gate above the bar -> (verdicts, whether all pass)."""
    backends = list(dict.fromkeys([_measured_backend(), *(parity.able() if full else [])]))
    bar.total += GATE_PASSES * len(backends) * len(parity.ENSEMBLES)
    source = f"the clips of {data}" if data else "synthetic voice"
    bar.write(f"parity against float64, batch 1 × {judged} of {source} (limit {parity.LIMIT}):")
    after = functools.partial(bar.update, GATE_PASSES * len(backends))
    return gate(bar.write, verbose, after, length=judged, clips=clips, backends=backends)


def run(
    data=None,
    out="bench-out",
    workload="hifigan",
    batch=None,
    length=None,
    repeats=None,
    rivals=None,
    full=False,
    verbose=False,
    files=None,
):
    """The main job: parity, then speed; prints a table, writes bench.json, bench.png and report.html to `out`, or to
    the paths of `files` (json, figure, html) -> exit status. Ctrl-C ends the measurement, and what there is by then is
    written.

    It judges the backend that it measures, on a short segment, and times both halves of a training step; if `full`,
    every backend that can run here on the whole segment, every step by every way, more often.
    """
    extras.require("the benchmark", "bench", "matplotlib", "tqdm", *([] if data is None else ["soundfile"]))
    from tqdm import tqdm

    chosen = WORKLOADS[workload]
    batch, length = batch or chosen.cpu_batch, length or chosen.segment
    clips = None if data is None else _read_clips(data, batch)
    paths = [Path((files or {}).get(kind) or Path(out) / name) for kind, name in FILES.items()]
    if paths[1].suffix not in (".png", ".svg"):
        raise ValueError(f"figure: expected a .png or .svg file, got {str(paths[1])!r}")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    repeats = repeats or (FULL_REPEATS if full else REPEATS)
    steps, ways = [FORWARD] * full + [DISCRIMINATOR, GENERATOR], _asked_ways(rivals, full)
    each = sum(PASSES[step] for step in steps for way in ways.values() if step in way.steps)
    passes = len(chosen.ensembles) * (repeats + 1) * each
    rows, status = [], 0
    with tqdm(desc="parity", total=passes, bar_format=BAR, smoothing=0.1, leave=False, disable=None) as bar:
        verdicts, passed = _judge(bar, data, clips, length if full else min(length, QUICK_GATE), full, verbose)
        if not passed:
            bar.write("parity FAILED: no speed is reported")
            return 1
        shape = f"batch {batch} × {length}, threads: {torch.get_num_threads()}, interleaved repeats: {repeats}"
        fits = f"; it trains with batch {chosen.batch}" if batch < chosen.batch else ""
        bar.write(f"\nspeed of {chosen.what} on {machine.processor()}, {shape}{fits}:")
        ceilings, waves = machine.ceilings(), parity.waveforms(batch, length, clips=clips)
        try:
            for row in timing.measure(chosen, waves, steps, ways, repeats, bar, ceilings["gflops"]):
                rows.append(row)
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
    if not rows:
        print("\nstopped before anything was measured; nothing was written")
        return status
    result = {
        "format": report.FORMAT,
        **machine.conditions(repeats),
        "ceilings": ceilings,
        "workload": workload,
        "what": chosen.what,
        "batch": batch,
        "segment": length,
        "parity": {e: {b: v.worst for b, v in of.items()} for e, of in verdicts.items()},
        "speed": rows,
        "noise": timing.ADVICE if any(row.get("noisy") for row in rows) else None,
    }
    print(f"\n{'stopped; measured by then:' if status else ''}\n{report.table(rows)}")
    _write(result, *paths)
    if not (full or status):
        print(MORE)
    return status


def _write(result, json_file, figure, page):
    """The JSON, and the figure and the page where there is something to show."""
    written = [json_file]
    json_file.write_text(json.dumps(result, indent=2) + "\n")
    if any(row.get("over_original") for row in result["speed"]):
        report.figure(result, figure)
        page.write_text(report.page(result, shlex.join(["hifigan-fast", *sys.argv[1:]])), encoding="utf-8")
        written += [figure, page]
    print(f"\nwritten: {', '.join(map(str, written))}")


def compare(old, new):
    """Print what changed between two bench.json -> exit status."""
    print(report.compared(report.load(old), report.load(new)))
    return 0

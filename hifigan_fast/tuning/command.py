"""The command: what is measured in which order, and how it is kept."""

import itertools
import json
import re
import time
from dataclasses import astuple, replace
from pathlib import Path

import torch

from .. import cache
from ..backends.gpu import devices
from ..backends.triton import configs
from . import cases, search

QUICK_SECONDS = 60


def _numbers(config):
    """A configuration as tables have it."""
    return [*astuple(config)[:5], *[config.by] * (config.by != "triton")]


def write(path, table):
    """The table as JSON, a configuration a line."""
    text = json.dumps(configs.like(table, lambda g, d, a, name: _numbers(table[g][d][a][name])), indent=1)
    text = re.sub(r"\[\s+([\w,\s\"]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    Path(path).write_text(text + "\n")


def _keep(device, generation, entry, found):
    """Add an entry to a device's measurements (`configs.measurements`)."""
    kept = {"generation": generation, "config": _numbers(found.config), "ms": found.ms}
    with cache.locked(configs.MEASURED):
        measured = configs.measurements(device) | {str(entry): kept}
        cache.keep(configs.MEASURED, lambda entries: entries.update({configs.place(device): measured}))
    configs.forget_measured()


def _entries(generation, arithmetics, quick):
    """What is measured, in its order."""
    of, classes = configs.table()[generation], configs.LIBRARY_CLASSES if quick else configs.CLASSES
    places = cases.places(cases.ensembles())
    found = []
    for arithmetic, direction, name in itertools.product(cases.DTYPES, configs.DIRECTIONS, reversed(classes)):
        if arithmetic in arithmetics and name in of[direction].get(arithmetic, ()):
            before = replace(configs.config(generation, direction, arithmetic, name), by="triton")
            found.append(search.Entry(direction, arithmetic, name, places[name], before))
    return found


def _batches(entries):
    """Those that are compiled and timed together: of one arithmetic, which is the process's, and direction."""
    for _, batch in itertools.groupby(entries, key=lambda entry: (entry.arithmetic, entry.direction)):
        yield list(batch)


def _say(text):
    print(text, flush=True)  # also in a file it is there as it comes


def run(out=None, quick=False, arithmetics=tuple(cases.DTYPES), device=None, timed=search.do_bench, say=_say):
    """Measure on a GPU, and keep what was found for this device and these versions (`configs.measurements`).

    Args:
        out: a file for the whole table too, as the package ships one.
        quick: our configurations as they are against the CUDA kernels and the library, in the classes where those may
            run, for a minute; what an earlier run has measured comes last.
        arithmetics: of `configs`, those to be measured.
    """
    if out:
        Path(out).absolute().parent.mkdir(parents=True, exist_ok=True)  # what cannot be written is said at once
    device = device or torch.device("cuda")
    generation = configs.generation_of(devices.capability(device))
    entries, known = _entries(generation, arithmetics, quick), configs.measurements(device)
    if quick:
        entries.sort(key=lambda entry: str(entry) in known)
    begun, done, before_tf32 = time.monotonic(), 0, torch.backends.cudnn.allow_tf32
    bench = search.Bench(device, timed, say)
    try:
        for batch in _batches(entries):
            torch.backends.cudnn.allow_tf32 = batch[0].arithmetic == "tf32"
            if not quick:
                search.explore(bench, batch)
            for entry, found in search.decide(bench, batch):
                say(f"  {entry}: {found}")
                _keep(device, generation, entry, found)  # whatever comes, this much is done
                done += 1
                if out:
                    write(out, configs.in_use())
            if quick and time.monotonic() - begun > QUICK_SECONDS:
                break
    finally:
        torch.backends.cudnn.allow_tf32 = before_tf32
    if done < len(entries):
        say(f"a minute is over, {len(entries) - done} of {len(entries)} are left: another run begins with them")
    say(f"kept for {configs.contact(device)['device']} in {cache.folder() / configs.MEASURED}")
    return 0

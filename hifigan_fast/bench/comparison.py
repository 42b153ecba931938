"""What changed between runs of two states of the package, beyond what runs of one state differ by."""

import itertools
import math
import statistics
from pathlib import Path

from tabulate import tabulate

from . import report
from .steps import ORIGINAL
from .timing import uncertainty

ERRORS = 3  # standard errors that a change exceeds: by chance, one row in a hundred or fewer
RUNS = 3  # of a side, from which on they show how runs differ
SEEN, FLOOR = 0.22, 0.25  # what runs of one commit in benchmarks/results differ by at most; what fewer must exceed
RULE = (
    f"faster, slower: by more than {ERRORS} standard errors of the medians and, unless both sides have {RUNS} runs, by "
    f"more than {FLOOR:.0%}: single runs of one commit have differed by {SEEN:.0%}"
)


def circumstances(run):
    """What a run's ratios depend on besides this package: {what: value}."""
    found = {key: run[key] for key in ("device", "processor", "threads", "batch", "segment")}
    return found | {"discriminators": run["what"], "torch": run["versions"].get("torch")}


def state(run):
    """Runs of an equal one differ by chance: {what: value}."""
    return circumstances(run) | {"commit": run.get("commit")}


def runs_at(path):
    """The runs of one state: a bench.json, or all that are in a folder; ValueError where they are of several."""
    files = sorted(Path(path).rglob("*.json")) if Path(path).is_dir() else [path]
    if not files:
        raise ValueError(
            f"compare: expected a bench.json or a folder of them, got {str(path)!r}, which has none; "
            f"hifigan-fast bench --out {path} measures one"
        )
    runs = [report.load(file) for file in files]
    states = [state(run) for run in runs]
    for file, found in zip(files, states):
        for key, value in found.items():
            if value != states[0][key]:
                raise ValueError(
                    f"compare: expected runs of one state in {path}, got {key} {states[0][key]!r} in {files[0]} and "
                    f"{value!r} in {file}"
                )
    return runs


def _rows(runs):
    """{(ensemble, step, way): its rows}, but for the original loop, which all are held against."""
    found = {}
    for row in (row for run in runs for row in run["speed"]):
        if row["way"] != ORIGINAL or not row.get("over_original"):
            found.setdefault((row["ensemble"], row["step"], row["way"]), []).append(row)
    return found


def _over_original(rows):
    """(median over runs, its uncertainty, how many runs) of rows of one way; None where all of them failed."""
    ratios = [row["over_original"] for row in rows if row.get("over_original")]
    medians = [ratio["median"] for ratio in ratios]
    if not ratios:
        return None
    if len(ratios) >= RUNS:
        return statistics.median(medians), uncertainty(medians), len(ratios)
    own = [ratio.get("uncertainty", ratio.get("spread")) for ratio in ratios]  # older files have the latter, wider
    return statistics.median(medians), None if None in own else max(own), len(ratios)


def verdict(old, new):
    """Of two of `_over_original`: "faster" or "slower", "" where neither is shown, "?" where nothing tells."""
    (before, *_), (after, *_) = old, new
    uncertain, runs = [side[1] for side in (old, new)], min(old[2], new[2])
    if None in uncertain:
        return "?"
    least = max(ERRORS * math.hypot(*uncertain), 0 if runs >= RUNS else FLOOR)
    by = max(before, after) / min(before, after) - 1
    return "" if by <= least else "faster" if after > before else "slower"


def compared(old, new):
    """Two sides' rows beside each other, lists of runs, by their ratios to the original loop, which was timed in turn
    with them: a table, the rule by which a change is one, and what else changed.
    """
    sides, lines = [_rows(runs) for runs in (old, new)], []
    for where in dict.fromkeys(itertools.chain(*sides)):
        found = [_over_original(rows.get(where, [])) for rows in sides]
        shown = [f"{of[0]:.2f}" if of else "failed" if where in rows else "not run" for of, rows in zip(found, sides)]
        change = (f"{found[1][0] / found[0][0] - 1:+.1%}", verdict(*found)) if all(found) else ("", "")
        lines.append((*where, *shown, *change))
    counts = [f"{name}, × original{f', runs: {len(of)}' * (len(of) > 1)}" for name, of in (("old", old), ("new", new))]
    table = tabulate(lines, headers=(*report.WHERE, *counts, "change", ""), disable_numparse=True)
    others = [
        f"other {key}: {was}, now {now}; the ratios say something of that too"
        for (key, was), now in zip(circumstances(old[0]).items(), circumstances(new[0]).values())
        if was != now
    ]
    return "\n".join([table, RULE, *others])

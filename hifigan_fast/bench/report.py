"""What a run's figures say: a table, a line, and beside another run's."""

import json
from pathlib import Path

from tabulate import tabulate

from ..version import __version__
from . import machine
from .timing import ADVICE

FORMAT = 3  # of bench.json
ALIKE = ("device", "processor", "threads", "what", "batch", "segment")  # of runs whose milliseconds can be compared
WHERE = ("discriminators", "step", "way")
HEADERS = (*WHERE, "ms", "× original", "range", "× best rival", "of floor", "peak MiB", "spread")


def begun(plan, verdicts, ceilings):
    """The result of a run that has not measured anything yet."""
    return {
        "format": FORMAT,
        **machine.conditions(plan.repeats, plan.device),
        "ceilings": ceilings,
        "workload": plan.name,
        "what": plan.workload.what,
        "batch": plan.batch,
        "segment": plan.length,
        "parity": verdicts,
        "speed": [],
        "scaling": [],
        "noise": None,
    }


def times(ratio):
    """The median of a ratio as text."""
    return f"{ratio['median']:.2f}" if ratio else ""


def ms(value):
    """Milliseconds as text."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cells(row):
    """A row of the table; all cells are text."""
    where = row["ensemble"], row["step"], row["way"]
    if "error" in row:
        return *where, row["error"], *6 * ("",)
    original, best = row["over_original"], row["over_best"]
    loses = " (slower)" if best and best["median"] < 1 else ""
    return (
        *where,
        ms(row["ms"]),
        times(original),
        "{:.2f}–{:.2f}".format(*original["range"]) if original else "",
        f"{times(best)} {row['best_rival']}{loses}" if best else "",
        f"{row['of_floor']:.0%}" if row.get("of_floor") else "",
        f"{row['peak_mib']:.0f}" if row.get("peak_mib") is not None else "",
        "?" if row["spread"] is None else f"{row['spread']:.0%}{' !' * row['noisy']}",
    )


def table(rows, tablefmt="simple"):
    """The rows as a table; with advice where one is noisy, as text."""
    align = (*len(WHERE) * ("left",), *(len(HEADERS) - len(WHERE)) * ("right",))
    cells = [_cells(row) for row in rows]
    text = tabulate(cells, headers=HEADERS, tablefmt=tablefmt, disable_numparse=True, colalign=align)
    return f"{text}\n{ADVICE}" if tablefmt == "simple" and any(row.get("noisy") for row in rows) else text


def title(result):
    """What was measured where, in two lines."""
    shape = f"{result['what']}, batch {result['batch']} × {result['segment']}"
    if result["device"] == result["processor"]:
        shape += f", threads: {result['threads']}"
    return f"hifigan_fast {__version__} on {result['device']}\n{shape}, repeats: {result['repeats']}"


def headline(result):
    """The best of ours on the last ensemble, each step, in one line."""
    last = result["speed"][-1]["ensemble"] if result["speed"] else None
    best = {}
    for row in result["speed"]:
        counts = row["ensemble"] == last and row.get("over_best") and row["dtype"] != "bfloat16"
        if counts and row["ms"] <= best.get(row["step"], row)["ms"]:
            best[row["step"]] = row
    said = [
        f"{step} {times(row['over_original'])} × the original loop's speed, {times(row['over_best'])} × the best "
        f"rival's ({row['best_rival']})"
        for step, row in best.items()
    ]
    return f"{last}: {'; '.join(said)}" if said else "nothing was measured"


def _reach(values):
    """The first and the last of values as text, once where they are the same."""
    return " to ".join(dict.fromkeys((values[0], values[-1])))


def growth(curve):
    """How time grows along a curve, in one line."""
    said = []
    for way, of in curve["ways"].items():
        grows = "" if of["exponent"] is None else f" as {curve['over']}^{of['exponent']:.2f}"
        said.append(f"{way}{grows}, {_reach(list(map(ms, of['ms'])))} ms")
    at = next(iter(curve["ways"].values()))["at"]
    left = f"; left out: {', '.join(map(str, curve['left_out']))}" if curve["left_out"] else ""
    return f"{curve['ensemble']}, {curve['over']} {_reach(list(map(str, at)))}: {'; '.join(said)}{left}"


def load(path):
    """A bench.json; ValueError where it is not one of this format."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"compare: there is no {path}; hifigan-fast bench --json {path} measures one") from None
    except ValueError as error:
        raise ValueError(f"compare: {path} is not JSON: {error}") from None
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise ValueError(f"compare: expected a bench.json of format {FORMAT}, got {found} in {path}; measure again")
    lacking = [key for key in (*ALIKE, "repeats", "speed") if key not in result]
    if lacking:
        raise ValueError(f"compare: {path} lacks {lacking[0]!r}; measure again")
    return result


def compared(old, new):
    """Two runs' rows side by side as a table: what changed beyond both ranges is marked.

    On one processor by milliseconds; on two by the ratio to the original loop, which was timed beside each.
    """
    same = all(old[key] == new[key] for key in ALIKE)
    key, unit = ("ms", "ms") if same else ("over_original", "× original")

    repeated = min(old["repeats"], new["repeats"]) > 1  # a single one has no range

    def figures(row):
        value = row.get(key)
        if value is None:
            return None
        return (value, *row["ms_range"]) if same else (value["median"], *value["range"])

    before = {(row["ensemble"], row["step"], row["way"]): figures(row) for row in old["speed"]}
    lines = []
    for row in new["speed"]:
        where = row["ensemble"], row["step"], row["way"]
        a, b = before.pop(where, None), figures(row)
        if a is None or b is None:
            lines.append((*where, *("" if f is None else f"{f[0]:.2f}" for f in (a, b)), "", "in one only"))
            continue
        apart = b[1] > a[2] or b[2] < a[1]
        said = ("slower", "faster")[(b[0] < a[0]) == same] * apart if repeated else "?"
        lines.append((*where, f"{a[0]:.2f}", f"{b[0]:.2f}", f"{b[0] / a[0] - 1:+.1%}", said))
    lines += [(*where, f"{f[0]:.2f}" if f else "", "", "", "in one only") for where, f in before.items()]
    headers = (*WHERE, f"old, {unit}", f"new, {unit}", "change", "beyond both ranges")
    note = "" if same else "\nother machine, threads or shape: the ratios to each run's own original loop are compared"
    return tabulate(lines, headers=headers, disable_numparse=True) + note

"""What a run's figures say: a table, a line."""

import json
from pathlib import Path

from tabulate import tabulate

from .. import parity
from . import machine
from .steps import ORIGINAL
from .timing import ADVICE, called

FORMAT = 3  # of bench.json
NUMBER = int, float
# What a bench.json has at least: its keys, a row's that failed and one's that was timed, a ratio's.
KEYS = {
    **dict.fromkeys(("device", "processor", "what"), str),
    **dict.fromkeys(("threads", "batch", "segment", "repeats"), int),
    **{"versions": dict, "speed": list},
}
ROW = dict.fromkeys(("ensemble", "step", "way"), str)
TIMED = ROW | {"ms": NUMBER, "ms_range": list, "over_original": (dict, type(None))}
RATIO = {"median": NUMBER, "range": list}
WHERE = ("discriminators", "step", "way")


def begun(plan, waveforms):
    """The result of a run that has not measured anything yet; waveforms: of what, in words."""
    return {
        "format": FORMAT,
        **machine.conditions(plan.repeats, plan.device),
        "ceilings": None,
        "workload": plan.name,
        "what": plan.workload.what,
        "batch": plan.batch,
        "segment": plan.length,
        "waveforms": waveforms,
        "parity": {},
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


def within(ratio):
    """The range of a ratio as text."""
    return "{:.2f}–{:.2f}".format(*ratio["range"]) if ratio else ""


def _cells(row):
    """A row of the table as {header: text}, and its error in place of figures."""
    found = dict(zip(WHERE, (row["ensemble"], row["step"], called(row))))
    if "error" in row:
        return found | {"ms": row["error"]}
    original, best = row["over_original"], row["over_best"]
    loses = " (slower)" if best and best["median"] < 1 else ""
    low, high = map(ms, row["ms_range"])
    return found | {
        "ms": ms(row["ms"]),
        "range, ms": f"{low}–{high}",
        "first, s": f"{row['first_s']:.3g}",
        "× original": times(original),
        "range": within(original),
        "× best rival": f"{times(best)} {row['best_rival']}{loses}" if best else "",
        "of floor": f"{row['of_floor']:.0%}" if row.get("of_floor") else "",
        "peak MiB": f"{row['peak_mib']:.0f}" if row.get("peak_mib") is not None else "",
        "±": "?" if row["uncertainty"] is None else f"{row['uncertainty']:.1%}{' !' * row['noisy']}",
    }


HEADERS = (*WHERE, "ms", "range, ms", "first, s", "× original", "range", "× best rival", "of floor", "peak MiB", "±")
WIDE = ("range, ms", "first, s")  # columns that a terminal has no room for


def table(rows, tablefmt="simple"):
    """The rows as a table of the columns that any fills; with advice where one is noisy, as text."""
    filled = [{header: text for header, text in _cells(row).items() if text} for row in rows]
    some = set(WHERE).union(*filled).difference(WIDE if tablefmt == "simple" else ())
    headers = [header for header in HEADERS if header in some]
    align = (*len(WHERE) * ("left",), *(len(headers) - len(WHERE)) * ("right",))
    cells = [[row.get(header, "") for header in headers] for row in filled]
    text = tabulate(cells, headers=headers, tablefmt=tablefmt, disable_numparse=True, colalign=align)
    return f"{text}\n{ADVICE}" if tablefmt == "simple" and any(row.get("noisy") for row in rows) else text


def judged(verdicts):
    """A run's parity as rows: arithmetic, discriminators, what ran them, the worst ratio of errors and where, whether
    that passes.
    """
    rows = []
    for arithmetic, ensembles in verdicts.items():
        for ensemble, backends in ensembles.items():
            for backend, worst in backends.items():
                kind, (ratio, name) = max(worst.items(), key=lambda of: float("inf") if of[1][0] is None else of[1][0])
                passes = ratio is not None and ratio <= parity.LIMIT
                said = "ok" if passes else "FAIL, not timed"
                ratio = "not finite" if ratio is None else f"{ratio:.2f}"
                rows.append((arithmetic, ensemble, backend, ratio, f"{kind}: {name}", said))
    return rows


def title(result):
    """What was measured where, in two lines."""
    shape = f"{result['what']}, batch {result['batch']} × {result['segment']}"
    if result["device"] == result["processor"]:
        shape += f", threads: {result['threads']}"
    runs = f", runs: {result['runs']}" if result.get("runs", 1) > 1 else ""
    version = result["versions"]["hifigan_fast"]
    return f"hifigan_fast {version} on {result['device']}\n{shape}, repeats: {result['repeats']}{runs}"


def headline(result):
    """The best of ours on the last ensemble, each step, in one line."""
    last = result["speed"][-1]["ensemble"] if result["speed"] else None
    best = {}
    for row in result["speed"]:
        counts = row["ensemble"] == last and row.get("over_best") and row["dtype"] != "bfloat16"
        if counts and row["ms"] <= best.get(row["step"], row)["ms"]:
            best[row["step"]] = row
    said = []
    for step, row in best.items():
        over = {"the original loop's speed": row["over_original"]}
        if row["best_rival"] != ORIGINAL:
            over[f"the best rival's ({row['best_rival']})"] = row["over_best"]
        words = ", ".join(f"{times(of)} × ({within(of)}) {whose}" for whose, of in over.items() if of)
        said.append(f"{step}, {called(row)}: {words}{' !' * row['noisy']}")
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


def _parts(result):
    """The dicts of a bench.json: (where, of, {key: what it is}). What should be a dict and is not has no keys."""
    yield "", result, KEYS
    rows = result.get("speed")
    for row in rows if isinstance(rows, list) else ():
        row = row if isinstance(row, dict) else {}
        yield " of a row", row, ROW if "error" in row else TIMED
        for key in ("over_original", "over_best"):
            if row.get(key) is not None:
                yield f" of {key}", row[key] if isinstance(row[key], dict) else {}, RATIO


def _damage(result):
    """What is wrong with a bench.json, in words; None where nothing is."""
    for where, of, kinds in _parts(result):
        for key in kinds:
            if key not in of:
                return f"lacks {key + where!r}"
    for where, of, kinds in _parts(result):
        for key, kind in kinds.items():
            if not isinstance(of[key], kind):
                names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
                return f"has {of[key]!r:.40} as {key}{where}, expected {names}"
    return None


def load(path):
    """A bench.json; ValueError where it is not one of this format."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"compare: there is no {path}; hifigan-fast bench --json {path} measures one") from None
    except ValueError as error:
        raise ValueError(f"compare: {path} is not JSON: {error}; hifigan-fast bench --json FILE writes one") from None
    found = result.get("format") if isinstance(result, dict) else None
    if found is None:
        raise ValueError(
            f"compare: {path} is no result of hifigan-fast bench; hifigan-fast bench --json FILE writes one"
        )
    if found != FORMAT:
        cure = "update hifigan_fast" if isinstance(found, int) and found > FORMAT else "measure again"
        raise ValueError(f"compare: expected a bench.json of format {FORMAT}, got {found} in {path}; {cure}")
    damage = _damage(result)
    if damage:
        raise ValueError(f"compare: {path} {damage}; measure again")
    return result

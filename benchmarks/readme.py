"""README's tables and figure of measured speed, made of the newest runs in benchmarks/results: a GPU's and a CPU's.

python -m benchmarks.readme         (make readme-figures)
python -m benchmarks.readme PATH    the table of another run of `hifigan-fast bench`, or of a folder of them, printed
"""

import argparse
import statistics
import sys
from pathlib import Path

from tabulate import tabulate

from hifigan_fast.bench import comparison, figures
from hifigan_fast.bench import report as bench
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS, STEPS, WAYS
from hifigan_fast.bench.timing import NOISY, is_noisy, uncertainty

from . import report

# Of ours what README shows, of a GPU and of a CPU; all else is in the files and in docs/benchmarks.md.
SHOWN = {False: [name for name, way in WAYS.items() if way.ours and way.tf32], True: [OURS]}
TOGETHER = "both"  # of a GPU's ensembles the only one shown
DRAWN = DISCRIMINATOR, GENERATOR, STEPS["v1"]  # of a GPU's steps, in the figure
ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "bench.svg"
BEGIN, END = "<!-- benchmarks.readme: begin -->\n", "<!-- end -->\n"
NOISE = f"! a standard error of the row's ratios over runs is above {NOISY:.0%}"
GRAPH = ", a CUDA graph"  # whose memory is not measured
HEADERS = (
    "discriminators",
    "what",
    "how",
    "original, ms",
    "hifigan_fast, ms",
    "× the original",
    "× the best rival",
    "memory, × the rival's",
)


def on_cpu(run):
    """Whether a run was made on a CPU."""
    return run["device"] == run["processor"]


def newest():
    """The kept runs of HiFi-GAN's discriminators {path: run}, of a GPU and then of a CPU, as far as there are any: the
    newest first, and all of its state.
    """
    found = {}
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        try:
            found[path] = bench.load(path)
        except ValueError:
            continue  # another command's
    runs = sorted(
        (item for item in found.items() if item[1]["workload"] == "hifigan"), key=lambda item: item[1]["date"]
    )
    kinds = [[(path, run) for path, run in reversed(runs) if on_cpu(run) == kind] for kind in (False, True)]
    states = [comparison.state(of[0][1]) if of else None for of in kinds]
    return [{path: run for path, run in of if comparison.state(run) == is_} for of, is_ in zip(kinds, states) if of]


def _over(other, rows, runs, key):
    """How many times faster than `other` a way is, both lists of rows by run: its medians' ratio, and the range over
    runs; of one run over its repeats.
    """
    medians = [statistics.median(row["ms"] for row in of) for of in (other, rows)]
    ratios = [a["ms"] / b["ms"] for a, b in zip(other, rows)]
    span = rows[0][key]["range"] if len(runs) == 1 else [min(ratios), max(ratios)]
    noisy = rows[0]["noisy"] if len(runs) == 1 else is_noisy(uncertainty(ratios))
    return {"median": medians[0] / medians[1], "range": span}, noisy


def _step(ensemble, step, runs):
    """One step's rows, of all runs {(ensemble, step, way): row} that have all of its ways."""
    ways = list(dict.fromkeys(name for rows in runs for *where, name in rows if where == [ensemble, step]))
    runs = [rows for rows in runs if all((ensemble, step, name) in rows for name in ways)]
    of = {name: [rows[ensemble, step, name] for rows in runs] for name in ways} if runs else {}
    ms = {name: statistics.median(row["ms"] for row in rows) for name, rows in of.items()}
    for name, rows in of.items():
        dtype, held = rows[0]["dtype"], [row["peak_mib"] for row in rows if row.get("peak_mib")]
        found = {"ensemble": ensemble, "step": step, "way": name, "dtype": dtype, "ms": ms[name], "noisy": False}
        found |= {"over_original": None, "best_rival": None, "over_best": None}
        found["peak_mib"] = statistics.median(held) if held else None
        others = {"over_original": ORIGINAL} if ORIGINAL in of else {}
        rivals = [rival for rival in of if not WAYS[rival].ours and of[rival][0]["dtype"] == dtype]
        if WAYS[name].ours and rivals:
            found["best_rival"] = others["over_best"] = min(rivals, key=ms.get)
        for key, other in others.items():
            found[key], noisy = _over(of[other], rows, runs, key)
            found["noisy"] |= noisy
        yield found


def together(runs):
    """Runs of one state as one result: of each way the median over runs, its ratios those of medians."""
    rows = [{(row["ensemble"], row["step"], row["way"]): row for row in run["speed"] if "ms" in row} for run in runs]
    steps = dict.fromkeys((ensemble, step) for own in rows for ensemble, step, _ in own)
    made = runs[0] | {"runs": len(runs), "speed": [row for step in steps for row in _step(*step, rows)]}
    made["failed"] = [row for run in runs for row in run["speed"] if "error" in row]
    noisy = any(row["noisy"] for row in made["speed"])
    return made | {"noise": (NOISE if len(runs) > 1 else runs[0]["noise"]) if noisy else None}


def _title(ensemble):
    return ensemble if len(ensemble) > 3 else ensemble.upper()


def _line(row, beside, failed):
    """A line of the table: a row of ours, beside all {way: row} of its step and what failed there."""
    original, best, rival = row["over_original"], row["over_best"], beside.get(row["best_rival"])
    ms = [f"{of['ms']:.{0 if of['ms'] >= 100 else 2}f}" if of else "failed" for of in (beside.get(ORIGINAL), row)]
    rivals = (o["way"] for o in failed if o["dtype"] == row["dtype"] and not WAYS[o["way"]].ours)
    out = "".join(f"; {rival} failed" for rival in dict.fromkeys(rivals) if rival not in beside)
    held = rival and row["peak_mib"] and rival["peak_mib"] and row["peak_mib"] / rival["peak_mib"]
    return (
        *(_title(row["ensemble"]), row["step"], row["dtype"] + GRAPH * WAYS[row["way"]].graph, *ms),
        f"{bench.times(original)} ({bench.within(original)}){' !' * row['noisy']}" if original else "",
        f"{'≤ ' * bool(out)}{bench.times(best)} ({row['best_rival']}{out})" if best else "",
        f"{held:.2f}" if held else "",
    )


def _grouped(pairs):
    """[(key, value)] as {all values of a key, in order: its keys}: what several keys have alike is said once."""
    of = {}
    for key, value in pairs:
        of.setdefault(key, {})[value] = None
    groups = {}
    for key, values in of.items():
        groups.setdefault(tuple(values), []).append(key)
    return groups


def _rivals(rows, failed):
    """Which of PyTorch's ways were run, and where ours, in any way, is slower than the best in its arithmetic."""
    not_all = {(row["step"], row["way"]) for row in failed}
    ran = ((row["step"], row["way"]) for row in rows if not WAYS[row["way"]].ours)
    steps = _grouped(pair for pair in ran if pair not in not_all)
    if not steps:
        return "No rival was measured."
    told = "; ".join(f"{', '.join(own)}: {', '.join(ways)}" for ways, own in steps.items())
    found = {}
    for row in rows:
        if (of := row["over_best"]) and of["median"] < 1:
            case = f"{_title(row['ensemble'])}, {row['step']} {bench.times(of)} × ({bench.within(of)})"
            found.setdefault(row["way"], []).append(case)
    lost = "; ".join(f"{way}: {', '.join(cases)}" for way, cases in found.items())
    lost = f"Ours is slower than the best of them here: {lost}." if found else "None of them was faster."
    return f"Rivals that were run: {told}.\n\n{lost}"


def _failures(failed):
    """What was not measured, and why; "" where all was."""
    told = []
    for reason in dict.fromkeys(row["error"] for row in failed):
        rows = [row for row in failed if row["error"] == reason]
        for cases, ways in _grouped((row["way"], (row["step"], _title(row["ensemble"]))) for row in rows).items():
            where = "; ".join(f"{', '.join(own)} of {', '.join(of)}" for of, own in _grouped(cases).items())
            told.append(f"{', '.join(ways)} ({where}): {reason}.")
    return f"\n\nNot measured: {' '.join(told)}" if told else ""


def section(path, runs):
    """The table of runs of one state, as README has it, with a link to their path."""
    made = together(runs)
    steps = {}
    for row in made["speed"]:
        steps.setdefault((row["ensemble"], row["step"]), {})[row["way"]] = row
    failed = {}
    for row in made["failed"]:
        failed.setdefault((row["ensemble"], row["step"]), []).append(row)
    lines = [
        _line(of[way], of, failed.get(case, ()))
        for case, of in steps.items()
        for way in of
        if way in SHOWN[on_cpu(made)] and (case[0] == TOGETHER or on_cpu(made))
    ]
    rivals_memory = all(line[-1] for line in lines if GRAPH not in line[2])
    columns = len(HEADERS) if rivals_memory else len(HEADERS) - 1
    threads = f", {made['threads']} threads" if on_cpu(made) else ""
    where = f"{made['device']}{threads}, torch {made['versions']['torch']}"
    repeats = f"{made['repeats']} interleaved repeats"
    of = f"medians over {len(runs)} runs of {repeats} each" if len(runs) > 1 else f"medians of {repeats}"
    kept = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    caption = (
        f"{where}, batch {made['batch']} × {made['segment']}, {made['date'][:10]};\n{of} ([all figures]({kept})).\n"
        f"× is one of these medians by the other (and the range over {'runs' if len(runs) > 1 else 'repeats'})"
    ) + ("; ≤: a rival failed there" if any("≤" in line[-2] for line in lines) else "")
    noise = f";\n{made['noise']}" if made["noise"] else ""
    table = tabulate([line[:columns] for line in lines], HEADERS[:columns], "github", disable_numparse=True)
    return f"{caption}{noise}:\n\n{table}\n\n{_rivals(made['speed'], made['failed'])}{_failures(made['failed'])}\n"


def tables():
    """The newest runs' tables."""
    kept = ((next(iter(of)), list(of.values())) for of in newest())
    return "\n".join(section(path if len(runs) == 1 else path.parent, runs) for path, runs in kept)


def made(text):
    """README's text with the tables of the newest runs in their place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{tables()}{END}{rest.split(END, 1)[1]}"


def drawn():
    """The result that README's figure shows: the newest runs', on a GPU where there are any. Of these a few steps, ours
    and in each arithmetic the fastest of PyTorch's ways.
    """
    made = together(list(newest()[0].values()))
    if on_cpu(made):
        return made
    failed = [row for row in made["failed"] if row["ensemble"] == TOGETHER and row["step"] in DRAWN]
    ways = _grouped((row["step"], row["way"]) for row in failed)
    told = [f"not measured: {', '.join(steps)}: {', '.join(of)}" for of, steps in ways.items()]
    rows = [row for row in made["speed"] if row["ensemble"] == TOGETHER and row["step"] in DRAWN]
    best = {}
    for row in sorted(rows, key=lambda row: row["ms"]):
        if not WAYS[row["way"]].ours:
            best.setdefault((row["step"], row["dtype"]), row)
    shown = [row for row in rows if WAYS[row["way"]].ours or row["way"] == ORIGINAL or row in best.values()]
    return made | {"noise": "; ".join(filter(None, [made["noise"], *told])) or None, "speed": shown}


def command(args):
    if args.path:
        print(section(args.path, comparison.runs_at(args.path)))
        return
    readme = ROOT / "README.md"
    readme.write_text(made(readme.read_text(encoding="utf-8")), encoding="utf-8")
    figures.save(drawn(), FIGURE)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("path", metavar="PATH", nargs="?", type=Path, help="print the table of this instead")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""README's tables and figure of measured speed, made of the newest runs in benchmarks/results: a GPU's and a CPU's.

python -m benchmarks.readme         (make readme-figures)
python -m benchmarks.readme FILE    the table of another run of `hifigan-fast bench`, printed
"""

import statistics
import sys
from pathlib import Path

from tabulate import tabulate

from hifigan_fast.bench import figures, report
from hifigan_fast.bench.steps import ORIGINAL, OURS, WAYS

# Of ours what README shows, of a GPU and of a CPU; all else is in the files and in docs/benchmarks.md.
SHOWN = {False: [name for name, way in WAYS.items() if way.ours and way.tf32], True: [OURS]}
ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "bench.svg"
BEGIN, END = "<!-- benchmarks.readme: begin -->\n", "<!-- end -->\n"
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
    """The kept runs of HiFi-GAN's discriminators, a GPU's and then a CPU's, as far as there are any.

    Of each those that belong together, the newest first: its commit, machine, shape.
    """
    found = {}
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        try:
            found[path] = report.load(path)
        except ValueError:
            continue  # another command's
    found = {path: run for path, run in found.items() if run["workload"] == "hifigan"}
    runs, alike = sorted(found.items(), key=lambda item: item[1]["date"], reverse=True), (*report.ALIKE, "commit")
    kinds = [[(path, run) for path, run in runs if on_cpu(run) == kind] for kind in (False, True)]
    return [{path: run for path, run in of if all(run[key] == of[0][1][key] for key in alike)} for of in kinds if of]


def _rows(run):
    return {(row["ensemble"], row["step"], row["way"]): row for row in run["speed"] if "ms" in row}


def _ratio(rows, key):
    """(median, lowest, highest) of a ratio: of runs' medians, or of one run's repeats; None where there is none."""
    ratios = [row[key] for row in rows if row[key]]
    if len(ratios) == 1:
        return ratios[0]["median"], *ratios[0]["range"]
    medians = [ratio["median"] for ratio in ratios]
    return (statistics.median(medians), min(medians), max(medians)) if medians else None


def _line(where, runs):
    """A line of the table: ours at (ensemble, step, way) beside the original loop, in all runs that have both."""
    ensemble, step, way = where
    runs = [rows for rows in runs if where in rows]
    originals, ours = ([rows[ensemble, step, name] for rows in runs] for name in (ORIGINAL, way))
    rivals = [rows[ensemble, step, row["best_rival"]] for rows, row in zip(runs, ours)]
    medians = [statistics.median(row["ms"] for row in of) for of in (originals, ours)]
    ms = [f"{value:.{0 if value >= 100 else 2}f}" for value in medians]
    original, best = _ratio(ours, "over_original"), _ratio(ours, "over_best")
    held = [o["peak_mib"] / r["peak_mib"] for r, o in zip(rivals, ours) if r.get("peak_mib") and o.get("peak_mib")]
    name = ensemble if len(ensemble) > 3 else ensemble.upper()
    how = ours[0]["dtype"] + ", a CUDA graph" * WAYS[way].graph
    return (
        *(name, step, how, *ms),
        f"{original[0]:.2f} ({original[1]:.2f}–{original[2]:.2f}){' !' * any(row['noisy'] for row in ours)}",
        f"{best[0]:.2f} ({ours[0]['best_rival']})",
        f"{statistics.median(held):.2f}" if held else "",
    )


def _losses(runs):
    """Where ours, in any way, is slower than the best of PyTorch's in its arithmetic, in a line."""
    found = []
    for where in (where for where, row in runs[0].items() if row["over_best"]):
        median, low, high = _ratio([rows[where] for rows in runs if where in rows], "over_best")
        if median < 1:
            found.append(f"{where[0]}, {where[1]}, {where[2]}: {median:.2f} × ({low:.2f}–{high:.2f})")
    return (
        f"Slower than the best rival: {'; '.join(found)}." if found else "None of ours was slower than the best rival."
    )


def section(runs):
    """The table of runs {path: result}, as README has it."""
    (path, first), rows = next(iter(runs.items())), [_rows(run) for run in runs.values()]
    lines = [_line(where, rows) for where in rows[0] if where[2] in SHOWN[on_cpu(first)]]
    columns = len(HEADERS) if any(line[-1] for line in lines) else len(HEADERS) - 1
    threads = f", {first['threads']} threads" if on_cpu(first) else ""
    where = f"{first['device']}{threads}, torch {first['versions']['torch']}"
    if len(runs) > 1:
        of = f"medians of {len(runs)} runs (and their range), each of {first['repeats']} interleaved repeats"
    else:
        of = f"medians (and ranges) of {first['repeats']} interleaved repeats"
    kept = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    caption = (
        f"{where}, batch {first['batch']} × {first['segment']}, {first['date'][:10]};\n{of} ([all figures]({kept}))"
    )
    table = tabulate([line[:columns] for line in lines], HEADERS[:columns], "github", disable_numparse=True)
    return f"{caption}:\n\n{table}\n\n{_losses(rows)}\n"


def made(text):
    """README's text with the table of the newest runs in its place."""
    before, rest = text.split(BEGIN)
    tables = "\n".join(map(section, newest()))
    return f"{before}{BEGIN}{tables}{END}{rest.split(END, 1)[1]}"


def drawn():
    """The run of README's figure: the newest, on a GPU where there is one."""
    return next(iter(newest()[0].values()))


def main():
    if sys.argv[1:]:
        print(section({Path(path): report.load(path) for path in sys.argv[1:]}))
        return
    readme = ROOT / "README.md"
    readme.write_text(made(readme.read_text(encoding="utf-8")), encoding="utf-8")
    figures.save(drawn(), FIGURE)


if __name__ == "__main__":
    main()

"""README's table of speeds, and docs/bench.png, made of the newest run in benchmarks/results.

python -m benchmarks.readme    (make readme-figures)
"""

import json
from pathlib import Path

from tabulate import tabulate

from hifigan_fast.bench import figures, report
from hifigan_fast.bench.steps import ORIGINAL, OURS

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks.readme: begin -->\n", "<!-- end -->\n"


def newest():
    """The file of the newest run of `hifigan-fast bench` that is kept."""
    kept = (path for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    runs = {path: json.loads(path.read_text()) for path in kept}
    return max((p for p, run in runs.items() if run.get("format") == report.FORMAT), key=lambda p: runs[p]["date"])


def section(path):
    """The table of a run, as README has it."""
    result = report.load(path)
    rows = {(row["ensemble"], row["step"], row["way"]): row for row in result["speed"]}
    lines = []
    for (ensemble, step, way), row in rows.items():
        if way != OURS:
            continue
        low, high = row["over_original"]["range"]
        original, best = rows[ensemble, step, ORIGINAL], row["over_best"]
        lines.append(
            (ensemble.upper() if ensemble != "both" else ensemble, step, f"{original['ms']:.0f}", f"{row['ms']:.0f}")
            + (f"{row['over_original']['median']:.2f} ({low:.2f}–{high:.2f}){' !' * row['noisy']}",)
            + (f"{best['median']:.2f} ({row['best_rival']})",)
        )
    headers = (
        "discriminators",
        "what",
        "original, ms",
        "hifigan_fast, ms",
        "× the original",
        "× the best rival",
    )
    where = f"{result['processor']}, {result['threads']} threads, torch {result['versions']['torch']}, float32"
    caption = f"{where}, batch {result['batch']} × {result['segment']}; medians (and ranges) of {result['repeats']}"
    table = tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
    return f"{caption} interleaved\nrepeats ([all figures]({path.relative_to(ROOT)})):\n\n{table}\n"


def made(text):
    """README's text with the table of the newest run in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{section(newest())}{END}{rest.split(END, 1)[1]}"


def main():
    readme = ROOT / "README.md"
    readme.write_text(made(readme.read_text()))
    figures.save(report.load(newest()), ROOT / "docs" / "bench.png")


if __name__ == "__main__":
    main()

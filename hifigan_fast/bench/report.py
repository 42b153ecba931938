"""What a run's figures look like: a table, bars, one page, and beside another run's."""

import html
import io
import json
from pathlib import Path

from tabulate import tabulate

from ..version import __version__
from .steps import ORIGINAL, WAYS
from .timing import ADVICE

FORMAT = 2  # of bench.json
SHADES = {True: "Oranges", False: "Blues"}  # of bars: ours and PyTorch's
HEADERS = ("discriminators", "step", "way", "ms", "× original", "range", "× best rival", "of peak", "spread")


def _times(ratio):
    return f"{ratio['median']:.2f}" if ratio else ""


def _cells(row):
    """A row of the table; all cells are text."""
    where = row["ensemble"], row["step"], row["way"]
    if "error" in row:
        return *where, row["error"], *5 * ("",)
    original, best = row["over_original"], row["over_best"]
    loses = " (slower)" if best and best["median"] < 1 else ""
    return (
        *where,
        f"{row['ms']:.0f}",
        _times(original),
        "{:.2f}–{:.2f}".format(*original["range"]) if original else "",
        f"{_times(best)} {row['best_rival']}{loses}" if best else "",
        f"{row['of_peak']:.0%}" if row["of_peak"] else "",
        "?" if row["spread"] is None else f"{row['spread']:.0%}{' !' * row['noisy']}",
    )


def table(rows, tablefmt="simple"):
    """The rows as a table; with advice where one is noisy, as text."""
    text = tabulate([_cells(row) for row in rows], headers=HEADERS, tablefmt=tablefmt, disable_numparse=True)
    return f"{text}\n{ADVICE}" if tablefmt == "simple" and any(row.get("noisy") for row in rows) else text


def _bars(result):
    """The speed-ups over the original loop as bars with their ranges, noisy ones hatched: a figure of matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["speed"] if row.get("over_original") and row["way"] != ORIGINAL]
    groups = list(dict.fromkeys((row["ensemble"], row["step"]) for row in rows))
    ways = [way for way in WAYS if any(row["way"] == way for row in rows)]
    shades = {ours: iter(plt.get_cmap(name)([0.8, 0.6, 0.4, 0.25])) for ours, name in SHADES.items()}
    width = 0.84 / max(1, len(ways))
    fig, axes = plt.subplots(figsize=(max(6, 1.5 * len(groups)), 4.4), layout="constrained")
    for index, way in enumerate(ways):
        own = [(groups.index((row["ensemble"], row["step"])), row) for row in rows if row["way"] == way]
        ratios = [row["over_original"] for _, row in own]
        bars = axes.bar(
            [place + width * (index - (len(ways) - 1) / 2) for place, _ in own],
            [ratio["median"] for ratio in ratios],
            0.92 * width,
            yerr=list(zip(*((r["median"] - r["range"][0], r["range"][1] - r["median"]) for r in ratios))),
            ecolor="gray",
            capsize=2,
            label=way,
            color=next(shades[WAYS[way].ours]),
            hatch=["///" if row["noisy"] else "" for _, row in own],
            edgecolor="white",
        )
        if WAYS[way].ours:
            labels = [f"{row['over_original']['median']:.1f}{' !' * row['noisy']}" for _, row in own]
            axes.bar_label(bars, labels, fontsize=7, padding=1)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [f"{ensemble},\n{step}" for ensemble, step in groups])
    axes.set_ylabel("times faster than the original loop")
    axes.set_title(title(result), fontsize=10)
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if result["noise"]:
        axes.set_xlabel(result["noise"], color="firebrick", loc="left")
    return fig


def title(result):
    """What was measured where, in two lines."""
    shape = f"{result['what']}, batch {result['batch']} × {result['segment']}, {result['threads']} threads"
    return f"hifigan_fast {__version__} on {result['processor']}\n{shape}, {result['repeats']} repeats"


def figure(result, path):
    """The bars, written to `path`: PNG, SVG or whatever its suffix says that matplotlib knows."""
    import matplotlib.pyplot as plt

    fig = _bars(result)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _svg(result):
    """The bars as an SVG element whose text takes the page's font and colour."""
    import matplotlib.pyplot as plt

    fig, written = _bars(result), io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hifigan_fast"}):
        fig.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    svg = written.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; }}
svg {{ width: 100%; height: auto; min-width: 36rem; }} svg text {{ fill: currentColor; font-family: inherit; }}
pre {{ overflow-x: auto; padding: .6rem; background: #8882; }}
.noise {{ color: #c33; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{noise}
<div class="wide" role="img" aria-label="{alt}">{svg}</div>
<h2>Every way</h2>
<p>Medians of interleaved repeats. <i>× original</i>: the original loop's time by this one's; <i>× best rival</i>: the
fastest of PyTorch's own ways in the same dtype by ours; <i>of peak</i>: operations by the direct count against the
multiply-add peak that this machine reached in the same run, so that fast algorithms may exceed it; <i>spread</i>:
largest less smallest over the median, ! above 15%.</p>
<div class="wide">{table}</div>
<h2>Machine</h2>
<div class="wide">{machine}</div>
<h2>Again</h2>
<pre>{command}</pre>
</body>
</html>
"""


def headline(result):
    """The best of ours on the last ensemble, each step, in one line."""
    last = result["speed"][-1]["ensemble"] if result["speed"] else None
    best = {}
    for row in result["speed"]:
        counts = row["ensemble"] == last and row.get("over_best") and row["dtype"] == "float32"
        if counts and row["ms"] <= best.get(row["step"], row)["ms"]:
            best[row["step"]] = row
    said = [
        f"{step} {_times(row['over_original'])} × the original loop's speed, {_times(row['over_best'])} × the best "
        f"rival's ({row['best_rival']})"
        for step, row in best.items()
    ]
    return f"{last}: {'; '.join(said)}" if said else "nothing was measured"


def page(result, command):
    """The run as one HTML page that needs no other file."""
    versions = {f"{name} version": version for name, version in result["versions"].items() if version}
    ceilings = {f"measured {name}/s": f"{value:.0f}" for name, value in result["ceilings"].items() if value}
    facts = {key: result[key] for key in ("date", "commit", "processor", "threads", "repeats")} | ceilings | versions
    return PAGE.format(
        title=html.escape(title(result).replace("\n", ": ")),
        summary=html.escape(headline(result)),
        noise=f'<p class="noise">{html.escape(result["noise"])}</p>' if result["noise"] else "",
        alt=html.escape(headline(result), quote=True),
        svg=_svg(result) if result["speed"] else "",
        table=table(result["speed"], "html"),
        machine=tabulate(list(facts.items()), tablefmt="html", disable_numparse=True),
        command=html.escape(command),
    )


def load(path):
    """A bench.json; ValueError where it is not one of this format."""
    try:
        result = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"compare: {path} is not JSON: {error}") from None
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise ValueError(f"compare: expected a bench.json of format {FORMAT}, got {found} in {path}; measure again")
    return result


def compared(old, new):
    """Two runs' rows side by side as a table: what changed beyond both ranges is marked.

    On one processor by milliseconds; on two by the ratio to the original loop, which was timed beside each.
    """
    same = all(old[key] == new[key] for key in ("processor", "threads", "what", "batch", "segment"))
    key, unit = ("ms", "ms") if same else ("over_original", "× original")

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
        faster = (b[0] < a[0]) == same
        lines.append(
            (*where, f"{a[0]:.2f}", f"{b[0]:.2f}", f"{b[0] / a[0] - 1:+.1%}", ("slower", "faster")[faster] * apart)
        )
    lines += [(*where, f"{f[0]:.2f}" if f else "", "", "", "in one only") for where, f in before.items()]
    headers = (*HEADERS[:3], f"old, {unit}", f"new, {unit}", "change", "beyond both ranges")
    note = "" if same else "\nother machine, threads or shape: the ratios to each run's own original loop are compared"
    return tabulate(lines, headers=headers, disable_numparse=True) + note

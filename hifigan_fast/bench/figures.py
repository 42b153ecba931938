"""A run's figures by matplotlib: bars of the speed-ups, curves of how time grows."""

import io
import textwrap
from pathlib import Path

from . import report
from .steps import ORIGINAL, WAYS
from .timing import called

SHADES = {True: "Oranges", False: "Blues"}  # ours and PyTorch's
# Of an SVG that no page surrounds.
ALONE = """<style>svg { color: #111; font-family: sans-serif; } text { fill: currentColor; }
@media (prefers-color-scheme: dark) { svg { color: #eee; } }</style>"""
HEADING = 1.5  # bars that a step's heading is as high as


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _bars(result, heading):
    """The speed-ups over the original loop as bars with their ranges, noisy ones hatched: a figure of matplotlib.

    heading: whether it says what was measured, as a figure alone must.
    """
    plt = _pyplot()
    rows = [row for row in result["speed"] if row.get("over_original") and row["way"] != ORIGINAL]
    groups = list(dict.fromkeys((row["ensemble"], row["step"]) for row in rows))
    places = [index + HEADING * groups.index((row["ensemble"], row["step"])) for index, row in enumerate(rows)]
    ratios = [row["over_original"] for row in rows]
    fig, axes = plt.subplots(figsize=(6, 1.2 + 0.17 * (len(rows) + HEADING * len(groups))), layout="constrained")
    bars = axes.barh(
        places,
        [ratio["median"] for ratio in ratios],
        0.92,
        xerr=list(zip(*((r["median"] - r["range"][0], r["range"][1] - r["median"]) for r in ratios))),
        ecolor="gray",
        capsize=2,
        color=[plt.get_cmap(SHADES[WAYS[row["way"]].ours])(0.6) for row in rows],
        hatch=["///" if row["noisy"] else "" for row in rows],
        edgecolor="white",
    )
    labels = [f"{row['over_original']['median']:.1f}{' !' * row['noisy']}" for row in rows]
    axes.bar_label(bars, labels, fontsize=8, padding=2)
    axes.axvline(1, color="gray", linewidth=0.8)
    starts = [places[[(row["ensemble"], row["step"]) for row in rows].index(group)] for group in groups]
    names = [*map(called, rows), *map(", ".join, groups)]
    axes.set_yticks([*places, *(start - 1 for start in starts)], names, fontsize=8)
    for name in axes.get_yticklabels()[len(rows) :]:
        name.set_fontweight("bold")
    axes.set_ylim(len(rows) + HEADING * (len(groups) - 1) - 0.4, -HEADING - 0.4)  # the first on top
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.set_xlabel("× the original loop's speed (orange: ours)", loc="left")
    if heading:
        noise = f"\n{textwrap.fill(result['noise'], 80)}" if result["noise"] else ""
        fig.suptitle(report.title(result) + noise, x=0.01, ha="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return fig


def _curves(curve):
    """Time along one axis, ours and the original loop's, in logarithms."""
    plt = _pyplot()
    from matplotlib import ticker

    fig, axes = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    for way, of in curve["ways"].items():
        colour = plt.get_cmap(SHADES[WAYS[way].ours])(0.8)
        grows = "" if of["exponent"] is None else f", exponent {of['exponent']:.2f}"
        axes.loglog(of["at"], of["ms"], "o-", color=colour, label=f"{way}{grows}")
        axes.fill_between(of["at"], *zip(*of["ms_range"]), color=colour, alpha=0.2, linewidth=0)
        axes.set_xticks(of["at"], [str(value) for value in of["at"]], fontsize=9)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel(f"{curve['over']} ({curve['ensemble']})")
    axes.set_ylabel("ms, both halves of a step")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return fig


def save(result, path):
    """The bars, written to `path`: a PNG, or an SVG that a dark page shows light on dark."""
    fig = _bars(result, heading=True)
    if Path(path).suffix == ".svg":
        opening, rest = _svg(fig).split(">", 1)
        Path(path).write_text(f"{opening}>{ALONE}{rest}", encoding="utf-8")
    else:
        fig.savefig(path, dpi=150)
        _pyplot().close(fig)


def _svg(fig):
    """A figure as an SVG element whose text takes the page's font and colour."""
    plt, written = _pyplot(), io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hifigan_fast"}):
        fig.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    svg = written.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")


def bars_svg(result):
    """The bars as an SVG element."""
    return _svg(_bars(result, heading=False))


def curve_svg(curve):
    """A curve of `scaling` as an SVG element."""
    return _svg(_curves(curve))

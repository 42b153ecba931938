"""The part of a page that is made of results, between two lines of it, and the look of the figures."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hifigan_fast.extras import require

from . import bands, clips, results
from .runs import Plan

DOCS = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- made of docs/studies/results: begin -->\n", "<!-- end -->\n"
DISTANCES = {"mel_error": "mel error", "stft": "STFT distance"}
LESS = ("held-out", "training")  # clips, on which a way's mel error is compared with a standard's
MEASURES = DISTANCES | {"pesq": "PESQ"}  # which only a run's last probe has
TF32 = " float32 is TF32 in all convolutions there, ours and PyTorch's: its default on a GPU."


def with_section(text: str, section: str) -> str:
    """A page's text with `section` between its two lines. ValueError where it lacks them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the line {BEGIN.strip()!r} or {END.strip()!r} after it; put both back")
    return f"{before}{BEGIN}{section}{END}{after}"


def write(page: Path, section: str) -> None:
    """Put `section` into a page."""
    page.write_text(with_section(page.read_text(encoding="utf-8"), section), encoding="utf-8")


def canvas(columns: int) -> tuple[Any, Any]:
    """A figure and its axes side by side, on white: readable on dark pages, too."""
    require("drawing", "studies", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4), layout="constrained")
    return figure, figure.subplots(1, columns)


def absent(axes: Any, title: str, text: str) -> None:
    """Axes that say what is missing instead of a curve."""
    axes.set(title=title, xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color="0.35", transform=axes.transAxes)


def save(figure: Any, name: str) -> None:
    """Write a figure beside the pages."""
    figure.savefig(DOCS / name, dpi=100)


def arguments(description: str) -> argparse.Namespace:
    """The flags of a script that measures what takes minutes and draws its page."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    clips.add_arguments(parser)
    return parser.parse_args()


def made(plan: Plan, found: dict[str, dict[str, Any]], wanted: Sequence[Any]) -> str:
    """In a line: which of the runs there are, what they are, and where and when they were made."""
    how = results.missing(found, wanted)
    conditions = [found[run.name]["conditions"] for run in wanted if run.name in found]
    if not conditions:
        return f"{how}."
    size = f"{plan.config.upper()}, batch {plan.batch_size} × {plan.segment_size}, {plan.steps} steps"
    return f"{size}; {where(conditions)}; {how}.{TF32 if any(map(_gpu, conditions)) else ''}"


def ends(found: Sequence[dict[str, Any]], measures: Iterable[str]) -> list[str]:
    """Each of `measures` by the last probe of each result."""
    last = [result["probes"][-1] for result in found]
    return [", ".join("–" if own[name] is None else f"{own[name]:.3f}" for own in last) for name in measures]


def less(found: dict[int, dict[str, Any]], standard: dict[int, dict[str, Any]]) -> list[str]:
    """`bands.difference` of runs by seed in each of `LESS`; nothing of the standard itself."""
    if found is standard:
        return [""] * len(LESS)
    return [
        bands.difference(*({seed: settled(result, of) for seed, result in own.items()} for own in (found, standard)))
        for of in LESS
    ]


def settled(result: dict[str, Any], of: str) -> float:
    """The mel error of a run's second half: of "held-out" clips by its probes, of "training" batches by its curve."""
    curve, probes = result["curve"], result["probes"]
    points = zip(curve["step"], curve["mel_error"])
    if of == "held-out":
        points = ((probe["step"], probe["mel_error"]) for probe in probes)
    return fmean(error for step, error in points if 2 * step > curve["step"][-1])


def where(conditions: Sequence[dict[str, Any]]) -> str:
    """The machines that made results, in a line, and from when to when."""
    machines = "; ".join(dict.fromkeys(map(_machine, conditions)))
    dates = sorted({own["date"][:10] for own in conditions})
    return f"{machines}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"


def _machine(conditions):
    versions, gpu, threads = conditions["versions"], _gpu(conditions), conditions["threads"]
    if gpu:
        device = f"{gpu}, Triton {versions['triton']}"
    else:
        device = f"{conditions['processor']}, {threads} thread{'s' * (threads > 1)}"
    return f"{device}, torch {versions['torch']}"


def _gpu(conditions):
    """The GPU's name; None of a CPU, which the oldest results do not call the device."""
    device = conditions.get("device")
    return None if device == conditions["processor"] else device

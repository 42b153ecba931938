"""The part of a page that is made of results, between two lines of it, and the look of the figures."""

import argparse
from pathlib import Path
from typing import Any

from hifigan_fast.extras import require

DOCS = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- made of docs/studies/results: begin -->\n", "<!-- end -->\n"


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
    parser.add_argument(
        "--data", metavar="DIR", help="folder of wavs; default: real speech where it is, else synthetic"
    )
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/studies"), help="of checkpoints; default %(default)s"
    )
    return parser.parse_args()


def where(conditions: dict[str, Any]) -> str:
    """A result's conditions in a line."""
    versions = conditions["versions"]
    threads = f"{conditions['threads']} thread{'s' * (conditions['threads'] > 1)}"
    return f"{conditions['processor']}, {threads}, torch {versions['torch']}, {conditions['date'][:10]}"

"""The report as a browser shows it: at a phone's and a desktop's width, light and dark. Skipped where none is found."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from hifigan_fast.bench import page, report, scaling, timing
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS, WAYS

from . import conftest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
MACS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {"phone": 360, "desktop": 1280}

# What a page looks like from inside: whether it scrolls sideways, what is cut off, which colours it has.
SEEN = """
const seen = {};
for (const frame of document.querySelectorAll("iframe")) {
  const inner = frame.contentWindow, root = inner.document.documentElement, of = (x) => inner.getComputedStyle(x);
  const boxes = [...root.querySelectorAll("svg, p, h1, pre, .wide")].map((x) => x.getBoundingClientRect());
  seen[frame.id] = {
    width: root.clientWidth,
    scrolls: root.scrollWidth,
    right: Math.max(...boxes.map((box) => box.right)),
    flat: boxes.filter((box) => box.height < 10).length,
    dark: inner.matchMedia("(prefers-color-scheme: dark)").matches,
    ink: of(inner.document.body).color,
    figures: [...root.querySelectorAll("svg text")].map((x) => of(x).fill),
    sizes: [...root.querySelectorAll("svg text")].map((x) => x.getBoundingClientRect().height),
    cut: [...root.querySelectorAll("svg text")].filter((x) => {
      const box = x.getBoundingClientRect(), whole = x.closest("svg").getBoundingClientRect();
      return box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 1;
    }).map((x) => x.textContent),
    unnamed: [...root.querySelectorAll("svg")].filter((x) => !x.closest("[role=img][aria-label]")).length,
  };
}
const told = document.createElement("pre");
told.id = "told";
told.textContent = JSON.stringify(seen);
document.body.append(told);
"""


def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None) or (str(MACS) if MACS.exists() else None)
    if found is None:
        pytest.skip(f"no browser, none of {', '.join(BROWSERS)}: install Chromium or Chrome to run it")
    return found


def looked_at(text, folder):
    """{width, scheme: what is seen of a page there}."""
    frames = [
        f'<iframe id="{name} {scheme}" style="width: {width}px; height: 900px; color-scheme: {scheme}" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>'
        for name, width in WIDTHS.items()
        for scheme in ("light", "dark")
    ]
    wrapper = folder / "wrapper.html"
    script = f"<script>window.onload = () => {{{SEEN}}}</script>"
    wrapper.write_text(f"<!DOCTYPE html>{script}<body>{''.join(frames)}</body>", encoding="utf-8")
    flags = ["--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    flags += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    done = subprocess.run([browser(), *flags, "--dump-dom", str(wrapper)], capture_output=True, timeout=300)
    told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout.decode("utf-8", errors="replace"))
    assert told, done.stderr.decode("utf-8", errors="replace")[-2000:]
    return json.loads(html.unescape(told[1]))


PARITY = {
    "float32": {"mpd": {"cpu": {"maps": (1.25, "real, discriminators.0, map 1"), "logits": (1.0, "real 0")}}},
    "tf32": {"msd": {"triton": {"maps": (1.0, "real, discriminators.2, map 3"), "logits": (None, "real 0")}}},
}


def made_up():
    """A result of every way, one of them failed, one noisy, with curves."""
    rows = []
    for ensemble in ("mpd", "msd", "both"):
        for step in (DISCRIMINATOR, GENERATOR, "training step V1"):
            ways = {name: way for name, way in WAYS.items() if way.does(step) and not way.needs_cuda}
            times = {name: [9.0, *(s * (1 if way.ours else 2.5) for s in (1.0, 1.3))] for name, way in ways.items()}
            found = timing.rows_of(times, {"compile": "RuntimeError: no compiler was found on this machine"})
            for row in found:
                row |= {"ensemble": ensemble, "step": step, "of_floor": 0.5, "peak_mib": 900.0}
                row["backend"] = "modules" if WAYS[row["way"]].ours else None
            rows += found
    at, curves = [1, 2, 4, 8, 16], []
    for over in ("batch", "segment", "periods", "threads"):
        ways = {}
        for name, times in ((ORIGINAL, 900), (OURS, 400)):
            ms = [times * value for value in at]
            ways[name] = {"at": at, "ms": ms, "ms_range": [[0.9 * m, 1.1 * m] for m in ms]}
            ways[name]["exponent"] = scaling.exponent(at, ms)
        curves.append({"over": over, "ensemble": "both", "ways": ways, "left_out": [32, 64]})
    return {
        "format": report.FORMAT,
        **{"date": "2026-01-01", "commit": "0" * 7, "device": "A Processor Of A Long Name 9999 96-Core Processor"},
        **{"processor": "A Processor Of A Long Name 9999 96-Core Processor", "threads": 96, "repeats": 2},
        **{"instruction_set": "avx512bf16", "load": [1.5, 1.25, 1.0], "waveforms": "synthetic voice"},
        "versions": {"hifigan_fast": "0.0.9", "torch": "2.13.0+cpu", "triton": None},
        "ceilings": {"gflops": {"float32": 400.0}, "gbytes": 30.0},
        **{"workload": "hifigan", "what": "HiFi-GAN's MPD and MSD", "batch": 4, "segment": 8192},
        **{"parity": PARITY, "speed": rows, "scaling": curves, "noise": timing.ADVICE},
    }


def test_a_browser_shows_the_report(tmp_path):
    seen = looked_at(page.page(made_up(), "hifigan-fast bench --full " + "--scaling " * 20), tmp_path)
    assert len(seen) == 4
    for where, one in seen.items():
        assert one["scrolls"] <= one["width"] and one["right"] <= one["width"], where
        assert one["flat"] == one["unnamed"] == 0 and one["cut"] == [] and len(one["figures"]) > 50, where
        assert one["dark"] == ("dark" in where) and set(one["figures"]) == {one["ink"]}, where
        red, green, blue = map(int, re.findall(r"\d+", one["ink"])[:3])
        assert min(red, green, blue) > 200 if one["dark"] else max(red, green, blue) < 60, where
        assert min(one["sizes"]) > (8 if "desktop" in where else 5), where


def test_the_report_says_what_a_sceptic_asks():
    """Of parity what was judged and how; of a row what ran it, its range and its first call; of the machine what else
    it did."""
    text = page.page(made_up(), "hifigan-fast bench")
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in text.splitlines()]
    shown = [[html.unescape(re.sub("<.*?>", "", cell)).strip() for cell in line] for line in cells if line]
    assert ["float32", "mpd", "cpu", "1.25", "maps: real, discriminators.0, map 1", "ok"] in shown
    assert ["tf32", "msd", "triton", "not finite", "logits: real 0", "FAIL, not timed"] in shown
    (ours,) = [line for line in shown if line[:3] == ["both", GENERATOR, f"{OURS} (plain PyTorch)"]]
    assert ours[3:6] == ["1150", "1000–1300", "9"] and ours[-1].endswith(" !")
    assert ["load average, 1, 5 and 15 minutes before", "1.5, 1.25, 1.0"] in shown
    assert ["instruction set", "avx512bf16"] in shown and ["waveforms", "synthetic voice"] in shown
    (summary,) = re.findall(r"</h1>\s*<p>(.*?)</p>", text)
    assert "2.50 × (2.50–2.50) the original loop&#x27;s speed" in summary and " !" in summary
    assert "hifigan_fast 0.0.9 on" in text  # the run's version, not this one's


@pytest.mark.parametrize("name", ["bench.svg", "how.svg"])
def test_readmes_pictures_have_room_for_their_words(name, tmp_path):
    """In a browser's own fonts, in both schemes."""
    picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for where, one in looked_at(f'<!DOCTYPE html><div role="img" aria-label="it">{picture}</div>', tmp_path).items():
        assert one["cut"] == [] and len(one["figures"]) > 10, where
        red = int(re.findall(r"\d+", one["figures"][0])[0])
        assert red > 200 if one["dark"] else red < 60, where


def test_no_browser_is_told_with_its_cure(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(pytest.skip.Exception, match="no browser, none of .*: install Chromium or Chrome") as skipped:
        browser()
    reports = [SimpleNamespace(longrepr=("a.py", 1, f"Skipped: {skipped.value}"))] * 2
    lines = []
    conftest.pytest_terminal_summary(SimpleNamespace(stats={"skipped": reports}, write_line=lines.append))
    assert lines == [f"2 skipped: {skipped.value}"]


@pytest.mark.parametrize("planted", [".wide {{ overflow-x: auto; }}", "svg text {{ fill: currentColor;"])
def test_a_page_that_is_wrong_is_seen(planted, tmp_path, monkeypatch):
    assert planted in page.PAGE
    monkeypatch.setattr(page, "PAGE", page.PAGE.replace(planted, planted.split("{{")[0] + "{{ "))
    with pytest.raises(AssertionError):
        test_a_browser_shows_the_report(tmp_path)

"""README's table and figure are those of the kept runs, and say where ours loses."""

import json
from collections import Counter
from xml.etree import ElementTree

from benchmarks import readme
from hifigan_fast.bench import report, timing
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS


def test_readmes_figures_are_those_of_the_newest_run():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.made(text) == text, "make readme-figures"
    drawn = Counter(t.text for t in ElementTree.parse(readme.FIGURE).iter("{http://www.w3.org/2000/svg}text"))
    rows = readme.drawn()["speed"]
    bars = [row for row in rows if row.get("over_original") and row["way"] != ORIGINAL]
    told = Counter(f"{row['over_original']['median']:.1f}{' !' * row['noisy']}" for row in bars)
    assert bars and not told - drawn, "make readme-figures"


def run(date, factor, **changes):
    """A run whose original loop takes a second: ours takes `factor` of it, frozen discriminators 0.6."""
    rows = []
    for step, ways in ((DISCRIMINATOR, (ORIGINAL, OURS)), (GENERATOR, (ORIGINAL, "frozen", OURS))):
        taken = {ORIGINAL: 1.0, "frozen": 0.6, OURS: factor}
        found = timing.rows_of({way: [9.0, taken[way], taken[way]] for way in ways}, {})
        held = {ORIGINAL: 1000.0, "frozen": 800.0, OURS: 400.0}
        rows += [{"ensemble": "both", "step": step, "peak_mib": held[row["way"]], **row} for row in found]
    return {
        **{"format": report.FORMAT, "date": date, "commit": "a", "device": "one", "processor": "one", "threads": 2},
        **{
            "workload": "hifigan",
            "what": "it",
            "batch": 4,
            "segment": 8192,
            "repeats": 2,
            "versions": {"torch": "2"},
            "speed": rows,
        },
        **changes,
    }


def kept(folder, monkeypatch, *runs):
    monkeypatch.setattr(readme, "ROOT", folder)
    results = folder / "benchmarks" / "results"
    results.mkdir(parents=True)
    for index, one in enumerate(runs):
        (results / f"{index}.json").write_text(json.dumps(one))
    return "\n".join(map(readme.section, readme.newest()))


def test_runs_of_one_commit_and_machine_are_taken_together(tmp_path, monkeypatch):
    others = (
        run("2026-01-09", 0.1, commit="b"),
        run("2026-02-09", 0.1, workload="vits"),
        run("2026-01-01", 0.1, device="two"),
        {"layers": []},
    )
    mine = run("2026-02-03", 0.5), run("2026-02-01", 0.25), run("2026-02-02", 0.4)
    text = kept(tmp_path, monkeypatch, *others, *mine)
    assert "medians of 3 runs (and their range)" in text and "2026-02-03" in text
    assert "| both             | generator step     | float32 | 1000           | 400 " in text
    assert "2.50 (2.00–4.00)" in text and "1.50 (frozen)" in text and "| 0.50 " in text and "| 0.40 " in text
    assert "None of ours was slower" in text


def test_losses_are_said(tmp_path, monkeypatch):
    text = kept(tmp_path, monkeypatch, run("2026-02-03", 0.8))
    assert "Slower than the best rival: both, generator step, hifigan_fast: 0.75 × (0.75–0.75)." in text
    assert "medians (and ranges) of 2 interleaved repeats" in text


def test_a_gpus_runs_come_first_and_apart(tmp_path, monkeypatch):
    text = kept(tmp_path, monkeypatch, run("2026-02-03", 0.5), run("2026-02-02", 0.25, device="a GPU"))
    assert text.index("a GPU, torch 2,") < text.index("one, 2 threads, torch 2,")
    assert readme.drawn()["device"] == "a GPU"

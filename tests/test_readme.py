"""README's table and figure are those of the kept runs, and say where ours loses."""

import json
import re
from collections import Counter
from xml.etree import ElementTree

import pytest

from benchmarks import readme
from hifigan_fast.bench import report, timing
from hifigan_fast.bench.steps import DISCRIMINATOR, GENERATOR, ORIGINAL, OURS, STEP_LOSSES, WAYS


def test_readmes_figures_are_those_of_the_newest_run():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.made(text) == text, "make readme-figures"
    drawn = Counter(t.text for t in ElementTree.parse(readme.FIGURE).iter("{http://www.w3.org/2000/svg}text"))
    rows = readme.drawn()["speed"]
    bars = [row for row in rows if row.get("over_original") and row["way"] != ORIGINAL]
    told = Counter(f"{row['over_original']['median']:.1f}{' !' * row['noisy']}" for row in bars)
    assert bars and not told - drawn, "make readme-figures"


def test_readmes_columns_divide_to_its_ratios():
    """To the rounding of milliseconds."""
    lines = [line.split("|")[1:-1] for line in readme.tables().splitlines() if line.startswith("| ")]
    lines = [line for line in lines if line[0].strip() != readme.HEADERS[0]]
    assert len(lines) == 11 + 6  # a GPU's and a CPU's
    for _, _, _, original, ours, ratio, *_ in lines:
        found, low, high = map(float, re.match(r" ([0-9.]+) \(([0-9.]+)–([0-9.]+)\)", ratio).groups())
        digits = 0.5 * 10 ** -len(original.strip().partition(".")[2])  # an original of 146 ms may be of 146.4
        assert (
            abs(float(original) / float(ours) / found - 1) < 0.003 + digits / float(original) and low <= found <= high
        )


def test_readmes_links_lead_somewhere():
    """To a file and, where they name one, to its heading; each limit has one."""
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    limits = text.split("## Limits\n\n")[1].split("\n\n")[0].split("\n- ")
    assert len(limits) == 10 and all("](docs/" in limit for limit in limits)
    for path, anchor in re.findall(r"\]\((?!http)([^)#]+)#?([^)]*)\)", text):
        assert (readme.ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)", (readme.ROOT / path).read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", of.lower()).replace(" ", "-") for of in headings], anchor


@pytest.mark.parametrize("path", sorted((readme.ROOT / "benchmarks" / "results").rglob("*.json")), ids=lambda p: p.stem)
def test_a_kept_file_says_when_where_and_of_what_it_is(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert re.match(r"2\d{3}-\d\d-\d\d", kept["date"]) and re.fullmatch("[0-9a-f]{7,}", kept["commit"])
    assert kept["device"] and kept["processor"] and {"hifigan_fast", "torch"} <= kept["versions"].keys()


H200 = json.loads((readme.ROOT / "benchmarks" / "results" / "rivals-h200-2026-11-26.json").read_text(encoding="utf-8"))
WAYS_TIMED = (ORIGINAL, "graph", "bf16", "bf16_graph", f"{OURS} bf16", f"{OURS} bf16_graph")


def test_the_gpus_figures_are_those_of_its_file():
    """Each cell, and how many times the best of PyTorch's ways ours is."""
    text = (readme.ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    lines = dict(re.findall(rf"^\| ({DISCRIMINATOR}|{GENERATOR}) \|(.*)\|$", text, re.M))
    said = []
    for step in (DISCRIMINATOR, GENERATOR):
        ms = {row["way"]: row["ms"] for row in H200["rivals"] if row["step"] == step}
        best = min(of for way, of in ms.items() if not WAYS[way].ours) / ms[WAYS_TIMED[-1]]
        said.append(f"{best:.1f}")
        for cell, way in zip(lines[step].split("|"), WAYS_TIMED, strict=True):
            found = re.match(r" \**([0-9.]+)", cell)
            assert (found and abs(float(found[1]) - ms[way]) <= 0.051) if way in ms else "not measured" in cell, way
    assert f"Ours is {said[0]} and {said[1]} × as fast as the best" in text


def test_the_figures_of_all_ways_are_those_of_the_file():
    """Milliseconds, times the original loop, memory; and exponents."""
    text = (readme.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    folder = readme.ROOT / "benchmarks" / "results" / "elsewhere"
    kept = json.loads((folder / "cpu-2c-avx512-full-2026-11-27-2.json").read_text(encoding="utf-8"))
    ways = {"torch.compile": "compile", "bf16 autocast": "bf16", "ours": OURS, "ours, step losses": STEP_LOSSES}
    ways |= {"ours, bf16 autocast": f"{OURS} bf16"} | {name: name for name in (ORIGINAL, "frozen", "channels_last")}
    rows = {(row["step"], row["way"]): row for row in kept["speed"] if row["ensemble"] == "both"}
    table = text.split("| both ensembles, batch 4 × 8192 |")[1].split("\n\n")[0]
    head, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in f"| |{table}".splitlines())
    assert len(lines) == len(ways)
    for way, *cells in lines:
        for step, cell in zip(head[1:], cells, strict=True):
            row = rows.get((step, ways[way]))
            times = f"{row['over_original']['median']:.2f} ×, " if row and way != ORIGINAL else ""
            assert cell == (f"{row['ms']:.0f}, {times}{row['peak_mib']:.0f} MiB" if row else ""), way
    for curve in kept["scaling"]:
        for of in curve["ways"].values():
            grown = f"{curve['over']}^{of['exponent']:.2f}, {of['ms'][0]:.0f} to {of['ms'][-1]:.0f} ms"
            assert grown.replace("^-", "^−") in text


def test_what_the_runs_differ_by_is_as_docs_have_it():
    text = (readme.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    *_, runs = readme.newest()
    lines = re.findall(r"^\| (MPD|MSD|both), (\w+ step) \| (\d+)–(\d+) \| (\d+)–(\d+) \|$", text, re.M)
    assert len(lines) == 4 and len(runs) == 5
    for ensemble, step, *figures in lines:
        rows = [row for run in runs.values() for row in run["speed"] if row["step"] == step]
        of = {
            way: [r["ms"] for r in rows if (r["ensemble"], r["way"]) == (ensemble.lower(), way)]
            for way in (ORIGINAL, OURS)
        }
        assert [round(end(of[way])) for way in (ORIGINAL, OURS) for end in (min, max)] == list(map(int, figures))


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
            "versions": {"hifigan_fast": "0", "torch": "2"},
            "noise": None,
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
    return readme.tables()


def test_runs_of_one_commit_and_machine_are_taken_together(tmp_path, monkeypatch):
    others = (
        run("2026-01-09", 0.1, commit="b"),
        run("2026-02-09", 0.1, workload="vits"),
        run("2026-01-01", 0.1, device="two"),
        {"layers": []},
    )
    mine = run("2026-02-03", 0.5), run("2026-02-01", 0.25), run("2026-02-02", 0.4)
    text = kept(tmp_path, monkeypatch, *others, *mine)
    assert "medians over 3 runs of 2 interleaved repeats each ([all figures](benchmarks/results))" in text
    assert "2026-02-03" in text
    assert "| both             | generator step     | float32 | 1000           | 400 " in text
    assert "2.50 (2.00–4.00)" in text and "1.50 (frozen)" in text and "| 0.50 " in text and "| 0.40 " in text
    assert "discriminator step: original; generator step: original, frozen.\n\nNone of them was faster." in text


def test_losses_are_said(tmp_path, monkeypatch):
    text = kept(tmp_path, monkeypatch, run("2026-02-03", 0.8))
    assert "Ours is slower than the best of them here: hifigan_fast: both, generator step 0.75 × (0.75–0.75)." in text
    assert "medians of 2 interleaved repeats ([all figures](benchmarks/results/0.json))" in text


def test_a_gpus_runs_come_first_and_apart(tmp_path, monkeypatch):
    text = kept(tmp_path, monkeypatch, run("2026-02-03", 0.5), run("2026-02-02", 0.25, device="a GPU"))
    assert text.index("a GPU, torch 2,") < text.index("one, 2 threads, torch 2,")
    assert readme.drawn()["device"] == "a GPU"


def test_ratios_are_of_the_medians_over_runs_and_so_are_the_bars(tmp_path, monkeypatch):
    """A run's own ratio pairs its repeats; which rival is the best the runs say together."""
    slow, mine = run("2026-02-03", 0.5), [run("2026-02-01", 0.25), run("2026-02-02", 0.4)]
    for row in slow["speed"]:
        row["ms"] *= 3 if row["way"] == ORIGINAL else 1
    text = kept(tmp_path, monkeypatch, slow, *mine)
    assert "| 1000           | 400 " in text and "2.50 (2.50–6.00) !" in text
    drawn = readme.drawn()
    assert drawn["runs"] == 3 and "runs: 3" in report.title(drawn) and drawn["noise"] == readme.NOISE
    assert {row["over_original"]["median"] for row in drawn["speed"] if row["way"] == OURS} == {2.5}


def test_what_failed_has_no_ratio(tmp_path, monkeypatch):
    """The original loop, or all of PyTorch's ways in ours' arithmetic."""
    without = run("2026-02-03", 0.5)
    without["speed"] = [
        {key: row[key] for key in ("ensemble", "step", "way", "dtype")} | {"error": "no memory"}
        if row["way"] == ORIGINAL
        else row | {"over_original": None, "best_rival": row["best_rival"] and None, "over_best": None}
        for row in without["speed"]
        if row["step"] == DISCRIMINATOR
    ]
    text = kept(tmp_path, monkeypatch, without)
    assert re.search(r"float32 \| failed +\| 500 +\| +\| +\|", text) and "No rival was measured." in text


def test_another_runs_table_is_printed(tmp_path, capsys):
    (tmp_path / "one.json").write_text(json.dumps(run("2026-02-03", 0.5)))
    assert readme.main([str(tmp_path / "one.json")]) == 0 and "| 500 " in capsys.readouterr().out
    assert readme.main([str(tmp_path / "two.json")]) == 2 and "there is no" in capsys.readouterr().err


def test_a_rival_that_failed_is_told_beside_the_best_of_the_others(tmp_path, monkeypatch):
    failed = run("2026-02-03", 0.5)
    for row in failed["speed"]:
        if row["way"] == "frozen":
            row.pop("ms")
            row["error"] = "CUDA error: no"
    text = kept(tmp_path, monkeypatch, failed)
    assert "2.00 (original; frozen failed)" in text
    assert "None of them was faster.\n\nNot measured: frozen (generator step of both): CUDA error: no." in text

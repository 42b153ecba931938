"""hifigan-fast bench on a GPU: every way gives a time, its fraction of the floor and its memory."""

import json

import pytest

from hifigan_fast.bench.steps import STEPS, WAYS, asked_ways
from hifigan_fast.cli import main


def test_every_way_is_measured(tmp_path):
    for library in ("librosa", "matplotlib", "tqdm"):
        pytest.importorskip(library)
    flags = ["--batch-size", "2", "--segment", "2048", "--repeats", "2", "--steps", "discriminator", "generator", "v3"]
    assert main(["bench", "--out", str(tmp_path), *flags, "--scaling", "1"]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert not [row for row in result["speed"] if "error" in row]
    assert all(row["ms"] > 0 and row["of_floor"] > 0 for row in result["speed"])
    assert all((row["peak_mib"] is None) == WAYS[row["way"]].graph for row in result["speed"])
    steps = [STEPS[name] for name in ("discriminator", "generator", "v3")]
    expected = {
        (step, name) for step in steps for name, way in asked_ways(None, False, "cuda").items() if way.does(step)
    }
    assert {(row["step"], row["way"]) for row in result["speed"]} == expected
    assert {curve["over"] for curve in result["scaling"]} == {"batch", "segment", "periods"}
    assert (tmp_path / "report.html").exists()

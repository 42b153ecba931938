"""The table of a GPU benchmark's figures; the figures here are made up."""

import json

from benchmarks import gpu


def row(contender, ms=None, graph=False, **others):
    found = {"workload": "HiFi-GAN", "step": "forward", "contender": contender, "graph": graph, **others}
    return found if ms is None else {**found, "ms": ms}


def test_the_table_compares_ours_with_the_loop_and_the_fastest_rival(tmp_path, capsys):
    file = tmp_path / "run.json"
    rows = [
        row("eager", 12.0),
        row("eager", 8.0, graph=True),
        row("torch.compile default", error="RuntimeError: no"),
        row("hifigan_fast", 4.0),
        row("hifigan_fast, autocast bfloat16", 2.0, graph=True),
    ]
    file.write_text(json.dumps({"device": "a device", "parity": {}, "rows": rows}))
    assert gpu.main(["--table", str(file)]) == 0
    device, _, _, _, line = capsys.readouterr().out.strip().splitlines()
    assert device == "a device"
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("HiFi-GAN", "forward", "12.00", "eager, graph", "8.00"),
        *("hifigan_fast, autocast bfloat16, graph", "2.00", "6.00 ×", "4.00 ×"),
    ]


def test_a_contender_that_failed_everywhere_leaves_a_gap(tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(
        json.dumps({"device": "a device", "parity": {}, "rows": [row("eager", 12.0), row("hifigan_fast", error="no")]})
    )
    assert gpu.main(["--table", str(file)]) == 0
    assert "nan" in capsys.readouterr().out


def test_another_file_is_refused(tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"device": "cpu"}))
    assert gpu.main(["--table", str(file)]) == 2
    assert "--table: expected a file that this command wrote" in capsys.readouterr().err
    assert gpu.main(["--table", str(tmp_path / "none.json")]) == 2

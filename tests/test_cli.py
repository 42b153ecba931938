"""hifigan-fast bench | check | info, by subprocess (train: tests/training)."""

import json
import subprocess
import sys

import pytest

from hifigan_fast import bench, parity
from hifigan_fast.cli import main

from .conftest import SPEECH


def cli(*args, cwd=None):
    command = [sys.executable, "-m", "hifigan_fast.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_info():
    done = cli("info")
    assert done.returncode == 0
    for expected in ("hifigan_fast", "torch", "C++ extension", "backend cpu", "backend reference", "CUDA"):
        assert expected in done.stdout


def test_check_prints_the_worst_ratio_of_each_class():
    done = cli("check", "--segment", 400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parity ok" in done.stdout
    kinds = (
        "logits",
        "maps",
        "losses",
        "waveform gradients",
        "weight gradients",
        "bias gradients",
        "magnitude gradients",
    )
    assert all(f" {kind} " in done.stdout for kind in kinds)


def test_bench_prints_a_table_and_writes_json_and_png(tmp_path):
    data = ["--data", SPEECH] if SPEECH.is_dir() else []
    done = cli("bench", "--batch-size", 1, "--segment", 400, "--repeats", 1, "--out", tmp_path / "out", *data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "speed-up" in done.stdout
    result = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert len(result["speed"]) == 12 and all(row["speedup"] > 0 for row in result["speed"])
    assert result["versions"]["torch"] and result["parity"]["msd"]
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_no_speed_is_printed_when_parity_is_red(tmp_path, monkeypatch, capsys):
    red = parity.Verdict({"maps": (parity.LIMIT + 0.01, "real 0.1")})
    green = parity.Verdict({"maps": (parity.LIMIT - 0.01, "real 0.1")})
    monkeypatch.setattr(parity, "check", lambda **_: {"mpd": {"cpu": green}, "msd": {"cpu": red}})
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured although parity is red"))
    assert bench.run(out=tmp_path) == 1
    assert "parity FAILED" in capsys.readouterr().out
    assert not (tmp_path / "bench.json").exists()


@pytest.mark.parametrize("command", [[], ["train"], ["bench"], ["check"], ["info"]])
def test_help_has_examples(command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert not command or "examples:" in done.stdout


@pytest.mark.parametrize(
    "args, expected",
    [
        (["bench", "--data", "/no/such/folder"], "error: data: expected a folder of wavs"),
        (["bench", "--repeats", "0"], "expected at least 1, got 0"),
        (["check", "--segment", "many"], "invalid"),
        (["check", "--segment", "3"], "error: y: 3 samples are too few for period"),
        (["nonsense"], "invalid choice"),
        ([], "required"),
    ],
)
def test_user_errors_exit_2_with_one_message(args, expected):
    done = cli(*args)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_bench_says_what_to_install_before_it_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--data", "nowhere"]) == 2
    assert "needs matplotlib: pip install 'hifigan-fast[bench]'" in capsys.readouterr().err

"""`hifigan-fast train` as its users start it, with the real discriminators."""

import subprocess
import sys

import pytest

from hifigan_fast import cli, extras
from hifigan_fast.bench import gate
from hifigan_fast.training import config, loop

from .conftest import ROOT
from .test_checkpoint import load
from .test_distributed import TWO, assert_same_gradients

CLI = ("-m", "hifigan_fast.cli", "train")


@pytest.fixture
def finished(start):
    """Runs a command to its end: exit status, output, errors."""

    def run(*args, **changes):
        process = start(*args, script=CLI, **changes)
        output, errors = process.communicate(timeout=1800)
        return process.returncode, output, errors

    return run


def test_train(out, finished):
    status, output, errors = finished(out, steps=1, batch_size=2)
    assert status == 0, errors
    assert f"step 1 of 1: finished; checkpoints in {out}" in output and "s/step, D " in errors
    assert {p.name for p in out.iterdir()} == {"g_00000001", "do_00000001", "config.json", "metrics.jsonl", "logs"}


@pytest.mark.exhaustive  # every day with discriminators of few channels: `test_distributed`
def test_train_alone_and_as_two_processes(out, finished):
    alone, together = out / "alone", out / "together"
    status, _, errors = finished(alone, steps=1, batch_size=2)
    assert status == 0, errors
    status, output, errors = finished(together, TWO, steps=1, batch_size=2)
    assert status == 0, errors
    assert_same_gradients(load(alone / "do_00000001"), load(together / "do_00000001"))


def test_bad_input_is_one_line_and_status_2(out, finished):
    status, output, errors = finished(out, data="nowhere", steps=1)
    assert status == 2
    assert errors.strip() == "error: data: expected a folder of wavs, got 'nowhere', which is no folder"


def test_help_has_examples():
    answer = subprocess.run([sys.executable, *CLI, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torchrun --nproc-per-node 4 -m hifigan_fast.cli train" in answer.stdout
    for flag in ("--data", "--out", "--config", "--batch-size", "--steps", "--fine-tune", "--precision", "--workers"):
        assert flag in answer.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--outt", "x"], "error: unknown option --outt; did you mean --out?"),
        (["train", "--out=x", "--stepz=3"], "error: unknown option --stepz; did you mean --steps?"),
        (["train", "--out", "x", "--step", "3"], "error: unknown option --step; did you mean --steps?"),
        (["bench", "--quuux"], "error: unknown option --quuux (see hifigan-fast bench --help)\n"),
        (
            ["synthesize", "--ckeckpoint", "g", "--", "--x.wav"],
            "unknown option --ckeckpoint; did you mean --checkpoint?",
        ),
        (["train"], "the following arguments are required: --out"),
        (["train", "--out", ""], "error: expected no empty argument, got '' after --out"),
        (["train", "--out", "x", "--config="], "expected no empty argument, got '--config=' after --out x"),
        (["train", "--out", "x", "--init", "a", "b", "--init-generator", "c"], "not allowed with argument --init"),
    ],
)
def test_unknown_options_are_named(args, message, capsys, monkeypatch):
    monkeypatch.setattr(loop, "train", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and said.startswith("error: ") and said.count("\n") == 1


def test_step_that_is_not_finite_is_one_line_and_status_2(monkeypatch, capsys):
    def train(*args, **kwargs):
        raise FloatingPointError("step 2: losses or gradients are not finite")

    monkeypatch.setattr(loop, "train", train)
    assert cli.main(["train", "--out", "x"]) == 2
    assert capsys.readouterr().err == "error: step 2: losses or gradients are not finite\n"


@pytest.mark.parametrize("command", [["train", "--out", "x"], ["check"]])
def test_ctrl_c_wherever_it_comes_is_one_line(monkeypatch, capsys, command):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_config", interrupted)
    monkeypatch.setattr(gate, "gate", interrupted)
    assert cli.main(command) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_reading_the_flags_loads_no_training_library():
    code = (
        "import sys, hifigan_fast.training.command;"
        "sys.exit(bool({'librosa', 'soundfile', 'tensorboard', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_trainings_figure_says_in_a_line_what_it_lacks(monkeypatch, capsys):
    import make_training_figure

    monkeypatch.setattr("sys.argv", ["make_training_figure.py", "--data", "nowhere"])
    assert make_training_figure.main() == 1
    assert capsys.readouterr().err == "data: expected a folder of wavs, got 'nowhere', which is no folder\n"
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    assert make_training_figure.main() == 1
    assert capsys.readouterr().err.startswith("drawing needs matplotlib: pip install 'hifigan-fast[train]'")

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from studies import clips, runs

from hifigan_fast.training import command, step
from hifigan_fast.training.config import BUILT_IN, load_config
from hifigan_fast.voice import write_clips

from . import tiny

ROOT = Path(__file__).parents[2]
SPEECH = ROOT.parent / "shared" / "data" / "ljspeech"


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A folder of 16 clips: real speech where there is some, the synthetic voice otherwise."""
    if SPEECH.is_dir():
        return SPEECH
    folder = tmp_path_factory.mktemp("voice")
    write_clips(folder, 16, 1.0)
    return folder


@pytest.fixture(scope="session")
def tiny_config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(json.loads(BUILT_IN["v1"].read_text()) | tiny.CONFIG))
    return path


@pytest.fixture
def tiny_config(tiny_config_file):
    return load_config(tiny_config_file)


@pytest.fixture
def tiny_discriminators(monkeypatch):
    monkeypatch.setitem(step.DISCRIMINATORS, "fast", tiny.DISCRIMINATORS)


@pytest.fixture
def out(tmp_path):
    """A folder for a run; removed at once, a real checkpoint has 850 MB."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def flags(speech, tiny_config_file):
    """Builds the flags of a run on the tiny configuration: keyword arguments over the usual ones."""

    def build(out, **changes):
        values = {"data": speech, "out": out, "config": tiny_config_file, "device": "cpu", "log_interval": 1} | changes
        given = {key: value for key, value in values.items() if value is not None}
        flags = {f"--{key.replace('_', '-')}": value for key, value in given.items()}
        return [str(part) for flag, value in flags.items() for part in (flag, *_several(value))]

    return build


def _several(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.fixture
def run(flags):
    """Runs the command in this process, returns its exit status."""

    def run(out, **changes):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return command.run(parser.parse_args(flags(out, **changes)))

    return run


@pytest.fixture
def start(flags):
    """Starts the command on the tiny discriminators in a process of its own; `launcher` goes before the script."""

    def start(out, launcher=(), script=(str(Path(tiny.__file__)),), **changes):
        return subprocess.Popen(
            [sys.executable, *launcher, *script, *flags(out, **changes)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores Ctrl-C, and its children inherit that: the tests may run as one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def plan(tiny_config_file):
    """Of a study's run, a tiny one."""
    return runs.Plan(
        "tiny", steps=3, mark=2, mean=2, checkpoint=1, batch_size=4, segment_size=1024, config=str(tiny_config_file)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The clips of a study, short ones."""
    folder = tmp_path_factory.mktemp("clips")
    return clips.chosen(write_clips(folder / "voice", clips.CLIPS, 0.3)[0].parent, folder)

import json
import shutil
import time

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hifigan_fast.training import header, loop
from hifigan_fast.training.checkpoint import newest_checkpoint
from hifigan_fast.training.config import load_config
from hifigan_fast.training.data import Order, open_clips
from hifigan_fast.training.generator import Generator
from hifigan_fast.training.log import Log
from hifigan_fast.training.step import Trainer
from hifigan_fast.voice import write_clips

from .test_checkpoint import equal, load

pytestmark = pytest.mark.usefixtures("tiny_discriminators")


def rows(out):
    """The reported numbers, without the times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds_per_step"} for line in lines]


def final(out, step):
    return [load(out / f"{name}_{step:08d}") for name in ("g", "do")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return tmp_path_factory.mktemp("straight") / "run"


@pytest.fixture
def uninterrupted(straight, run):
    """Eight steps in one go: three batches of 4 of 15 clips an epoch, checkpoints after 3 (an epoch's end), 6 and 8."""
    if not straight.exists():
        assert run(straight, steps=8, checkpoint_interval=3, validation_interval=4) == 0
    return straight


def test_what_a_run_leaves(uninterrupted, tiny_config_file):
    names = {p.name for p in uninterrupted.iterdir()}
    steps = ("00000003", "00000006", "00000008")
    assert names == {f"{k}_{s}" for k in ("g", "do") for s in steps} | {"config.json", "metrics.jsonl", "logs"}
    assert load_config(uninterrupted / "config.json") == load_config(tiny_config_file)
    reported = rows(uninterrupted)
    assert [row["step"] for row in reported if "gen_loss" in row] == list(range(1, 9))
    assert [row["step"] for row in reported if "validation_mel_error" in row] == [4, 8]
    board = EventAccumulator(str(uninterrupted / "logs")).Reload()
    assert set(board.Tags()["scalars"]) == {
        "training/disc_loss_total",
        "training/gen_loss_total",
        "training/mel_spec_error",
        "validation/mel_spec_error",
    }
    assert set(board.Tags()["audio"]) == {"gt/y_0", "generated/y_hat_0"}
    assert set(board.Tags()["images"]) == {"gt/y_spec_0", "generated/y_hat_spec_0"}
    shown = board.Scalars("validation/mel_spec_error")
    expected = [row["validation_mel_error"] for row in reported if "validation_mel_error" in row]
    assert [event.step for event in shown] == [4, 8]
    assert [event.value for event in shown] == pytest.approx(expected)


@pytest.mark.parametrize("stop", [3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(uninterrupted, out, run, capsys, stop):
    """Stopped at an epoch's end and within one."""
    settings = {"checkpoint_interval": 3, "validation_interval": 4}
    assert run(out, steps=stop, **settings) == 0
    assert run(out, steps=8, **settings) == 0
    assert f"resuming after step {stop} from g_{stop:08d} and do_{stop:08d}" in capsys.readouterr().out
    assert equal(final(out, 8), final(uninterrupted, 8))
    assert final(out, 8)[1]["epoch"] == 2 and final(out, 8)[1]["batch"] == 2
    # The stopped run validated at its last step, too.
    assert [row for row in rows(out) if row["step"] != stop or "gen_loss" in row] == rows(uninterrupted)


def test_steps_after_the_last_checkpoint_are_done_again(uninterrupted, out, run):
    """As after a kill at step 8: the newest whole pair is that of step 6, of step 7 there is only one file."""
    shutil.copytree(uninterrupted, out)
    (out / "do_00000008").unlink()
    (out / "g_00000008").rename(out / "g_00000007")
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "disc_lo')
    (out / "do_00000008.tmp").write_bytes(b"half")
    assert run(out, steps=8, checkpoint_interval=3, validation_interval=4) == 0
    assert equal(final(out, 8), final(uninterrupted, 8))
    assert rows(out) == rows(uninterrupted)


def test_resume_with_a_batch_that_leaves_the_epoch_no_more(out, run):
    run(out, steps=5, batch_size=4)  # 2 batches of 3 done in the second epoch; with 7 a batch it has only 2
    run(out, steps=6, batch_size=7)
    rest = final(out, 6)[1]
    assert (rest["epoch"], rest["batch"]) == (2, 1)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (8, "is at step 8 of 8: finished, nothing to do"),
        (5, "is at step 8, beyond the 5 steps asked for: nothing was done"),
    ],
)
def test_finished_run_says_so(uninterrupted, run, capsys, monkeypatch, steps, message):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()}
    monkeypatch.setattr(loop, "Trainer", None)  # nothing is built or loaded
    assert run(uninterrupted, steps=steps) == 0
    assert message in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()} == before


def test_a_renamed_pair_is_as_far_as_it_says(uninterrupted, out, run, capsys):
    out.mkdir()
    for name in ("g", "do"):
        shutil.copy(uninterrupted / f"{name}_00000008", out / f"{name}_00000001")
    assert run(out, steps=5) == 0
    assert "is at step 8, beyond the 5 steps asked for: nothing was done" in capsys.readouterr().out


def test_validation_is_the_mean_over_held_out_clips(tiny_config, speech):
    from hifigan_fast.training.data import Clips

    trainer = Trainer(tiny_config, torch.device("cpu"))
    paths = sorted(speech.glob("*.wav"))[:3]
    alone = [loop.validate(trainer, Clips([path], tiny_config)) for path in paths]
    assert loop.validate(trainer, Clips(paths, tiny_config)) == pytest.approx(sum(alone) / 3, rel=1e-6)
    (y,) = Clips(paths, tiny_config).whole(0)
    with torch.no_grad():
        y_hat = trainer.generator(trainer.mel(y[None], 8000)).squeeze(1)
        expected = (trainer.mel(y[None], None) - trainer.mel(y_hat, None)).abs().mean().item()
    assert alone[0] == pytest.approx(expected, rel=1e-6)


def test_header_and_a_bar_that_moves_at_every_step(out, run, capsys, tiny_config):
    run(out, steps=3, log_interval=100, checkpoint_interval=100, validation_interval=100)
    output, errors = capsys.readouterr()
    header = [line.split(maxsplit=1) for line in output.splitlines()]
    assert [name for name, *_ in header][:6] == ["device", "discriminators", "clips", "batch", "parameters", "logs"]
    told = {name: text for name, text in header[:6]}
    assert told["device"] == "cpu (threads: 1)"
    assert told["discriminators"].startswith("backend cpu, float32: ")
    assert told["clips"].startswith("15 to train on (") and told["clips"].endswith(" minutes), 1 held out")
    assert told["batch"] == "4 × 1024 samples, 3 an epoch"
    assert told["parameters"].startswith(f"generator {sum(p.numel() for p in Generator(tiny_config).parameters()):,}, ")
    assert str(out / "metrics.jsonl") in told["logs"] and f"tensorboard --logdir {out / 'logs'}" in told["logs"]
    assert all(f" {step}/3 [" in errors for step in (1, 2, 3))


@pytest.mark.parametrize(
    ("kwargs", "environment", "expected"),
    [
        ({}, None, "backend cpu, float32: the fastest that can run here"),
        ({"precision": "bf16"}, None, "backend cpu, bfloat16: the fastest that can run here"),
        ({}, "modules", "plain PyTorch: requested"),
        ({}, "reference", "backend reference, float32: requested"),
        ({"discriminators": "reference"}, None, "plain PyTorch: asked for by discriminators"),
    ],
)
def test_header_says_what_runs_and_why(tiny_config, monkeypatch, kwargs, environment, expected):
    if environment:
        monkeypatch.setenv("HIFIGAN_FAST_BACKEND", environment)
    assert header.backend(Trainer(tiny_config, torch.device("cpu"), **kwargs)) == expected


def test_keep(out, run):
    assert run(out, steps=8, checkpoint_interval=1, validation_interval=100, keep=2, keep_every=3) == 0
    kept = {f"{kind}_{step:08d}" for kind in ("g", "do") for step in (3, 6, 7, 8)}
    assert {path.name for path in out.iterdir()} == kept | {"config.json", "metrics.jsonl", "logs"}


def test_nothing_is_deleted_before_the_new_pair_is_whole(uninterrupted, out, run, monkeypatch):
    shutil.copytree(uninterrupted, out)
    before = {path.name for path in out.iterdir()}
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="could not be written"):
        run(out, steps=9, validation_interval=100, keep=1)
    assert {path.name for path in out.iterdir()} == before


def test_half_a_pair_is_said(uninterrupted, out, run, capsys):
    out.mkdir()
    shutil.copy(uninterrupted / "g_00000008", out)
    assert run(out, steps=1, validation_interval=100) == 0
    assert f"{out / 'g_00000008'} is half of a checkpoint and is not used" in capsys.readouterr().out
    assert newest_checkpoint(out)[0].name == "g_00000001"


def test_init(uninterrupted, out, run, capsys, tmp_path, tiny_config_file):
    """A step of no size shows what a run began with; a resumed one does not begin again."""
    pair = (uninterrupted / "g_00000008", uninterrupted / "do_00000008")
    config = tmp_path / "still.json"
    config.write_text(tiny_config_file.read_text().replace('"learning_rate": 0.0002', '"learning_rate": 1e-12'))
    still = {"steps": 1, "validation_interval": 100, "seed": 5, "config": config}
    for folder, init in (("pair", {"init": pair}), ("generator", {"init_generator": pair[0]})):
        assert run(out / folder, **still, **init) == 0
        begun = "beginning at step 0 with " + " and ".join(map(str, pair if "init" in init else pair[:1]))
        assert begun in capsys.readouterr().out
        found, rest = final(out / folder, 1)
        torch.testing.assert_close(found, load(pair[0]), rtol=1e-6, atol=1e-9)
        same = torch.allclose(rest["mpd"]["conv.bias"], load(pair[1])["mpd"]["conv.bias"], rtol=1e-6)
        assert same == ("init" in init)
        assert rest["optim_g"]["state"][0]["step"] == (9 if "init" in init else 1)
    assert run(out / "pair", **(still | {"steps": 2}), init=pair) == 0
    assert f"resuming after step 1 from g_00000001 and do_00000001; {pair[0]} and {pair[1]} not used" in (
        capsys.readouterr().out
    )


@pytest.mark.exhaustive
def test_mel_error_falls(out, run):
    assert run(out, steps=60, config="v2", batch_size=1, checkpoint_interval=100, log_interval=10) == 0
    errors = [row["mel_error"] for row in rows(out) if "mel_error" in row]
    assert errors[-1] < 0.8 * errors[0]


def test_fine_tuning_on_the_computed_mels(out, run, speech, tmp_path, tiny_config):
    import numpy as np
    import soundfile

    from hifigan_fast.training.mel import mel_spectrogram

    mels = tmp_path / "mels"
    mels.mkdir()
    for path in speech.glob("*.wav"):
        audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        np.save(mels / f"{path.stem}.npy", mel_spectrogram(audio, tiny_config, 8000).numpy())
    assert run(out, steps=2, fine_tune=mels) == 0
    assert newest_checkpoint(out) == (out / "g_00000002", out / "do_00000002")


def test_without_data_it_trains_on_synthetic_voice(out, run, capsys, monkeypatch):
    monkeypatch.setattr(loop, "SYNTHETIC_SECONDS", 0.1)
    assert run(out, steps=1, data=None) == 0
    assert f"synthetic voice in {out / 'synthetic_voice'}" in capsys.readouterr().out
    assert len(list((out / "synthetic_voice").glob("*.wav"))) == loop.SYNTHETIC_CLIPS


def test_seconds_of_a_step_leave_out_all_else(out, run, monkeypatch):
    events = []
    monkeypatch.setattr(loop, "show_samples", lambda *_, **__: events.append("samples"))
    monkeypatch.setattr(loop.checkpoint, "save_checkpoint", lambda *_: events.append("checkpoint"))
    monkeypatch.setattr(Log, "restart_clock", lambda self, step: events.append(step))
    run(out, steps=1)
    assert events == ["samples", 0, "samples", 1, "checkpoint", 1]
    events.clear()
    run(out / "longer", steps=3, log_interval=10, validation_interval=10)
    assert events == ["samples", 0, 1, "samples", 3, "checkpoint", 3], "the first step's start-up is left out"


@pytest.mark.parametrize("line", [b"hello", b"", b'{"loss": 1}', b"[1]", b"\xff\xfe"])
def test_damaged_metrics_are_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match="out: .*metrics.jsonl, line 2: expected an object with a step"):
        Log(tmp_path, 2, 4, 22050)
    assert path.read_bytes().count(b"\n") == 3


def test_full_disk_stops_the_run_and_leaves_the_last_checkpoint(uninterrupted, out, run, monkeypatch):
    settings = {"checkpoint_interval": 3, "validation_interval": 4}
    assert run(out, steps=3, **settings) == 0
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="g_00000006 could not be written.*No space left on device"):
            run(out, steps=8, **settings)
    assert newest_checkpoint(out) == (out / "g_00000003", out / "do_00000003")
    assert run(out, steps=8, **settings) == 0
    assert equal(final(out, 8), final(uninterrupted, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, "data: expected a folder of wavs, got 'nowhere'"),
        ({"batch_size": 16}, "batch_size: expected at most the number of training clips, 15, got 16"),
        ({"config": "v9"}, "config: expected v1, v2, v3 or a JSON file, got 'v9'"),
        ({"device": "tpu"}, "device: expected cpu, cuda or cuda:N, got 'tpu'"),
        ({"device": "cpu:1"}, "device: expected cpu, cuda or cuda:N, got 'cpu:1'"),
        ({"device": "cuda:"}, "device: expected cpu, cuda or cuda:N, got 'cuda:'"),
        ({"device": "cuda:99"}, r"device: this machine has \d+ CUDA devices, got cuda:99"),
        ({"steps": 0}, "steps: expected at least 1 step, got 0"),
        ({"checkpoint_interval": 0}, "checkpoint: expected at least 1 step, got 0"),
        ({"keep": 1, "keep_every": 0}, "keep_every: expected at least 1 step, got 0"),
        ({"keep_every": 2}, "keep_every: expected a keep beside it, got 2 and no keep: all are kept"),
        ({"init_generator": "nowhere"}, "checkpoint nowhere is not readable"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"fine_tune": "nowhere"}, "fine-tune: expected a folder of .npy mels, got 'nowhere'"),
        (
            {"fine_tune": "mels", "data": None},
            "fine-tune: expected a data folder, of the clips of these mels, got 'mels' alone",
        ),
    ],
)
def test_bad_flags(out, run, changes, message):
    """And a start that fails leaves nothing behind."""
    with pytest.raises(ValueError, match=message):
        run(out / "below", **({"steps": 1} | changes))
    assert not out.exists()


def test_failed_start_takes_its_synthetic_voice_away(out, run, monkeypatch):
    monkeypatch.setattr(loop, "SYNTHETIC_SECONDS", 0.1)
    with pytest.raises(ValueError, match="batch_size: expected at most the number of training clips, 23, got 24"):
        run(out, steps=1, data=None, batch_size=24)
    assert not out.exists()


def test_failed_start_leaves_what_was_there_or_came_beside_it(out, run, monkeypatch):
    def begin(*args):
        (out / "beside").mkdir()
        raise ValueError("no")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "open_clips", begin)
        with pytest.raises(ValueError, match="no"):
            run(out / "run", steps=1)
    assert [path.name for path in out.iterdir()] == ["beside"]
    with pytest.raises(ValueError, match="batch_size"):
        run(out, steps=1, batch_size=16)
    assert [path.name for path in out.iterdir()] == ["beside"]


def test_checkpoint_of_another_configuration(uninterrupted, out, run, tmp_path):
    shutil.copytree(uninterrupted, out)
    values = json.loads((out / "config.json").read_text()) | {"upsample_initial_channel": 16}
    (tmp_path / "wide.json").write_text(json.dumps(values))
    message = r"config: a resumed run .*config.json says .*: seed 1234, got 5; upsample_initial_channel 8, got 16$"
    with pytest.raises(ValueError, match=message):
        run(out, steps=9, config=tmp_path / "wide.json", seed=5)
    (out / "config.json").unlink()  # as where a pair of elsewhere was put there
    with pytest.raises(ValueError, match="g_00000008, generator: of another model: conv_pre.bias has shape"):
        run(out, steps=9, config=tmp_path / "wide.json")
    with pytest.raises(ValueError, match="seed: .*do_00000008 was trained with seed 1234, got 5"):
        run(out, steps=9, seed=5)


def wait_for(condition, process, seconds=1800):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_and_resume(out, start, run):
    """kill -9 after the first checkpoint, the same command again: the result of one uninterrupted run."""
    settings = {"steps": 200, "checkpoint_interval": 3, "validation_interval": 4}
    process = start(out, **settings)
    wait_for(lambda: newest_checkpoint(out), process)
    process.kill()
    process.communicate()
    killed_at = int(newest_checkpoint(out)[0].name[2:])
    assert 3 <= killed_at < 200
    goal = killed_at + 4
    for folder in (out, out.with_name("straight")):
        assert run(folder, **(settings | {"steps": goal})) == 0
    assert equal(final(out, goal), final(out.with_name("straight"), goal))
    assert [row["step"] for row in rows(out) if "gen_loss" in row] == list(range(1, goal + 1))


def test_bad_clip_after_some_steps(out, run, tiny_config, tmp_path):
    """The error comes after a checkpoint, and the run goes on from there once the clip is mended."""
    wavs = tmp_path / "wavs"
    write_clips(wavs, 12, 0.2)
    training, _ = open_clips(wavs, tiny_config)
    bad = training.paths[Order(len(training), tiny_config).whole_batch(0, 1)[0]]
    good = bad.read_bytes()
    soundfile.write(bad, np.full(2000, np.nan), 22050, subtype="FLOAT")
    with pytest.raises(ValueError, match=f"data: .*{bad.name} has 2000 values that are not finite"):
        run(out, data=wavs, steps=3)
    assert newest_checkpoint(out) == (out / "g_00000001", out / "do_00000001")
    bad.write_bytes(good)
    for folder in (out, out.with_name("straight")):
        assert run(folder, data=wavs, steps=3) == 0
    assert equal(final(out, 3), final(out.with_name("straight"), 3))


def test_interrupt(out, start):
    import signal

    process = start(out, steps=100000, checkpoint_interval=100000, workers=1)
    wait_for(lambda: (out / "metrics.jsonl").exists() and rows(out), process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=1800)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "SIGINT: ending this step, then writing a checkpoint; another Ctrl-C stops at once, without one" in errors
    step = rows(out)[-1]["step"]
    name = f"{step:08d}"
    assert output.splitlines()[-1] == (
        f"SIGINT after step {step}: g_{name} and do_{name} are in {out}; the same command goes on from them"
    )
    assert newest_checkpoint(out) == (out / f"g_{name}", out / f"do_{name}") and not list(out.glob("*.tmp"))

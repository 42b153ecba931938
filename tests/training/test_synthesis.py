"""Waveforms of any length, by chunks; `hifigan-fast synthesize`."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hifigan_fast import cli
from hifigan_fast.training import loop, synthesis
from hifigan_fast.training.config import load_config
from hifigan_fast.training.data import Clips
from hifigan_fast.training.generator import Generator, reach
from hifigan_fast.training.mel import mel_spectrogram
from hifigan_fast.training.step import Trainer
from hifigan_fast.training.synthesis import generate
from hifigan_fast.voice import synthetic_voice

RATE = 22050


@pytest.fixture(scope="module")
def generator():
    """V1's geometry in float64, its weights twice as large as fresh ones: every tap is felt."""
    torch.manual_seed(0)
    generator = Generator(load_config("v1", upsample_initial_channel=16)).double()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            parameter *= 2 if name.endswith("weight_g") else 1
    return generator


@pytest.mark.parametrize(("frames", "chunk"), [(1, 1), (5, 3), (20, 1), (40, 40), (73, 20), (73, None)])
def test_chunks_are_the_whole(generator, frames, chunk):
    """And the generator is asked for no more than a chunk and what it reaches."""
    config = load_config("v1")
    torch.manual_seed(frames)
    x = torch.randn(1, 80, frames, dtype=torch.float64)
    asked = []

    def mel(first, last):
        asked.append(last - first)
        return x[..., first:last]

    with torch.no_grad():
        found = torch.cat(list(generate(generator, config, mel, frames, chunk)), 1)
        torch.testing.assert_close(found, generator(x).squeeze(1), rtol=0, atol=1e-13)
    assert max(asked) <= (chunk or synthesis.CHUNK // 256) + sum(reach(config))


def test_chunks_with_less_around_them_are_not(generator, monkeypatch):
    """The reach is what it takes: a frame less on either side shows."""
    config = load_config("v1")
    before, behind = reach(config)
    x = torch.randn(1, 80, 60, dtype=torch.float64)
    with torch.no_grad():
        whole = generator(x).squeeze(1)
        for less in ((before - 1, behind), (before, behind - 1)):
            monkeypatch.setattr(synthesis, "reach", lambda config, less=less: less)
            found = torch.cat(list(generate(generator, config, lambda a, b: x[..., a:b], 60, 20)), 1)
            assert (found - whole).abs().max() > 1e-11


@pytest.mark.usefixtures("tiny_discriminators")
def test_validation_of_a_long_clip(tiny_config, tmp_path, monkeypatch):
    """The same error, with a chunk of the generator's maps in memory at a time."""
    soundfile.write(tmp_path / "long.wav", synthetic_voice(1.0), RATE)
    trainer, clips = Trainer(tiny_config, torch.device("cpu")), Clips([tmp_path / "long.wav"], tiny_config)
    expected = loop.validate(trainer, clips)
    seen = []
    trainer.generator.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    monkeypatch.setattr(synthesis, "CHUNK", 100 * 64)
    assert loop.validate(trainer, clips) == pytest.approx(expected, rel=1e-5)
    assert len(seen) == 4 and max(seen) <= 100 + sum(reach(tiny_config))


@pytest.fixture
def trained(tmp_path, tiny_config, tiny_config_file):
    """A generator's file with its configuration beside it, and the generator."""
    torch.manual_seed(1)
    generator = Generator(tiny_config)
    (tmp_path / "run").mkdir()
    torch.save({"generator": generator.state_dict()}, tmp_path / "run" / "g_00000007")
    (tmp_path / "run" / "config.json").write_text(tiny_config_file.read_text())
    return tmp_path / "run" / "g_00000007", generator


@pytest.fixture
def wavs(tmp_path):
    folder = tmp_path / "wavs"
    (folder / "below").mkdir(parents=True)
    for seed, name in enumerate(("a.wav", "below/b.wav")):
        soundfile.write(folder / name, synthetic_voice(0.5, seed=seed), RATE, subtype="PCM_16")
    return folder


def synthesize(checkpoint, *inputs, **flags):
    given = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
    return cli.main(["synthesize", "--checkpoint", str(checkpoint), "--device", "cpu", *given, *map(str, inputs)])


def as_pcm(y):
    return np.clip(np.round(y * 32768), -32768, 32767)


@pytest.mark.parametrize("chunk", [10 * 64, synthesis.CHUNK])
def test_copy_synthesis_of_wavs(trained, wavs, tmp_path, tiny_config, monkeypatch, capsys, chunk):
    monkeypatch.setattr(synthesis, "CHUNK", chunk)
    checkpoint, generator = trained
    assert synthesize(checkpoint, wavs, out=tmp_path / "heard") == 0
    for name in ("a.wav", "below/b.wav"):
        audio, _ = soundfile.read(wavs / name, dtype="float32")
        with torch.no_grad():
            expected = generator(mel_spectrogram(torch.from_numpy(audio)[None], tiny_config, 8000))[0, 0].numpy()
        found, rate = soundfile.read(tmp_path / "heard" / name, dtype="int16")
        assert rate == RATE and soundfile.info(tmp_path / "heard" / name).subtype == "PCM_16"
        assert len(found) == len(expected) == len(audio) // 64 * 64
        assert np.abs(found - as_pcm(expected)).max() <= 1 and np.abs(found).max() > 100
    assert "1.0 s of audio in " in capsys.readouterr().out


@pytest.mark.parametrize("lead", [(), (1,)])
def test_mels(trained, tmp_path, lead):
    checkpoint, generator = trained
    mel = np.random.default_rng(0).standard_normal((*lead, 20, 50)).astype(np.float32)
    np.save(tmp_path / "m.npy", mel)
    assert synthesize(checkpoint, tmp_path / "m.npy", out=tmp_path / "heard") == 0
    with torch.no_grad():
        expected = generator(torch.from_numpy(mel).view(1, 20, 50))[0, 0].numpy()
    found, _ = soundfile.read(tmp_path / "heard" / "m.wav", dtype="int16")
    assert np.abs(found - as_pcm(expected)).max() <= 1


def test_configuration_is_beside_the_checkpoint_or_given(trained, wavs, tmp_path, tiny_config_file, capsys):
    checkpoint, _ = trained
    (checkpoint.parent / "config.json").unlink()
    assert synthesize(checkpoint, wavs, out=tmp_path / "heard") == 2
    assert f"config: {checkpoint.parent / 'config.json'} is not there; expected it beside" in capsys.readouterr().err
    assert synthesize(checkpoint, wavs, out=tmp_path / "heard", config=tiny_config_file) == 0
    assert synthesize(checkpoint, wavs, out=tmp_path / "heard", config="v1") == 2
    assert "generator: of another model: conv_pre.bias has shape [8], expected [512]" in capsys.readouterr().err


def bad_inputs():
    """(what is written to a folder, the inputs, the message)."""
    nan = np.full((20, 9), np.nan, np.float32)
    silence = np.zeros(2000)
    yield {}, ["none.wav"], "expected wavs, .npy mels or folders of them, got '.*none.wav', which is not there"
    yield {}, ["."], "expected .wav, .flac or .npy files in .*, found none"
    yield {"m.npy": nan}, ["m.npy"], "inputs: .*m.npy has 180 values that are not finite"
    yield (
        {"m.npy": nan[:9]},
        ["m.npy"],
        r"m.npy has shape \(9, 9\) and dtype float32, expected a floating \(20, frames\)",
    )
    yield {"m.npy": nan[:, :0]}, ["m.npy"], r"m.npy has shape \(20, 0\)"
    yield {"m.npy": np.ones((20, 9), int)}, ["m.npy"], r"inputs: .*m.npy has shape \(20, 9\) and dtype int64"
    yield {"m.npy": b"no mel"}, ["m.npy"], "m.npy is not a readable mel"
    yield {"a.wav": b"no wav"}, ["a.wav"], "inputs: .*a.wav is not a readable wav"
    yield {"a": b"no wav"}, ["a"], "inputs: .*a is not a readable clip"
    archive = io.BytesIO()
    np.savez(archive, nan)
    yield {"m.npy": archive.getvalue()}, ["m.npy"], "inputs: .*m.npy is not a readable mel"
    yield (
        {"a.wav": (silence[:96], RATE)},
        ["a.wav"],
        "a.wav has 96 samples, expected more than 96, the mel's reflect pad",
    )
    yield {"a.wav": (silence, 16000)}, ["a.wav"], "a.wav has 16000 Hz"
    yield {"a.wav": (silence + np.nan, RATE)}, ["a.wav"], "inputs: .*a.wav has 2000 values that are not finite"
    yield {"a.wav": (silence, RATE), "a.npy": nan}, ["a.wav", "a.npy"], "would both be written to .*a.wav"


@pytest.mark.parametrize("index", range(14))
def test_bad_input_is_named_and_nothing_written(trained, tmp_path, capsys, index):
    folder = tmp_path / "in"
    folder.mkdir()
    files, inputs, message = list(bad_inputs())[index]
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif name.endswith(".npy"):
            np.save(folder / name, content)
        else:
            soundfile.write(folder / name, *content, subtype="FLOAT")
    assert synthesize(trained[0], *(folder / name for name in inputs), out=tmp_path / "heard") == 2
    errors = capsys.readouterr().err
    assert re.search(message, errors) and errors.count("error: ") == 1
    assert not list((tmp_path / "heard").glob("**/*.*"))


def test_damaged_file(trained, tmp_path, capsys):
    """Its header is whole; nothing of it is left behind."""
    soundfile.write(tmp_path / "a.flac", synthetic_voice(0.5), RATE)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:6000])
    assert synthesize(trained[0], tmp_path / "a.flac", out=tmp_path / "heard") == 2
    assert "a.flac is damaged: " in capsys.readouterr().err
    assert not list((tmp_path / "heard").iterdir())


@pytest.mark.parametrize("name", ["a.wav", "m.npy"])
def test_index_of_a_value_in_a_later_chunk(trained, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(synthesis, "CHUNK", 64 * 30)
    if name == "a.wav":
        audio = synthetic_voice(0.5)
        audio[7003] = np.nan
        soundfile.write(tmp_path / name, audio, RATE, subtype="FLOAT")
    else:
        mel = np.zeros((20, 200), np.float32)
        mel[3, 107:] = np.inf
        np.save(tmp_path / name, mel)
    assert synthesize(trained[0], tmp_path / name, out=tmp_path / "heard") == 2
    assert f"at index {'7003' if name == 'a.wav' else '3, 107'}\n" in capsys.readouterr().err


def test_clip_shorter_than_a_hop(trained, tmp_path, capsys, tiny_config_file):
    """With n_fft = hop_size the mel pads nothing; the clip still has no frame."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(tiny_config_file.read_text()) | {"n_fft": 64, "win_size": 64}))
    soundfile.write(tmp_path / "a.wav", np.zeros(63), RATE)
    assert synthesize(trained[0], tmp_path / "a.wav", out=tmp_path / "heard", config=config) == 2
    assert "a.wav has 63 samples, expected more than 0, the mel's reflect pad, and at least 64, a hop" in (
        capsys.readouterr().err
    )


def test_result_that_is_not_finite(trained, wavs, tmp_path, capsys, monkeypatch):
    """As PCM it would be a tone or silence."""
    monkeypatch.setattr(synthesis, "generate", lambda *_: [torch.zeros(1, 64), torch.full((1, 64), torch.nan)])
    assert synthesize(trained[0], wavs / "a.wav", out=tmp_path / "heard") == 2
    assert f"makes of {wavs / 'a.wav'} has 64 values that are not finite in float32, the first is nan at index 64" in (
        capsys.readouterr().err
    )
    assert not list((tmp_path / "heard").iterdir())


def test_interrupt_leaves_whole_files_only(trained, wavs, tmp_path, monkeypatch, capsys):
    pieces = synthesis.generate

    def interrupted(*args):
        yield next(pieces(*args))
        if (tmp_path / "heard" / "a.wav").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(synthesis, "generate", interrupted)
    assert synthesize(trained[0], wavs, out=tmp_path / "heard") == 130
    assert f"the files that are in {tmp_path / 'heard'} are whole" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "heard").rglob("*.*")] == ["a.wav"]


def test_linked_folders_are_followed(trained, wavs, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "speaker").symlink_to(wavs, target_is_directory=True)
    assert synthesize(trained[0], tmp_path / "linked", out=tmp_path / "heard") == 0
    assert (tmp_path / "heard" / "speaker" / "below" / "b.wav").is_file()


def test_results_never_replace_their_inputs(trained, wavs, capsys):
    before = (wavs / "a.wav").read_bytes()
    assert synthesize(trained[0], wavs / "a.wav", out=wavs) == 2
    assert f"out: {wavs / 'a.wav'} is an input, expected another folder" in capsys.readouterr().err
    assert (wavs / "a.wav").read_bytes() == before


def test_looking_for_results_among_the_inputs_takes_a_look_at_each(tmp_path, monkeypatch):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        for i in range(40):
            (tmp_path / folder / f"{i}.wav").touch()
    looks, stat = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: looks.append(path) or stat(path, **how))
    assert len(synthesis._targets([tmp_path / "in"], tmp_path / "out")) == 40
    assert len(looks) < 10 * 40
    monkeypatch.undo()
    (tmp_path / "out" / "7.wav").unlink()
    (tmp_path / "out" / "7.wav").hardlink_to(tmp_path / "in" / "9.wav")
    with pytest.raises(ValueError, match="out: .*7.wav is an input, expected another folder"):
        synthesis._targets([tmp_path / "in"], tmp_path / "out")


def test_published_configurations_load(trained, wavs, tmp_path):
    """With keys that no program reads, as config.json beside published files has them."""
    path = trained[0].parent / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resblock_initial_channel": 8}))
    assert synthesize(trained[0], wavs / "a.wav", out=tmp_path / "heard") == 0

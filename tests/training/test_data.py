import shutil

import numpy as np
import pytest
import soundfile
import torch

from hifigan_fast.training.data import Clips, Order, endless_batches, open_clips
from hifigan_fast.training.files import find_mels
from hifigan_fast.voice import synthetic_voice, write_clips

from .test_files import named

CPU = torch.device("cpu")


@pytest.fixture
def wavs(tmp_path):
    """Six clips of different lengths, 0.1 to 0.35 s."""
    for i in range(6):
        soundfile.write(tmp_path / f"clip{i}.wav", synthetic_voice(0.1 + 0.05 * i, seed=i), 22050, subtype="PCM_16")
    return tmp_path


def take(iterable, count):
    return [item for item, _ in zip(iterable, range(count), strict=False)]


def _broken(path):
    path.write_bytes(b"RIFF no wav")


def _empty(path):
    soundfile.write(path, np.zeros(0), 22050)


def _other_rate(path):
    soundfile.write(path, np.zeros(4000), 16000)


def _stereo(path):
    soundfile.write(path, np.zeros((4000, 2)), 22050)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_broken, "is not a readable wav"),
        (_empty, "has no samples"),
        (_other_rate, "has 16000 Hz, expected the configuration's 22050 Hz"),
        (_stereo, "has 2 channels, expected 1"),
    ],
)
def test_bad_wav_is_an_error_at_once(wavs, tiny_config, write, message):
    write(wavs / "bad.wav")
    with pytest.raises(ValueError, match=message) as error:
        Clips(sorted(wavs.iterdir()), tiny_config)
    assert "bad.wav" in str(error.value)


def test_crop_is_a_normalised_piece_of_its_clip(speech, tiny_config):
    path = min(speech.glob("*.wav"), key=lambda path: path.stat().st_size)
    clips = Clips([path], tiny_config)
    audio, _ = soundfile.read(path, dtype="int16")
    whole = audio / 32768.0
    whole = torch.from_numpy(whole / np.abs(whole).max() * 0.95).float()
    torch.testing.assert_close(clips.whole(0)[0], whole, rtol=0, atol=0)
    starts = set()
    for epoch in range(20):
        (crop,) = clips[epoch, 0]
        windows = whole.unfold(0, tiny_config.segment_size, 1)
        matches = (windows[:, :16] == crop[:16]).all(1).nonzero()[:, 0].tolist()
        (start,) = [start for start in matches if torch.equal(windows[start], crop)]
        starts.add(start)
    assert len(starts) > 15


def test_every_start_of_a_crop_occurs(tmp_path, tiny_config):
    soundfile.write(tmp_path / "a.wav", np.linspace(0.1, 0.5, tiny_config.segment_size + 2), 22050)
    clips = Clips([tmp_path / "a.wav"], tiny_config)
    whole = clips.whole(0)[0]
    starts = {int((whole == clips[epoch, 0][0][0]).nonzero()) for epoch in range(50)}
    assert starts == {0, 1, 2}


def test_short_and_silent_clips(tmp_path, tiny_config):
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.5), 22050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(3000), 22050)
    clips = Clips([tmp_path / "short.wav", tmp_path / "silent.wav"], tiny_config)
    (crop,) = clips[0, 0]
    assert torch.equal(crop[:100], torch.full((100,), 0.95)) and not crop[100:].any() and len(crop) == 1024
    assert len(clips.whole(0)[0]) == 1024  # long enough for the mel's reflect pad
    assert not clips[0, 1][0].any()


def test_crops_do_not_depend_on_the_workers(wavs, tiny_config):
    paths = sorted(wavs.iterdir())
    streams = []
    for workers in (0, 1, 2):
        tiny_config.num_workers = workers
        clips = Clips(paths, tiny_config)
        streams.append([audio for (audio,) in take(endless_batches(clips, Order(6, tiny_config), CPU), 5)])
    for stream in streams[1:]:
        assert all(torch.equal(a, b) for a, b in zip(streams[0], stream, strict=True))
    assert not torch.equal(streams[0][0], streams[0][1])


def test_order_shuffles_every_epoch_and_drops_the_rest(tiny_config):
    batches = take(Order(10, tiny_config), 6)  # two batches of 4 an epoch
    epochs = [batches[0] + batches[1], batches[2] + batches[3], batches[4] + batches[5]]
    for number, epoch in enumerate(epochs):
        assert {key[0] for key in epoch} == {number}
        assert len({key[1] for key in epoch}) == 8
    assert [key[1] for key in epochs[0]] != [key[1] for key in epochs[1]]
    tiny_config.seed += 1
    assert take(Order(10, tiny_config), 1) != batches[:1]


def test_order_begins_anywhere(tiny_config):
    order = Order(10, tiny_config)
    everything = take(order, 6)
    order.begin(1, 1)
    assert take(order, 3) == everything[3:]


def test_ranks_share_each_batch(tiny_config):
    whole = take(Order(10, tiny_config), 4)
    parts = [take(Order(10, tiny_config, rank, 2), 4) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_impossible_batch_sizes(tiny_config):
    with pytest.raises(ValueError, match="batch_size: expected at most the number of training clips, 3, got 4"):
        Order(3, tiny_config)
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 4"):
        Order(10, tiny_config, 0, 3)


@pytest.fixture
def mels(wavs, tmp_path, tiny_config):
    """Mels whose frame f holds f everywhere, one frame more than whole hops: as from a centred transform."""
    folder = tmp_path / "mels"
    folder.mkdir()
    for path in wavs.glob("*.wav"):
        frames = soundfile.info(path).frames // tiny_config.hop_size + 1
        np.save(folder / f"{path.stem}.npy", np.tile(np.arange(frames, dtype=np.float32), (tiny_config.num_mels, 1)))
    return folder


def test_fine_tuning_crops_stay_aligned(wavs, mels, tiny_config):
    paths = sorted(wavs.glob("*.wav"))
    clips = Clips(paths, tiny_config, find_mels(mels, wavs, paths))
    firsts = set()
    for epoch in range(40):
        audio, mel = clips[epoch, 5]
        assert audio.shape == (1024,) and mel.shape == (20, 16)
        first = int(mel[0, 0])
        whole, _ = soundfile.read(clips.paths[5], dtype="float32")  # not normalised
        np.testing.assert_array_equal(audio.numpy(), whole[first * 64 : first * 64 + 1024])
        assert torch.equal(mel[3], torch.arange(first, first + 16.0))
        firsts.add(first)
    assert len(firsts) > 20


def test_fine_tuning_pads_short_clips(tmp_path, tiny_config):
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.5), 22050)
    np.save(tmp_path / "a.npy", np.ones((1, 20, 2), np.float32))
    paths = [tmp_path / "a.wav"]
    audio, mel = Clips(paths, tiny_config, find_mels(tmp_path, tmp_path, paths))[0, 0]
    assert audio.shape == (1024,) and mel.shape == (20, 16)
    assert mel[:, :2].all() and not mel[:, 2:].any() and not audio[100:].any()


def test_bad_mels(wavs, mels, tiny_config):
    paths = sorted(wavs.glob("*.wav"))
    bad = mels / "clip3.npy"
    for array, message in (
        (np.zeros((80, 86)), r"clip3.npy has shape \(80, 86\) and dtype float64, expected a floating \(20, frames\)"),
        (
            np.zeros((20, 1000)),
            "clip3.npy has 1000 frames, expected 86, or one .*clip3.wav has 5512 samples, the hop 64",
        ),
        (np.zeros((20, 88)), "has 88 frames, expected 86"),
        (np.zeros((20, 84)), "has 84 frames, expected 86"),
        (np.zeros((20, 43)), "has 43 frames, expected 86"),  # twice the hop
        (np.zeros((20, 1)), "has 1 frames, expected 86"),
        (np.zeros((20, 0)), r"has shape \(20, 0\)"),
        (np.zeros((20, 86), int), "dtype int64, expected a floating"),
        (np.zeros(20), r"has shape \(20,\)"),
        (np.array([{}]), "is not a readable mel"),
    ):
        np.save(bad, array)
        with pytest.raises(ValueError, match=message):
            Clips(paths, tiny_config, find_mels(mels, wavs, paths))
    bad.unlink()
    with pytest.raises(ValueError, match="clip3.npy is not a readable mel"):
        Clips(paths, tiny_config, find_mels(mels, wavs, paths))
    shutil.rmtree(mels)
    with pytest.raises(ValueError, match="fine-tune: expected a folder of .npy mels, got"):
        find_mels(mels, wavs, paths)


@pytest.mark.parametrize("frames", [85, 86, 87])
def test_mels_may_differ_by_a_frame_at_the_end(wavs, mels, tiny_config, frames):
    """86 hops in 5512 samples; where the mel has 85 frames, the clip ends with it."""
    np.save(mels / "clip3.npy", np.ones((20, frames), np.float32))
    paths = [wavs / "clip3.wav"]
    clips = Clips(paths, tiny_config, find_mels(mels, wavs, paths))
    audio, mel = clips.whole(0)
    assert mel.shape == (20, frames) and len(audio) == min(frames * 64, 5512)


def test_a_mel_a_frame_short_is_padded_together_with_its_clip(tmp_path, tiny_config):
    soundfile.write(tmp_path / "a.wav", np.full(1024, 0.5), 22050)  # one segment: no other crop to take
    np.save(tmp_path / "a.npy", np.ones((20, 15), np.float32))
    paths = [tmp_path / "a.wav"]
    audio, mel = Clips(paths, tiny_config, find_mels(tmp_path, tmp_path, paths))[0, 0]
    assert mel[:, :15].all() and not mel[:, 15:].any() and audio[:960].all() and not audio[960:].any()


def test_a_held_out_clip_claims_its_mel_too(tmp_path, tiny_config):
    for folder in ("a", "b"):
        write_clips(tmp_path / "data" / folder, 1, 0.1)
    named(tmp_path / "mels", "voice-0000.npy")
    with pytest.raises(ValueError, match="voice-0000.npy could belong to 2 clips"):
        open_clips(tmp_path / "data", tiny_config, tmp_path / "mels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_clip_with_a_value_that_is_not_finite(tmp_path, tiny_config, value):
    audio = np.full(2000, 0.5)
    audio[[700, 800]] = value
    soundfile.write(tmp_path / "bad.wav", audio, 22050, subtype="DOUBLE")
    with pytest.raises(
        ValueError, match=r"data: .*bad.wav has 2 values that are not finite .* first is .* at index 700"
    ):
        Clips([tmp_path / "bad.wav"], tiny_config)[0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_mel_with_a_value_that_is_not_finite(wavs, mels, tiny_config, value):
    mel = np.zeros((20, 86), np.float16)
    mel[3, 70] = value
    np.save(mels / "clip3.npy", mel)
    paths = [wavs / "clip3.wav"]
    clips = Clips(paths, tiny_config, find_mels(mels, wavs, paths))
    with pytest.raises(ValueError, match=r"fine-tune: .*clip3.npy has 1 values that are not finite .* at index 3, 70"):
        clips.whole(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_clip_is_one_line_from_a_worker_too(wavs, tiny_config, workers):
    soundfile.write(wavs / "clip2.wav", np.full(2000, np.nan), 22050, subtype="FLOAT")
    tiny_config.num_workers, tiny_config.batch_size = workers, 6
    with pytest.raises(ValueError, match=r"^data: .*clip2.wav has 2000 values that are not finite .*$"):
        next(endless_batches(Clips(sorted(wavs.iterdir()), tiny_config), Order(6, tiny_config), CPU))


def test_flac_reads_as_the_wav_of_the_same_samples(wavs, tiny_config):
    clips, _ = open_clips(wavs, tiny_config)
    expected = [clips.whole(i)[0] for i in range(5)]
    for path in wavs.glob("*.wav"):
        audio, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(".flac"), audio, rate)
        path.unlink()
    found, _ = open_clips(wavs, tiny_config)
    assert [path.name for path in found.paths] == [f"clip{i}.flac" for i in range(5)]
    assert all(torch.equal(found.whole(i)[0], expected[i]) for i in range(5))


def test_damaged_flac(tmp_path, tiny_config):
    path = tmp_path / "a.flac"
    soundfile.write(path, synthetic_voice(0.5), 22050)
    path.write_bytes(path.read_bytes()[:6000])
    clips = Clips([path], tiny_config)  # its header is whole
    with pytest.raises(ValueError, match="data: .*a.flac is damaged"):
        clips.whole(0)


def test_seconds(wavs, tiny_config):
    clips = Clips(sorted(wavs.iterdir()), tiny_config)
    assert clips.seconds == pytest.approx(sum(0.1 + 0.05 * i for i in range(6)), abs=1e-3)


def test_voice_is_deterministic_and_in_range():
    a, b, c = synthetic_voice(0.5, seed=3), synthetic_voice(0.5, seed=3), synthetic_voice(0.5, seed=4)
    assert a.dtype == np.float32 and a.shape == (11025,) and 0.5 < np.abs(a).max() <= 1
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    with pytest.raises(ValueError, match="seconds: expected more than 0, got 0"):
        synthetic_voice(0)


def test_voice_is_speech_like():
    """Most energy below 4 kHz, loud and quiet stretches."""
    voice = synthetic_voice(3.0)
    power = np.abs(np.fft.rfft(voice)) ** 2
    assert power[: int(len(power) * 4000 / 11025)].sum() > 0.9 * power.sum()
    loudness = np.sqrt(np.square(voice[:66000].reshape(-1, 660)).mean(1))
    assert loudness.max() > 20 * loudness.min()

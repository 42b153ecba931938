import sys

import librosa
import numpy as np
import pytest
import torch

from hifigan_fast.training import mel as mel_module
from hifigan_fast.training.config import load_config
from hifigan_fast.training.mel import mel_spectrogram
from hifigan_fast.voice import synthetic_voice


def expected_mel(y, c, fmax):
    """The original's arithmetic by librosa in float64."""
    pad = (c.n_fft - c.hop_size) // 2
    y = np.pad(y.astype(np.float64), pad, "reflect")
    spectrum = librosa.stft(y, n_fft=c.n_fft, hop_length=c.hop_size, win_length=c.win_size, center=False)
    magnitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-9)
    mel = librosa.feature.melspectrogram(S=magnitude, sr=c.sampling_rate, n_mels=c.num_mels, fmin=c.fmin, fmax=fmax)
    return np.log(np.maximum(mel, 1e-5))


@pytest.mark.parametrize("fmax", [8000, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_against_librosa(fmax, dtype, tolerance):
    config = load_config("v1")
    voice = np.stack([synthetic_voice(0.5, seed=seed) for seed in (0, 1)])
    found = mel_spectrogram(torch.from_numpy(voice).to(dtype), config, fmax)
    expected = np.stack([expected_mel(y, config, fmax) for y in voice])
    assert found.dtype == dtype and found.shape == (2, 80, voice.shape[1] // 256)
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_window_shorter_than_the_transform():
    config = load_config("v1", win_size=800)
    voice = synthetic_voice(0.3)
    found = mel_spectrogram(torch.from_numpy(voice).double()[None], config, 8000)
    np.testing.assert_allclose(found[0].numpy(), expected_mel(voice, config, 8000), rtol=1e-9, atol=1e-9)


def test_tables_are_built_once():
    config = load_config("v1")
    mel_module._filterbank.cache_clear()
    for _ in range(3):
        mel_spectrogram(torch.zeros(1, 2048), config, 8000)
        mel_spectrogram(torch.zeros(1, 2048), config, None)
    assert mel_module._filterbank.cache_info().misses == 2


def test_silence_has_a_finite_gradient():
    y = torch.zeros(1, 2048, requires_grad=True)
    mel_spectrogram(y, load_config("v1"), 8000).sum().backward()
    assert torch.isfinite(y.grad).all()


def test_tables_of_inference_mode_serve_training_too():
    config = load_config("v2", num_mels=40)  # of no other test: its tables are made here
    with torch.inference_mode():
        mel_spectrogram(torch.zeros(1, 2048, dtype=torch.float64), config, 7000)
    y = torch.zeros(1, 2048, dtype=torch.float64, requires_grad=True)
    mel_spectrogram(y, config, 7000).sum().backward()
    assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.zeros(1, 384), ValueError, r"y: expected \[B, T\] with T > 384 for the reflect pad, got \[1, 384\]"),
        (torch.zeros(1, 1, 2048), ValueError, r"y: expected \[B, T\].* got \[1, 1, 2048\]"),
        (torch.zeros(1, 2048, dtype=torch.bfloat16), TypeError, "y: expected float32 or float64, got torch.bfloat16"),
        (torch.zeros(1, 2048, dtype=torch.int16), TypeError, "got torch.int16"),
    ],
)
def test_bad_input(y, error, message):
    with pytest.raises(error, match=message):
        mel_spectrogram(y, load_config("v1"), 8000)


def test_without_librosa_the_message_says_what_to_install(monkeypatch):
    mel_module._filterbank.cache_clear()
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"training needs librosa: pip install 'hifigan-fast\[train\]'"):
        mel_spectrogram(torch.zeros(1, 2048), load_config("v1"), 8000)

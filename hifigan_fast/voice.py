"""A synthetic voice: speech-like test signals that need no file."""

from pathlib import Path

import numpy as np

from .extras import require

# Formant frequencies in Hz of five vowels (a, e, i, o, u), after Peterson and Barney 1952.
_VOWELS = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240]])
_BANDWIDTHS = np.array([90.0, 110.0, 160.0])
_SYLLABLE = 0.18  # seconds from one vowel to the next


def synthetic_voice(seconds, sampling_rate=22050, seed=0):
    """A speech-like signal: glottal pulses under moving formants, unvoiced bursts and pauses.

    Args:
        seconds: length, above 0.
        sampling_rate: in Hz.
        seed: equal seeds give equal signals.

    Returns: float32 array [seconds · sampling_rate] in [-1, 1].
    """
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {seconds!r}")
    random = np.random.default_rng(seed)
    length = max(1, round(seconds * sampling_rate))
    time = np.arange(length) / sampling_rate
    syllables = int(seconds / _SYLLABLE) + 2
    onsets = _SYLLABLE * np.arange(syllables)

    pitch = np.interp(time, onsets, random.uniform(90, 220, syllables)) * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))
    targets = _VOWELS[random.integers(len(_VOWELS), size=syllables)]
    formants = np.stack([np.interp(time, onsets, target) for target in targets.T])

    kind = random.choice(["voiced", "unvoiced", "pause"], size=syllables, p=[0.7, 0.15, 0.15])
    centres = onsets + _SYLLABLE / 2
    voicing = np.interp(time, centres, kind == "voiced")
    breath = np.interp(time, centres, kind == "unvoiced")
    # White noise differenced twice is as bright as a fricative.
    noise = np.diff(random.standard_normal(length + 2), n=2) * 0.06 * breath
    signal = voicing * _pulses(pitch, formants, sampling_rate) + noise + 1e-4 * random.standard_normal(length)
    return (0.9 * signal / np.abs(signal).max()).astype(np.float32)


def _pulses(pitch, formants, sampling_rate):
    """The harmonics of `pitch` [T], in phase like a glottal pulse's, each as loud as the `formants` [3, T] make it."""
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    signal = np.zeros_like(pitch)
    for harmonic in range(1, int(sampling_rate / 2 / pitch.min())):
        frequency = harmonic * pitch
        resonance = sum(b**2 / (b**2 + (frequency - f) ** 2) for f, b in zip(formants, _BANDWIDTHS, strict=True))
        loudness = (resonance + 0.01) / harmonic * (frequency < 0.45 * sampling_rate)  # a voice falls by 6 dB an octave
        signal += loudness * np.cos(harmonic * phase)
    return signal


def write_clips(folder, count, seconds, sampling_rate=22050):
    """Write `count` clips of synthetic voice to `folder` as 16-bit wavs; clip i has seed i. Returns their paths."""
    require("writing wavs", "train", "soundfile")
    import soundfile

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"voice-{i:04d}.wav" for i in range(count)]
    for seed, path in enumerate(paths):
        soundfile.write(path, synthetic_voice(seconds, sampling_rate, seed), sampling_rate, subtype="PCM_16")
    return paths

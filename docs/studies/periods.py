"""What a period's fold sees of real speech, and how much the periods of a set see twice: no training.

A column of period p is the waveform at rate/p, without a filter before it: what lies above rate/2p is folded down.
Convolutions are (k × 1), so that two samples meet in a stack only where their distance is a multiple of its period.
"""

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hifigan_fast import DiscriminatorP
from hifigan_fast.discriminators import stack_of
from hifigan_fast.extras import require

from . import results
from .clips import Data
from .runs import PERIODS

LOWEST, HIGHEST = 65.0, 500.0  # Hz, of a voice's pitch
WINDOW, HOP = 2048, 512  # samples of a frame, and from one to the next
LOBE = 2  # bins from a Hann window's peak to its first zero
HEARD = 0.1  # of a partial's energy: what another must have to hide it
DISTANCES = 1024  # samples: a mel's window, and most pitch periods eight times
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
ALONE, ALIASED, MERGED = "alone", "aliased", "merged"


class Frame(NamedTuple):
    """A voiced frame: its pitch in Hz and its samples [WINDOW]."""

    f0: float
    samples: np.ndarray


def voiced(path: Path) -> tuple[list[Frame], int]:
    """The voiced frames of a clip, by librosa's pyin, and its sampling rate."""
    require("finding the pitch", "train", "librosa", "soundfile")
    import librosa
    import soundfile

    audio, rate = soundfile.read(path, dtype="float32")
    f0, is_voiced, _ = librosa.pyin(
        audio, fmin=LOWEST, fmax=HIGHEST, sr=rate, frame_length=WINDOW, hop_length=HOP, center=True
    )
    padded = np.pad(audio, WINDOW // 2 + WINDOW)
    starts = WINDOW + HOP * np.arange(len(f0))
    return [Frame(f0[i], padded[starts[i] : starts[i] + WINDOW]) for i in np.flatnonzero(is_voiced)], rate


def partials(frame: Frame, rate: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Frequencies and energies of the pitch and its harmonics, and the energy of the whole frame."""
    power = np.abs(np.fft.rfft(frame.samples * np.hanning(WINDOW))) ** 2
    frequencies = np.arange(frame.f0, rate / 2, frame.f0)
    bins = np.rint(frequencies * WINDOW / rate).astype(int)
    energies = [power[max(0, b - LOBE) : b + LOBE + 1].sum() for b in bins]
    return frequencies, np.array(energies), float(power.sum())


@functools.cache
def fields() -> list[int]:
    """How many rows of a column an output of each layer of a period's stack depends on."""
    rows, step, found = 1, 1, []
    for layer in stack_of(DiscriminatorP(2)).layers:
        rows += (layer.taps - 1) * step
        step *= layer.stride
        found.append(rows)
    return found


def folded(frequencies: np.ndarray, energies: np.ndarray, period: int, rate: int) -> dict[str, np.ndarray]:
    """Which partials a column of this period keeps apart, as they are or aliased, and which merge.

    Two merge where they come nearer than one over the time that the stack sees (at most a frame, for which the pitch
    was measured), unless the other is below a tenth.
    """
    column = rate / period
    places = np.abs(frequencies - column * np.rint(frequencies / column))
    nearest = max(column / fields()[-1], rate / WINDOW)
    hidden = (np.abs(places[:, None] - places) < nearest) & (energies >= HEARD * energies[:, None])
    np.fill_diagonal(hidden, False)
    merged, low = hidden.any(1), frequencies < column / 2
    return {ALONE: ~merged & low, ALIASED: ~merged & ~low, MERGED: merged}


def pitch_set(pitch_periods: np.ndarray) -> list[int]:
    """Where the clips' own pitch repeats: five quantiles of its period in samples, whole ones."""
    return [round(float(q)) for q in np.quantile(pitch_periods, QUANTILES)]


def resemblance(frames: Iterable[Frame]) -> np.ndarray:
    """|autocorrelation| at distances from 1 to `DISTANCES`, the mean over frames: what one sample says of another."""
    total, count = np.zeros(DISTANCES), 0
    for frame in frames:
        x = frame.samples - frame.samples.mean()
        found = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * WINDOW)) ** 2)[: DISTANCES + 1]
        unbiased = found / (1 - np.arange(DISTANCES + 1) / WINDOW)
        total += np.abs(unbiased[1:] / unbiased[0])
        count += 1
    return total / count


def seen(periods: Iterable[int]) -> np.ndarray:
    """Which of `periods` see two samples together, [periods, DISTANCES]: true where the stack's field holds both."""
    distances, rows = np.arange(1, DISTANCES + 1), fields()[-1]
    return np.array([(distances % p == 0) & (distances // p < rows) for p in periods])


def overlap(periods: Iterable[int], weights: np.ndarray) -> dict[str, Any]:
    """What a set of periods sees of all distances: once or more, twice or more, weighted.

    And what each sees alone, and two see together: of its own distances, and of those of the one that sees fewer.
    """
    by_period = seen(periods)
    times = by_period.sum(0)
    own = [float((times[row] == 1).mean()) for row in by_period]
    pairs = [(a & b).sum() / min(a.sum(), b.sum()) for a, b in itertools.combinations(by_period, 2)]
    return {
        "covered": round(float((times > 0).mean()), 4),
        "twice": round(float((times > 1).mean()), 4),
        "weighted": round(float(weights[times > 0].sum() / weights.sum()), 4),
        "own": dict(zip(map(str, periods), (round(share, 4) for share in own))),
        "pairs": [round(float(share), 4) for share in pairs],
    }


def measure(data: Data, folder: Path = results.RESULTS) -> None:
    """Measure all of it on the clips, and write the result."""
    read = [voiced(path) for path in data.paths]
    frames, rate = [frame for own, _ in read for frame in own], read[0][1]
    if any(other != rate for _, other in read) or not frames:
        raise ValueError(f"--data: expected voiced speech of one sampling rate, got {len(frames)} voiced frames")
    pitch_periods = np.array([rate / frame.f0 for frame in frames])
    periods = sorted({p for chosen in PERIODS.values() for p in chosen})
    found = [partials(frame, rate) for frame in frames]
    weights = resemblance(frames)
    result = {
        "data": data.digest,
        "conditions": results.conditions(),
        "rate": rate,
        "frames": len(frames),
        "f0": {str(q): round(float(np.quantile(rate / pitch_periods, q)), 1) for q in QUANTILES},
        "pitch_set": pitch_set(pitch_periods),
        "harmonic_share": round(sum(e.sum() for _, e, _ in found) / sum(whole for *_, whole in found), 4),
        "folds": {str(p): _shares(found, p, rate) for p in periods},
        "reach": {str(p): [round(float((rows * p >= pitch_periods).mean()), 4) for rows in fields()] for p in periods},
        "sets": {name: overlap(chosen, weights) for name, chosen in PERIODS.items()},
    }
    results.write(folder / "periods.json", result)


def _shares(frames, period, rate):
    """Of all frames' partials: [share of their energy, share of their number], by what a column does to them."""
    sums = {kind: np.zeros(2) for kind in (ALONE, ALIASED, MERGED)}
    for frequencies, energies, _ in frames:
        for kind, which in folded(frequencies, energies, period, rate).items():
            sums[kind] += energies[which].sum(), which.sum()
    return {kind: [round(float(share), 4) for share in own / sum(sums.values())] for kind, own in sums.items()}

"""Clips and mels on disk: which there are, what belongs together, and their headers."""

import collections
import contextlib
import os
from pathlib import Path

import numpy as np

from ..extras import require

VALIDATION_SHARE = 150 / 13100  # of LJSpeech's clips, in the original's lists
WAV, FLAC = ".wav", ".flac"
NOT_READ = {".aac", ".aif", ".aiff", ".m4a", ".mp3", ".ogg", ".opus", ".wma"}


def find_clips(folder):
    """The training and validation clips of a folder, two lists of paths.

    The original's `training.txt` and `validation.txt` (lines `name|…`, clips in the folder or in its `wavs`) count
    where they exist; otherwise all wavs below the folder, and FLAC files without a wav of their name beside them, the
    last 150 of 13,100 in sorted order held out, at least 1. Links to folders are followed; a folder counts once.
    """
    folder = _folder(folder)
    if (folder / "training.txt").is_file():
        training, validation = _listed(folder, "training.txt"), _listed(folder, "validation.txt")
    else:
        clips = clips_below(folder)
        held_out = max(1, round(len(clips) * VALIDATION_SHARE))
        training, validation = clips[:-held_out], clips[-held_out:]
    if not training or not validation:
        raise ValueError(
            f"data: expected at least 2 wavs in {str(folder)!r}, or FLAC files, 1 of them for validation, "
            f"got {len(training) + len(validation)}{hint(folder)}"
        )
    return training, validation


def _folder(path):
    if not Path(path).is_dir():
        raise ValueError(f"data: expected a folder of wavs, got {str(path)!r}, which is no folder")
    return Path(path)


def _listed(folder, name):
    path = folder / name
    if not path.is_file():
        raise ValueError(f"data: {str(folder)!r} has a training.txt but no {name}; expected both or neither")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"data: {path}, line {number}: expected UTF-8, got {error}") from None
    clips = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):  # splitlines() ends at U+2028, too
        if not line.strip():
            continue
        clip = line.split("|")[0]
        places = [place / (clip + suffix) for suffix in (WAV, FLAC) for place in (folder, folder / "wavs")]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ValueError(f"data: {path}, line {number}: no file {' and no file '.join(map(str, places))}")
        clips.append(found[0])
    return clips


def clips_below(folder):
    """All clips below a folder, sorted: its wavs, and FLAC files without a wav of their name beside them."""
    clips = [path for path in files_below(_folder(folder)) if path.suffix.lower() in (WAV, FLAC)]
    wavs = {path.with_suffix("") for path in clips if path.suffix.lower() == WAV}
    return sorted(path for path in clips if path.suffix.lower() == WAV or path.with_suffix("") not in wavs)


def files_below(folder):
    """Every file below a folder, links followed. A folder counts once: by its own path, else by the first link's."""
    seen, waiting = set(), collections.deque([Path(folder)])
    while waiting:
        here = waiting.popleft()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        for path in sorted(here.iterdir()):
            if path.is_file():
                yield path
            elif path.is_dir():
                (waiting.append if path.is_symlink() else waiting.appendleft)(path)
            elif path.is_symlink() and not path.name.startswith("."):  # an editor's lock is a hidden link to nothing
                raise ValueError(f"data: {path} is a link to {os.readlink(path)}, which is not there")


def hint(folder):
    """What else a folder without clips has, in words."""
    others = collections.Counter(path.suffix.lower() for path in files_below(folder))
    found = [f"{others[suffix]} {suffix} files" for suffix in sorted(NOT_READ & others.keys())]
    return f"; convert its {' and '.join(found)} to wav or FLAC" if found else ""


def find_mels(folder, data, clips):
    """The mel of each clip, a dict of paths: `<name>.npy`, its name being its path in `data` or in `data`/wavs.

    Where that does not exist, a clip whose file name no other clip has takes `<file name>.npy`. ValueError where
    two clips claim one mel.

    Args:
        folder: the mels' folder.
        data, clips: the folder of clips and all clips in it, held-out ones included (`find_clips`).
    """
    folder, data = Path(folder), Path(data)
    if not folder.is_dir():
        raise ValueError(f"fine-tune: expected a folder of .npy mels, got {str(folder)!r}, which is no folder")
    mels = {clip: folder / _name(clip, data).with_suffix(".npy") for clip in clips}
    namesakes = _grouped({clip: clip.stem for clip in mels})
    for clip, mel in mels.items():
        by_stem = folder / f"{clip.stem}.npy"
        if not mel.is_file() and by_stem.is_file():
            _refuse_rivals(by_stem, namesakes[clip.stem])
            mels[clip] = by_stem
    for mel, owners in _grouped(mels).items():
        _refuse_rivals(mel, owners)
    return mels


def _name(clip, data):
    for base in (data / "wavs", data):
        if clip.is_relative_to(base) and ".." not in clip.relative_to(base).parts:
            return clip.relative_to(base)
    return Path(clip.name)


def _grouped(values):
    """The keys of each value of a dict."""
    keys = collections.defaultdict(list)
    for key, value in values.items():
        keys[value].append(key)
    return keys


def _refuse_rivals(mel, clips):
    if len(clips) > 1:
        raise ValueError(
            f"fine-tune: {mel} could belong to {len(clips)} clips, {clips[0]} and {clips[1]}; expected each clip's "
            "mel at its path in the data folder"
        )


@contextlib.contextmanager
def opened_clip(path, sampling_rate=None, argument="data"):
    """An open, readable, mono clip (a `soundfile.SoundFile`) of the rate, if one is given, with at least one sample.

    Errors name the argument that it came by.
    """
    require("training", "train", "soundfile")
    import soundfile

    try:
        clip = soundfile.SoundFile(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"{argument}: {path} is not a readable {path.suffix[1:] or 'clip'}: {error}") from None
    with clip:
        if sampling_rate is not None and clip.samplerate != sampling_rate:
            raise ValueError(
                f"{argument}: {path} has {clip.samplerate} Hz, expected the configuration's {sampling_rate} Hz"
            )
        if clip.channels != 1:
            raise ValueError(f"{argument}: {path} has {clip.channels} channels, expected 1")
        if clip.frames == 0:
            raise ValueError(f"{argument}: {path} has no samples, expected at least 1")
        yield clip


def read_clip(path, sampling_rate=None):
    """All samples of a clip (`opened_clip`), float64 [T], each finite."""
    with opened_clip(path, sampling_rate) as clip:
        return read_samples(clip, 0, clip.frames, "data")


def read_samples(clip, first, last, argument):
    """The samples from first up to last of an `opened_clip`, float64."""
    import soundfile

    name = f"{argument}: {clip.name}"
    try:
        clip.seek(first)
        audio = clip.read(last - first, dtype="float64")
    except soundfile.SoundFileError as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    if len(audio) < last - first:
        raise ValueError(f"{name} is damaged: it ends after {first + len(audio)} of {clip.frames} samples")
    check_finite(name, audio, first)
    return audio


def opened_mel(path, config, argument):
    """A memory-mapped log-mel [num_mels, frames]; errors name the argument that it came by."""
    try:
        mel = np.lib.format.open_memmap(path, mode="r")  # np.load opens archives, too
    except (OSError, ValueError) as error:
        raise ValueError(f"{argument}: {path} is not a readable mel: {error}") from None
    shape, mel = mel.shape, mel[0] if mel.ndim == 3 and len(mel) == 1 else mel
    if mel.ndim != 2 or mel.shape[0] != config.num_mels or not mel.shape[1] or mel.dtype.kind != "f":
        raise ValueError(
            f"{argument}: {path} has shape {shape} and dtype {mel.dtype}, "
            f"expected a floating ({config.num_mels}, frames)"
        )
    return mel


def opened_mel_of(clip, path, config, samples):
    """As `opened_mel`, of a clip of `samples`: a frame a hop, or one more or less."""
    mel = opened_mel(path, config, "fine-tune")
    frames = samples // config.hop_size
    if abs(mel.shape[1] - frames) > 1:
        raise ValueError(
            f"fine-tune: {path} has {mel.shape[1]} frames, expected {frames}, or one more or less at the end: "
            f"{clip} has {samples} samples, the hop {config.hop_size}"
        )
    return mel


def read_mel_of(clip, path, config, samples):
    """As `opened_mel_of`, read: float32."""
    mel = np.array(opened_mel_of(clip, path, config, samples))
    check_finite(f"fine-tune: {path}", mel)
    return mel.astype(np.float32)


def check_finite(name, values, begin=0):
    """Raise ValueError unless all values of an array are finite, as float32; its last axis begins at index `begin`."""
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(values.astype(np.float32)))
    if len(bad):
        first = tuple(bad[0].tolist())
        at = *first[:-1], begin + first[-1]
        raise ValueError(
            f"{name} has {len(bad)} values that are not finite in float32, the first is {values[first]} at index "
            f"{', '.join(map(str, at))}"
        )

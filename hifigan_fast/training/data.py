"""Clips on disk, the random crops of each epoch, and their order (jik876/hifi-gan `meldataset.py`)."""

import contextlib
import functools
import itertools
import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..extras import require

VALIDATION_SHARE = 150 / 13100  # of LJSpeech's clips, in the original's lists


def find_clips(folder):
    """The training and validation wavs of a folder, two lists of paths.

    The original's `training.txt` and `validation.txt` (lines `name|…`, wavs in the folder or in its `wavs`) count where
    they exist; otherwise all *.wav files below the folder, the last 150 of 13,100 in sorted order held out, at least 1.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"data: expected a folder of wavs, got {str(folder)!r}, which is no folder")
    if (folder / "training.txt").is_file():
        training, validation = _listed(folder, "training.txt"), _listed(folder, "validation.txt")
    else:
        clips = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
        held_out = max(1, round(len(clips) * VALIDATION_SHARE))
        training, validation = clips[:-held_out], clips[-held_out:]
    if not training or not validation:
        raise ValueError(
            f"data: expected at least 2 wavs in {str(folder)!r}, 1 of them for validation, "
            f"got {len(training) + len(validation)}"
        )
    return training, validation


def _listed(folder, name):
    if not (folder / name).is_file():
        raise ValueError(f"data: {str(folder)!r} has a training.txt but no {name}; expected both or neither")
    clips = []
    for number, line in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        wav = line.split("|")[0] + ".wav"
        places = [folder / wav, folder / "wavs" / wav]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ValueError(f"data: {folder / name}, line {number}: no file {places[0]} and no file {places[1]}")
        clips.append(found[0])
    return clips


@contextlib.contextmanager
def _opened_wav(path, sampling_rate):
    """An open, readable, mono wav of the expected rate with at least one sample."""
    require("training", "train", "soundfile")
    import soundfile

    try:
        wav = soundfile.SoundFile(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"data: {path} is not a readable wav: {error}") from None
    with wav:
        if wav.samplerate != sampling_rate:
            raise ValueError(f"data: {path} has {wav.samplerate} Hz, expected the configuration's {sampling_rate} Hz")
        if wav.channels != 1:
            raise ValueError(f"data: {path} has {wav.channels} channels, expected 1")
        if wav.frames == 0:
            raise ValueError(f"data: {path} has no samples, expected at least 1")
        yield wav


def _open_mel(path, config, samples):
    """A memory-mapped mel [num_mels, frames] whose frames fit a clip of `samples`."""
    try:
        mel = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"fine-tune: {path} is not a readable mel: {error}") from None
    mel = mel[0] if mel.ndim == 3 and len(mel) == 1 else mel
    most = samples // config.hop_size + 1
    if mel.ndim != 2 or mel.shape[0] != config.num_mels or not 0 < mel.shape[1] <= most:
        raise ValueError(
            f"fine-tune: {path} has shape {mel.shape}, expected ({config.num_mels}, at most {most} frames for a clip "
            f"of {samples} samples)"
        )
    return mel


class Clips(Dataset):
    """Clips as float32 tensors: whole, or a random crop of `segment_size` samples.

    Every file's header is read at once, so that a bad file is an error (ValueError, naming it) before the first step.

    Args:
        paths: mono wavs of the configuration's sampling rate.
        config: a `Config`.
        mels: folder of `<name>.npy` mels [num_mels, frames] or [1, num_mels, frames] to fine-tune on, or None.
    """

    def __init__(self, paths, config, mels=None):
        self.paths = list(paths)
        self.config = config
        self.mels = None if mels is None else Path(mels)
        if self.mels is not None and not self.mels.is_dir():
            raise ValueError(f"fine-tune: expected a folder of .npy mels, got {str(mels)!r}, which is no folder")
        self.seconds = 0.0  # of all clips
        for path in self.paths:
            with _opened_wav(path, config.sampling_rate) as wav:
                self.seconds += wav.frames / config.sampling_rate
                if self.mels is not None:
                    _open_mel(self._mel_path(path), config, wav.frames)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        """(epoch, index) -> a crop [segment_size], and when fine-tuning its mel [num_mels, frames]."""
        epoch, index = key
        # A generator an item: the crop depends on neither the workers nor the clips read before. Entry 0 is the epoch's
        # order (`Order`), so items count from 1.
        random = np.random.default_rng((self.config.seed, epoch, index + 1))
        audio, *mel = self.whole(index)
        return self._crop_with_mel(audio, *mel, random) if mel else (self._crop(audio, random),)

    def whole(self, index):
        """A whole clip [T], and when fine-tuning its mel [num_mels, frames]; zero-padded to a segment if shorter."""
        path = self.paths[index]
        with _opened_wav(path, self.config.sampling_rate) as wav:
            audio = wav.read(dtype="float64")
        if self.mels is not None:
            mel = np.array(_open_mel(self._mel_path(path), self.config, len(audio)), dtype=np.float32)
            frames = self.config.segment_size // self.config.hop_size
            return _padded(audio, self.config.segment_size), _padded(mel, frames)
        peak = np.abs(audio).max()
        audio = audio / (peak if peak > 0 else 1.0) * 0.95
        return (_padded(audio, self.config.segment_size),)

    def _mel_path(self, path):
        return self.mels / f"{path.stem}.npy"

    def _crop(self, audio, random):
        start = random.integers(len(audio) - self.config.segment_size, endpoint=True)
        return audio[start : start + self.config.segment_size].clone()

    def _crop_with_mel(self, audio, mel, random):
        """The original's arithmetic: whole frames, and not the mel's last one, which may reach beyond the clip."""
        hop = self.config.hop_size
        frames = self.config.segment_size // hop
        start = random.integers(max(0, mel.shape[1] - frames - 1), endpoint=True)
        return audio[start * hop : (start + frames) * hop].clone(), mel[:, start : start + frames].clone()


def _padded(array, length):
    """A float32 tensor of `array`, zeros behind it up to `length`."""
    tensor = torch.from_numpy(array).float()
    return torch.nn.functional.pad(tensor, (0, max(0, length - tensor.shape[-1])))


class Order(Sampler):
    """Batches of (epoch, index) keys without end: every epoch a new shuffle, its last incomplete batch dropped.

    The order is that of one process with the whole batch; rank r of n takes the r-th n-th of each batch, so that the
    mean of the ranks' gradients is that process's gradient.

    Args:
        clips: number of clips, at least batch_size.
        config: a `Config`; its seed and batch_size (the total over all ranks) are read.
        rank, ranks: this process and their number; ranks divides batch_size.
    """

    def __init__(self, clips, config, rank=0, ranks=1):
        if clips < config.batch_size:
            raise ValueError(
                f"batch_size: expected at most the number of training clips, {clips}, got {config.batch_size}; "
                "an incomplete batch is dropped, so no step would ever run"
            )
        if config.batch_size % ranks:
            raise ValueError(f"batch_size: expected a multiple of the {ranks} processes, got {config.batch_size}")
        self.clips, self.config = clips, config
        self.rank, self.share = rank, config.batch_size // ranks
        self.batches_per_epoch = clips // config.batch_size
        self.begin(0, 0)

    def begin(self, epoch, batch):
        """Begin at this batch of this epoch."""
        self.epoch, self.batch = epoch, batch

    def whole_batch(self, epoch, batch):
        """The indices of the clips of one batch, over all ranks."""
        order = _shuffled(self.clips, self.config.seed, epoch)
        return order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]

    def __iter__(self):
        first_batch, first = self.batch, self.rank * self.share
        for epoch in itertools.count(self.epoch):
            for batch in range(first_batch, self.batches_per_epoch):
                yield [(epoch, index) for index in self.whole_batch(epoch, batch)[first : first + self.share]]
            first_batch = 0


@functools.lru_cache(maxsize=2)
def _shuffled(clips, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(clips).tolist()


def endless_batches(clips, order, device):
    """The batches of `clips` in `order`, forever: lists of tensors [B, …], pinned where `device` is CUDA."""
    loader = DataLoader(
        clips,
        batch_sampler=order,
        num_workers=min(clips.config.num_workers, os.cpu_count()),  # torch warns of more
        collate_fn=_as_arrays,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    for arrays in loader:
        tensors = [torch.from_numpy(array) for array in arrays]
        yield [tensor.pin_memory() for tensor in tensors] if device.type == "cuda" else tensors


def _as_arrays(items):
    # Arrays leave a worker through its pipe. Tensors would need shared memory, which containers are short of, and a
    # handshake that an interrupt breaks.
    return [torch.stack(parts).numpy() for parts in zip(*items, strict=True)]


def _leave_signals_to_the_main_process(_):
    # Terminals, launchers and schedulers send them to the whole group; the main process ends its workers itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

"""The random crops of each epoch, and their order (jik876/hifi-gan `meldataset.py`)."""

import itertools
import os
import signal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .files import find_clips, find_mels, opened_clip, opened_mel_of, read_clip, read_mel_of


def open_clips(data, config, fine_tune=None):
    """The training and the held-out `Clips` of a folder (`files.find_clips`), and of one of mels to fine-tune on."""
    training, held_out = find_clips(data)
    mels = None if fine_tune is None else find_mels(fine_tune, data, training + held_out)
    return Clips(training, config, mels), Clips(held_out, config, mels)


class Clips(Dataset):
    """Clips as float32 tensors: whole, or a random crop of `segment_size` samples.

    Every file's header is read at once, so that a bad file is an error (ValueError, naming it) before the first step;
    a value that is not finite is one where the clip is read.

    Args:
        paths: mono clips of the configuration's sampling rate.
        config: a `Config`.
        mels: the mel of each path, [num_mels, frames] or [1, num_mels, frames], to fine-tune on (`files.find_mels`), or
            None.
    """

    def __init__(self, paths, config, mels=None):
        self.paths, self.config, self.mels = list(paths), config, mels
        self.seconds = 0.0  # of all clips
        for path in self.paths:
            with opened_clip(path, config.sampling_rate) as clip:
                self.seconds += clip.frames / config.sampling_rate
                if mels is not None:
                    opened_mel_of(path, mels[path], config, clip.frames)

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
        path, segment = self.paths[index], self.config.segment_size
        audio = read_clip(path, self.config.sampling_rate)
        if self.mels is not None:
            mel = read_mel_of(path, self.mels[path], self.config, len(audio))
            audio = audio[: mel.shape[1] * self.config.hop_size]  # where the mel ends a frame early, so does the clip
            return _padded(audio, segment), _padded(mel, segment // self.config.hop_size)
        peak = np.abs(audio).max()
        audio = audio / (peak if peak > 0 else 1.0) * 0.95
        return (_padded(audio, segment),)

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

    def __iter__(self):
        first_batch = self.batch
        for epoch in itertools.count(self.epoch):
            order = np.random.default_rng((self.config.seed, epoch)).permutation(self.clips).tolist()
            for batch in range(first_batch, self.batches_per_epoch):
                first = batch * self.config.batch_size + self.rank * self.share
                yield [(epoch, index) for index in order[first : first + self.share]]
            first_batch = 0


def endless_batches(clips, order, device):
    """The batches of `clips` in `order`, forever: lists of tensors [B, …], pinned where `device` is CUDA."""
    loader = DataLoader(
        _Answers(clips),
        batch_sampler=order,
        num_workers=min(clips.config.num_workers, os.cpu_count()),  # torch warns of more
        collate_fn=_as_arrays,
        worker_init_fn=_leave_interrupts_to_the_main_process,
    )
    for arrays in loader:
        if isinstance(arrays, ValueError):
            raise arrays
        tensors = [torch.from_numpy(array) for array in arrays]
        yield [tensor.pin_memory() for tensor in tensors] if device.type == "cuda" else tensors


class _Answers(Dataset):
    """The items of `clips`, and a bad clip's error as its item: raised in a worker, torch buries it in a traceback."""

    def __init__(self, clips):
        self.clips = clips

    def __getitem__(self, key):
        try:
            return self.clips[key]
        except ValueError as error:
            return error


def _as_arrays(items):
    for item in items:
        if isinstance(item, ValueError):
            return item
    # Arrays leave a worker through its pipe. Tensors would need shared memory, which containers are short of, and a
    # handshake that an interrupt breaks.
    return [torch.stack(parts).numpy() for parts in zip(*items, strict=True)]


def _leave_interrupts_to_the_main_process(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

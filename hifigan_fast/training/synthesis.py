"""From mels to waveforms of any length, chunk by chunk, and `hifigan-fast synthesize`'s work: from files to wavs."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..extras import require
from .checkpoint import load_generator
from .config import Config, load_config
from .files import FLAC, WAV, check_finite, files_below, opened_clip, opened_mel, read_samples
from .generator import Generator, reach
from .mel import log_mel
from .processes import pick_device

MEL = ".npy"
CHUNK = 1 << 16  # samples at a time, about: what the generator keeps of them in memory does not grow with the clip


def generate(
    generator: Generator,
    config: Config,
    mel: Callable[[int, int], torch.Tensor],
    frames: int,
    chunk: int | None = None,
) -> Iterator[torch.Tensor]:
    """The waveform of a mel, piece by piece: to rounding what `generator` makes of the whole.

    Each chunk is generated with as many frames around it as its samples depend on (`generator.reach`).

    Args:
        generator: a `Generator` of `config`.
        mel: (first, last) -> the frames from first up to last, [1, num_mels, last - first].
        frames: how many there are.
        chunk: frames at a time; default: those of `CHUNK` samples.

    Yields: tensors [1, samples], frames · hop_size samples in all.
    """
    chunk = chunk or max(1, CHUNK // config.hop_size)
    before, behind = reach(config)
    for first in range(0, frames, chunk):
        last = min(first + chunk, frames)
        start = max(0, first - before)
        y = generator(mel(start, min(last + behind, frames))).squeeze(1)
        yield y[:, (first - start) * config.hop_size : (last - start) * config.hop_size]


def generate_whole(generator: Generator, config: Config, mel: torch.Tensor) -> torch.Tensor:
    """`generate` of a mel [1, num_mels, frames] in memory -> [1, frames · hop_size]."""
    pieces = generate(generator, config, lambda first, last: mel[..., first:last], mel.shape[2])
    return torch.cat(list(pieces), 1)


@torch.inference_mode()
def synthesize(
    checkpoint: str | Path,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    config: str | Path | None = None,
    device: str | None = None,
) -> float:
    """Write a 16-bit wav for each input: copy synthesis of wavs, vocoding of mels. Memory does not grow with length.

    Args:
        checkpoint: a `g_*` file.
        inputs: paths of mono wavs at the configuration's sampling rate, of log-mels as .npy, floating, [num_mels,
            frames] or [1, num_mels, frames], and of folders of both. Wavs are not normalised, as in the original.
        out: folder of the results, `<name>.wav` each; a folder's keep their places in it.
        config: a name or path as for `load_config`; default: the config.json beside the checkpoint.
        device: as for `processes.pick_device`.

    Returns: seconds of audio written. Raises ValueError, before anything is written, for an input, a checkpoint or a
    configuration that does not fit, and later for values that are not finite, in an input or a result.
    """
    require("synthesis", "train", "soundfile", "librosa", "tqdm")
    from tqdm import tqdm

    place = pick_device(device)
    settings = load_config(_config_beside(checkpoint) if config is None else config)
    targets = _targets(inputs, Path(out))
    seconds = 0.0
    for path in targets:
        with _opened(path, settings, place) as (_, frames):
            seconds += frames * settings.hop_size / settings.sampling_rate
    generator = Generator(settings)
    load_generator(generator, checkpoint)
    generator.remove_weight_norm()
    generator.to(place).eval()
    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=seconds, bar_format=layout, disable=None) as bar:
        for path, target in targets.items():
            with _opened(path, settings, place) as (mel, frames), _written(target, settings.sampling_rate) as wav:
                for piece in generate(generator, settings, mel, frames):
                    audio = piece[0].cpu().numpy()
                    check_finite(f"checkpoint: what {checkpoint} makes of {path}", audio, wav.frames)
                    wav.write(audio)
                    bar.update(len(audio) / settings.sampling_rate)
    return seconds


def _config_beside(checkpoint):
    if not Path(checkpoint).is_file():
        raise ValueError(f"checkpoint: expected a file, got {str(checkpoint)!r}, which is no file")
    path = Path(checkpoint).parent / "config.json"
    if not path.is_file():
        raise ValueError(f"config: {path} is not there; expected it beside the checkpoint, or a --config")
    return path


def _targets(inputs, out):
    """{input file: the wav to be written}; of folders, all clips and mels below them, links followed."""
    targets = {}
    for path in map(Path, inputs):
        if path.is_dir():
            files = sorted(file for file in files_below(path) if file.suffix.lower() in (WAV, FLAC, MEL))
            if not files:
                raise ValueError(f"inputs: expected .wav, .flac or .npy files in {path}, found none")
            targets |= {file: (out / file.relative_to(path)).with_suffix(".wav") for file in files}
        elif path.is_file():
            targets[path] = (out / path.name).with_suffix(".wav")
        else:
            raise ValueError(
                f"inputs: expected wavs, .npy mels or folders of them, got {str(path)!r}, which is not there"
            )
    sources = {}
    given = {_identity(path) for path in targets}
    for path, target in targets.items():
        if target in sources:
            raise ValueError(f"inputs: {sources[target]} and {path} would both be written to {target}")
        sources[target] = path
        if target.exists() and _identity(target) in given:
            raise ValueError(f"out: {target} is an input, expected another folder")
    return targets


def _identity(path):
    """What a file is, by whichever path."""
    found = path.stat()
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _opened(path, config, device):
    """(first, last) -> the file's mel from frame first up to last, [1, num_mels, …]; and how many frames it has."""
    if path.suffix.lower() == MEL:
        mel = opened_mel(path, config, "inputs")

        def read(first, last):
            part = np.array(mel[:, first:last])
            check_finite(f"inputs: {path}", part, first)
            return torch.from_numpy(part.astype(np.float32))[None].to(device)

        yield read, mel.shape[1]
        return
    pad = (config.n_fft - config.hop_size) // 2
    with opened_clip(path, config.sampling_rate, "inputs") as clip:
        if clip.frames <= pad or clip.frames < config.hop_size:
            raise ValueError(
                f"inputs: {path} has {clip.frames} samples, expected more than {pad}, the mel's reflect pad, "
                f"and at least {config.hop_size}, a hop"
            )

        def read(first, last):
            start, stop = first * config.hop_size - pad, (last - 1) * config.hop_size - pad + config.n_fft
            samples = read_samples(clip, max(0, start), min(stop, clip.frames), "inputs")
            audio = torch.from_numpy(samples).float().to(device)
            padding = max(0, -start), max(0, stop - clip.frames)
            return log_mel(F.pad(audio[None, None], padding, "reflect")[0], config, config.fmax)

        yield read, clip.frames // config.hop_size


@contextlib.contextmanager
def _written(path, sampling_rate):
    """A wav to write to, which appears whole or not at all."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with soundfile.SoundFile(temporary, "w", sampling_rate, 1, "PCM_16", format="WAV") as wav:
            yield wav
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

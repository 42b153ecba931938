"""The configuration: the JSON keys of jik876/hifi-gan's `config_v*.json`, checked before anything runs."""

import dataclasses
import difflib
import itertools
import json
import math
import os
import types
import typing
from pathlib import Path

from ..reference import PERIODS

BUILT_IN = {name: Path(__file__).parent / "configs" / f"config_{name}.json" for name in ("v1", "v2", "v3")}


@dataclasses.dataclass
class Config:
    """Generator, mel, data and optimiser settings; lengths in samples, frequencies in Hz.

    `discriminator_periods` and `use_spectral_norm` (spectral norm in place of weight norm, in every discriminator) are
    optional, as forks of the original have them. `num_gpus`, `num_freq` and `dist_config` are accepted because the
    original's files have them; nothing reads them (torchrun says how many processes there are, n_fft how many
    frequencies).
    """

    resblock: str
    batch_size: int
    learning_rate: float
    adam_b1: float
    adam_b2: float
    lr_decay: float
    seed: int
    upsample_rates: list[int]
    upsample_kernel_sizes: list[int]
    upsample_initial_channel: int
    resblock_kernel_sizes: list[int]
    resblock_dilation_sizes: list[list[int]]
    segment_size: int
    num_mels: int
    n_fft: int
    hop_size: int
    win_size: int
    sampling_rate: int
    fmin: float
    fmax: float | None
    fmax_for_loss: float | None
    num_workers: int
    discriminator_periods: list[int] = dataclasses.field(default_factory=lambda: list(PERIODS))
    use_spectral_norm: bool = False
    num_gpus: int = 0
    num_freq: int = 0
    dist_config: dict = dataclasses.field(default_factory=dict)


def load_config(name_or_path: str | Path, **changes: object) -> Config:
    """The configuration "v1", "v2" or "v3", or that of a JSON file, with `changes` over its keys.

    Raises ValueError for a file that is no JSON object, for a missing or unknown key, for a value of the wrong type and
    for values that contradict each other; it names the key, and the file unless the value is one of `changes`.
    """
    path = BUILT_IN.get(str(name_or_path).lower(), Path(name_or_path))
    if not path.is_file():
        raise ValueError(f"config: expected v1, v2, v3 or a JSON file, got {str(name_or_path)!r}, which is no file")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"config {path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config {path}: expected a JSON object, got {type(values).__name__}")
    values.pop("resblock_initial_channel", None)  # in some published files; no program reads it
    values |= changes

    def check(problems):
        for problem in problems:
            raise ValueError(problem if problem.partition(":")[0] in changes else f"config {path}: {problem}")

    check(_key_problems(values))
    config = Config(**values)
    check(itertools.chain(_signal_problems(config), _generator_problems(config)))
    return config


def save_config(config: Config, path: str | Path) -> None:
    """Write `config` as JSON that the original and `load_config` read; whole or not at all."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(config), indent=4) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _key_problems(values):
    """What is wrong with the keys and the types of their values, one message each."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for key in values.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, 1)
        yield f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    for key, field in fields.items():
        if key in values:
            if not _is_a(values[key], field.type):
                expected = field.type.__name__ if field.type in (bool, int, str, float) else field.type
                yield f"{key}: expected {expected}, got {values[key]!r}"
        elif field.default is field.default_factory is dataclasses.MISSING:
            yield f"missing key {key!r}"


def _is_a(value, annotation):
    """Whether a JSON value fits the annotation; an integer is a float, a boolean no number, nor is NaN or Infinity."""
    if isinstance(annotation, types.UnionType):
        return any(_is_a(value, part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return isinstance(value, list) and all(_is_a(item, typing.get_args(annotation)[0]) for item in value)
    if isinstance(value, bool) or annotation is bool:
        return isinstance(value, bool) and annotation is bool
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)


def _generator_problems(c):
    """What is wrong with the generator's values, one message each."""
    rates, kernels, blocks = c.upsample_rates, c.upsample_kernel_sizes, c.resblock_dilation_sizes
    dilations = {"1": 3, "2": 2}.get(c.resblock)
    lists = rates, kernels, c.resblock_kernel_sizes, *blocks
    if not dilations:
        yield f"resblock: expected '1' or '2', got {c.resblock!r}"
    if not all(values and min(values) > 0 for values in lists):
        yield f"expected the rates, kernels and dilations to be lists of positive integers, got {lists}"
    if len(rates) != len(kernels):
        yield f"upsample_rates {rates} and upsample_kernel_sizes {kernels} differ in length"
    if len(c.resblock_kernel_sizes) != len(blocks):
        yield f"resblock_kernel_sizes {c.resblock_kernel_sizes} and resblock_dilation_sizes {blocks} differ in length"
    if any(len(sizes) != dilations for sizes in blocks):
        yield f"resblock_dilation_sizes: expected {dilations} each for resblock {c.resblock!r}, got {blocks}"
    if any(kernel % 2 == 0 for kernel in c.resblock_kernel_sizes):
        yield f"resblock_kernel_sizes: expected odd sizes, got {c.resblock_kernel_sizes}"
    if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in zip(rates, kernels, strict=False)):
        yield f"upsample_kernel_sizes: expected each rate of {rates} plus an even number, got {kernels}"
    if c.upsample_initial_channel % 2 ** len(rates):
        yield f"upsample_initial_channel: must halve {len(rates)} times, got {c.upsample_initial_channel}"
    if math.prod(rates) != c.hop_size:
        yield f"hop_size: expected the product of upsample_rates {rates}, {math.prod(rates)}, got {c.hop_size}"


def _signal_problems(c):
    """What is wrong with the mel, data and optimiser values, one message each."""
    for key in (
        *("batch_size", "learning_rate", "lr_decay", "upsample_initial_channel"),
        *("segment_size", "num_mels", "n_fft", "hop_size", "win_size", "sampling_rate"),
    ):
        if not getattr(c, key) > 0:
            yield f"{key}: expected more than 0, got {getattr(c, key)}"
    for key in ("seed", "num_workers"):
        if getattr(c, key) < 0:
            yield f"{key}: expected at least 0, got {getattr(c, key)}"
    if c.seed >= 1 << 64:
        yield f"seed: expected less than 2^64, got {c.seed}"
    if not (0 <= c.adam_b1 < 1 and 0 <= c.adam_b2 < 1):
        yield f"adam_b1, adam_b2: expected at least 0 and below 1, got {c.adam_b1}, {c.adam_b2}"
    if not c.discriminator_periods or not all(1 <= p <= c.segment_size for p in c.discriminator_periods):
        yield f"discriminator_periods: expected periods from 1 to segment_size, got {c.discriminator_periods}"
    if c.segment_size % c.hop_size:
        yield f"segment_size: expected a multiple of hop_size {c.hop_size}, got {c.segment_size}"
    if c.win_size > c.n_fft or c.hop_size > c.n_fft or (c.n_fft - c.hop_size) % 2:
        yield (
            f"n_fft: expected at least win_size {c.win_size}, and hop_size {c.hop_size} plus an even number, "
            f"got {c.n_fft}"
        )
    reflect_pad = (c.n_fft - c.hop_size) // 2
    if c.segment_size <= reflect_pad:
        yield f"segment_size: expected more than the mel's reflect pad, {reflect_pad}, got {c.segment_size}"
    nyquist = c.sampling_rate / 2
    for key in ("fmax", "fmax_for_loss"):
        highest = nyquist if getattr(c, key) is None else getattr(c, key)
        if not 0 <= c.fmin < highest <= nyquist:
            yield f"{key}: expected 0 <= fmin {c.fmin} < {key} <= {nyquist}, got {getattr(c, key)}"

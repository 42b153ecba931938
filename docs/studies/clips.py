"""The clips that every study reads: the first sixteen of a folder, every fourth held out."""

import argparse
import hashlib
from pathlib import Path
from typing import NamedTuple

from hifigan_fast.training.files import clips_below
from hifigan_fast.voice import write_clips

CLIPS, HELD_OUT_EVERY = 16, 4
SPEECH = Path(__file__).resolve().parents[3] / "shared" / "data" / "ljspeech"


class Data(NamedTuple):
    """`folder` has the original's two lists of the clips in `source`; `paths` are all; `digest` says which they are."""

    folder: Path
    source: Path
    paths: list[Path]
    digest: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags whose values `chosen` takes."""
    parser.add_argument(
        "--data", metavar="DIR", help="folder of wavs; default: real speech where it is, else synthetic"
    )
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/studies"), help="of checkpoints; default %(default)s"
    )


def chosen(given: str | Path | None, scratch: Path) -> Data:
    """The clips of the folder `given`; of None, real speech beside the checkout, else the synthetic voice.

    The lists, and the voice, are written to `scratch`/data. Raises ValueError for a folder of fewer than 4 clips.
    """
    folder = scratch / "data"
    folder.mkdir(parents=True, exist_ok=True)
    if given is None and not SPEECH.is_dir():
        write_clips(folder / "voice", CLIPS, 4.0)
        given = folder / "voice"
    source = Path(given or SPEECH)
    paths = [path.resolve() for path in clips_below(source)[:CLIPS]]
    if len(paths) < HELD_OUT_EVERY:
        raise ValueError(f"--data: expected a folder of at least {HELD_OUT_EVERY} wavs, got {len(paths)} in {source}")
    held_out = paths[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    training = [path for path in paths if path not in held_out]
    for name, listed in (("training.txt", training), ("validation.txt", held_out)):
        text = "".join(f"{path.with_suffix('')}\n" for path in listed)
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:  # others may read it
            (folder / name).write_text(text, encoding="utf-8")
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()[:12]
    return Data(folder, source, paths, digest)

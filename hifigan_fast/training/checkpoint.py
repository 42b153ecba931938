"""Checkpoints in the original's two files.

`g_%08d` is {generator}, `do_%08d` is {mpd, msd, optim_g, optim_d, steps, epoch}. `do_*` has three keys more, which the
original does not read: `batch`, the batches of `batch_size` clips of the epoch already trained on, and `seed`. With the
epoch they are the whole random state of a run (see `data.Clips` and `data.Order`).
"""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: str | Path, trainer: Any) -> None:
    """Write the two files of the trainer's step. Each appears whole or not at all.

    Raises OSError where one cannot be written (a full disk); the files of earlier steps are never touched.
    """
    folder = Path(folder)
    generator = {"generator": trainer.generator.state_dict()}
    rest = {
        "mpd": trainer.mpd.state_dict(),
        "msd": trainer.msd.state_dict(),
        "optim_g": trainer.optim_g.state_dict(),
        "optim_d": trainer.optim_d.state_dict(),
        "steps": trainer.step,
        "epoch": trainer.epoch,
        "batch": trainer.batch,
        "batch_size": trainer.config.batch_size,
        "seed": trainer.config.seed,
    }
    _write_whole(generator, folder / f"g_{trainer.step:08d}")
    _write_whole(rest, folder / f"do_{trainer.step:08d}")


def _write_whole(content, path):
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        raise OSError(f"checkpoint {path} could not be written, earlier ones are untouched: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def newest_checkpoint(folder: str | Path) -> tuple[Path, Path] | None:
    """The paths (g, do) of the newest step that has both, or None."""
    files: dict[int, dict[str, Path]] = {}
    for path in Path(folder).glob("*"):
        match = re.fullmatch(r"(g|do)_(\d{8,})", path.name)
        if match:
            files.setdefault(int(match[2]), {})[match[1]] = path
    complete = [step for step, pair in files.items() if len(pair) == 2]
    return (files[max(complete)]["g"], files[max(complete)]["do"]) if complete else None


def load_checkpoint(trainer: Any, generator_path: str | Path, rest_path: str | Path) -> None:
    """Put `trainer` where the two files left off; files of the original, without our keys, begin their epoch anew.

    Raises ValueError, naming the file, what came and what was expected, for a file that is unreadable or of another
    model, and for one of another seed.
    """
    generator = _read(generator_path, ["generator"])
    rest = _read(rest_path, ["mpd", "msd", "optim_g", "optim_d", "steps", "epoch"])
    seed = rest.get("seed", trainer.config.seed)
    if seed != trainer.config.seed:
        raise ValueError(f"seed: {rest_path} was trained with seed {seed}, got {trainer.config.seed}")
    _load_module(trainer.generator, generator["generator"], f"{generator_path}, generator")
    for name in ("mpd", "msd"):
        _load_module(getattr(trainer, name), rest[name], f"{rest_path}, {name}")
    for name in ("optim_g", "optim_d"):
        _load_optimizer(getattr(trainer, name), rest[name], f"{rest_path}, {name}")
    trainer.step, trainer.epoch = rest["steps"], rest["epoch"]
    size = trainer.config.batch_size
    clips = rest.get("batch", 0) * rest.get("batch_size", size)
    trainer.batch = -(-clips // size)  # the first of batches of this size without a clip that the epoch has had
    for scheduler in trainer.schedulers:  # the learning rate itself is in the optimizer's state
        scheduler.last_epoch = trainer.epoch


def _read(path, keys):
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} is not readable: {error}") from error
    missing = [key for key in keys if key not in content] if isinstance(content, dict) else keys
    if missing:
        raise ValueError(f"checkpoint {path}: expected the keys {keys}, missing {missing}")
    return content


def _load_module(module, state, name):
    expected = {key: list(value.shape) for key, value in module.state_dict().items()}
    found = {key: list(value.shape) for key, value in state.items()}
    for key in [*expected, *(found.keys() - expected.keys())]:
        if expected.get(key) != found.get(key):
            raise ValueError(
                f"checkpoint {name}: of another model: {key} has shape {found.get(key, 'none, it is missing')}, "
                f"expected {expected.get(key, 'no such tensor')}"
            )
    module.load_state_dict(state)


def _load_optimizer(optimizer, state, name):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [list(entry["exp_avg"].shape) for _, entry in sorted(state["state"].items())]
    expected = [list(p.shape) for p in parameters]
    if moments and moments != expected:
        raise ValueError(
            f"checkpoint {name}: of another model: moments of {len(moments)} parameters, expected those of "
            f"{len(expected)} and their shapes"
        )
    optimizer.load_state_dict(state)

"""Checkpoints in the original's two files.

`g_%08d` is {generator}, `do_%08d` is {mpd, msd, optim_g, optim_d, steps, epoch}. `do_*` has three keys more, which the
original does not read: `batch`, the batches of `batch_size` clips of the epoch already trained on, and `seed`. With the
epoch they are the whole random state of a run (see `data.Clips` and `data.Order`).
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..layouts import why_unreadable
from ..reference.norm_keys import translate_norm_keys

GENERATOR = {"generator": dict}  # the original's keys of g_* and their types
REST = {"mpd": dict, "msd": dict, "optim_g": dict, "optim_d": dict, "steps": int, "epoch": int}  # and of do_*
OWN = {"batch": int, "batch_size": int, "seed": int}  # our keys of do_*


def save_checkpoint(folder: str | Path, trainer: Any) -> None:
    """Write the two files of the trainer's step. Each appears whole or not at all.

    Raises OSError where one cannot be written (a full disk); the files of earlier steps are never touched.
    """
    folder = Path(folder)
    for path in folder.glob("*.tmp"):  # what a kill left of a step that a resumed run need not save again
        if re.fullmatch(r"(g|do)_\d{8,}\.tmp", path.name):
            path.unlink()
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
    complete = _pairs(folder)
    return complete[max(complete)] if complete else None


def newest_step(folder: str | Path) -> int:
    """The newest step that has both files, by their names; 0 where there is none."""
    return max(_pairs(folder), default=0)


def half_pairs(folder: str | Path) -> list[Path]:
    """The files of steps that have one of the two only, where no complete pair is newer: what a resume passes over."""
    complete = _pairs(folder)
    newest = max(complete, default=-1)
    return [path for step, files in sorted(_files(folder).items()) for path in files.values() if step > newest]


def thin(folder: str | Path, keep: int, every: int | None = None) -> None:
    """Delete all pairs in `folder` but the newest `keep`, and but those of every `every`-th step."""
    complete = _pairs(folder)
    old = [step for step in sorted(complete)[:-keep] if every is None or step % every]
    if old and os.name == "posix":  # the newest pair's names must outlive a power failure if the older pairs' do not
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    for step in old:
        for path in reversed(complete[step]):  # what a kill here leaves is a generator, which is of use alone
            path.unlink()


def _files(folder: str | Path) -> dict[int, dict[str, Path]]:
    """{step: {"g" and "do", or one of them: path}}."""
    files: dict[int, dict[str, Path]] = {}
    for path in Path(folder).glob("*"):
        match = re.fullmatch(r"(g|do)_(\d{8,})", path.name)
        if match:
            files.setdefault(int(match[2]), {})[match[1]] = path
    return files


def _pairs(folder):
    return {step: (files["g"], files["do"]) for step, files in _files(folder).items() if len(files) == 2}


def load_checkpoint(trainer: Any, generator_path: str | Path, rest_path: str | Path) -> None:
    """Put `trainer` where the two files left off; files of the original, without our keys, begin their epoch anew.

    Raises ValueError, naming the file, what came and what was expected, for a file that is unreadable or of another
    model, and for one of another seed or with other betas.
    """
    rest = _read(rest_path, REST, OWN)
    seed = rest.get("seed", trainer.config.seed)
    if seed != trainer.config.seed:
        raise ValueError(f"seed: {rest_path} was trained with seed {seed}, got {trainer.config.seed}")
    load_generator(trainer.generator, generator_path)
    _load_rest(trainer, rest, rest_path)
    for optimizer, name in zip(trainer.optimizers, ("optim_g", "optim_d"), strict=True):
        saved, given = tuple(rest[name]["param_groups"][0]["betas"]), optimizer.param_groups[0]["betas"]
        if saved != given:
            raise ValueError(f"adam_b1, adam_b2: {rest_path}, {name} was trained with {saved}, got {given}")
    trainer.step, trainer.epoch = rest["steps"], rest["epoch"]
    size = trainer.config.batch_size
    clips = rest.get("batch", 0) * rest.get("batch_size", size)
    trainer.batch = -(-clips // size)  # the first of batches of this size without a clip that the epoch has had
    for scheduler in trainer.schedulers:  # the learning rate itself is in the optimizer's state
        scheduler.last_epoch = trainer.epoch


def load_generator(generator: torch.nn.Module, path: str | Path) -> None:
    """Put the weights of a `g_*` file into a generator. Raises ValueError as `load_checkpoint`."""
    _load_module(generator, _read(path, GENERATOR)["generator"], f"{path}, generator")


def load_pair(trainer: Any, generator_path: str | Path, rest_path: str | Path) -> None:
    """Begin with the networks and the optimizers' moments of a pair: at step 0, with the trainer's own learning rates.

    Raises ValueError as `load_checkpoint`, but for a pair of another seed.
    """
    load_generator(trainer.generator, generator_path)
    _load_rest(trainer, _read(rest_path, REST, OWN), rest_path)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]


def _load_rest(trainer, rest, path):
    for name in ("mpd", "msd"):
        _load_module(getattr(trainer, name), rest[name], f"{path}, {name}")
    for name in ("optim_g", "optim_d"):
        _load_optimizer(getattr(trainer, name), rest[name], f"{path}, {name}")


def _read(path, types, optional=None):
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler has many for a file that is none
        raise ValueError(f"checkpoint {path} is not readable: {why_unreadable(error)}") from error
    missing = [key for key in types if key not in content] if isinstance(content, dict) else list(types)
    if missing:
        hint = "; a generator's file is g_…" if "generator" in missing else ""
        raise ValueError(f"checkpoint {path}: expected the keys {list(types)}, missing {missing}{hint}")
    for key, kind in (types | (optional or {})).items():
        value = content.get(key, kind())
        if not isinstance(value, kind) or (kind is int and value < 0):
            expected = "a number of at least 0" if kind is int else "a dict"
            got = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
            raise ValueError(f"checkpoint {path}: {key}: expected {expected}, got {got}")
    return content


def _load_module(module, state, name):
    state = dict(state)
    translate_norm_keys(module, state, "")
    expected = {key: list(value.shape) for key, value in module.state_dict().items()}
    found = {key: list(getattr(value, "shape", ())) for key, value in state.items()}
    for key in [*expected, *(found.keys() - expected.keys())]:
        if expected.get(key) != found.get(key):
            raise ValueError(
                f"checkpoint {name}: of another model: {key} has shape {found.get(key, 'none, it is missing')}, "
                f"expected {expected.get(key, 'no such tensor')}"
            )
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"checkpoint {name}: {key} has values that are not finite")
    module.load_state_dict(state)


def _load_optimizer(optimizer, state, name):
    """Put moments and learning rate into an AdamW of one group. All else that it is set to stays."""
    [own], parameters = optimizer.state_dict()["param_groups"], optimizer.param_groups[0]["params"]
    expected = {index: [list(p.shape)] * 2 for index, p in enumerate(parameters)}
    try:
        [group], entries = state["param_groups"], state["state"]
        own["lr"], _ = float(group["lr"]), tuple(group["betas"])
        moments = {index: [entry["exp_avg"], entry["exp_avg_sq"]] for index, entry in entries.items()}
        found = {index: [list(moment.shape) for moment in pair] for index, pair in moments.items()}
        steps = [float(entry["step"]) for entry in entries.values()]
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {name}: expected an AdamW's state with one group of parameters: {error!r}"
        ) from None
    if found and found != expected:
        raise ValueError(
            f"checkpoint {name}: of another model: moments of {len(found)} parameters, expected those of "
            f"{len(expected)} and their shapes"
        )
    if not all(moment.isfinite().all() for pair in moments.values() for moment in pair):
        raise ValueError(f"checkpoint {name}: has moments that are not finite")
    wrong = [step for step in steps if not 0 <= step < math.inf]
    if wrong:
        raise ValueError(f"checkpoint {name}: expected step counts of at least 0, got {wrong[0]}")
    optimizer.load_state_dict({"state": entries, "param_groups": [own]})

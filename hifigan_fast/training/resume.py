"""Going on with a run: what its configuration may change, and what that changes."""

import dataclasses
import math

from .checkpoint import load_checkpoint
from .config import load_config

MAY_CHANGE = {"batch_size", "learning_rate", "lr_decay", "num_workers"}
NOT_READ = {"num_gpus", "num_freq", "dist_config"}


def resume(trainer, generator_path, rest_path):
    """Put `trainer` where a pair of files left off, under its own configuration; returns what changed, in lines.

    The learning rate is learning_rate · lr_decay^epoch of that configuration, whatever rate the files hold. Raises
    ValueError as `load_checkpoint` does, and where the configuration, against the config.json beside the files, changes
    what a run must keep (all but `MAY_CHANGE`).
    """
    changes = _changes(trainer.config, rest_path.parent / "config.json")
    load_checkpoint(trainer, generator_path, rest_path)
    found = trainer.optim_g.param_groups[0]["lr"]
    rate = set_learning_rate(trainer)
    if not math.isclose(found, rate, rel_tol=1e-4):
        changes.append(f"learning rate {rate:.4g} in epoch {trainer.epoch} (was {found:.4g})")
    return changes


def set_learning_rate(trainer):
    """Set both optimizers' learning rate to the configuration's in the trainer's epoch, and return it."""
    rate = trainer.config.learning_rate
    for _ in range(trainer.epoch):  # as the schedulers do, to the last bit
        rate *= trainer.config.lr_decay
    for optimizer in (trainer.optim_g, trainer.optim_d):
        for group in optimizer.param_groups:
            group["lr"] = rate
    return rate


def _changes(config, path):
    """What `config` changes of the saved one, in lines; none where no configuration was saved."""
    if not path.is_file():
        return []
    saved, given = dataclasses.asdict(load_config(path)), dataclasses.asdict(config)
    changed = [key for key in given if given[key] != saved[key] and key not in NOT_READ]
    fixed = [f"{key} {saved[key]!r}, got {given[key]!r}" for key in changed if key not in MAY_CHANGE]
    if fixed:
        raise ValueError(f"config: a resumed run keeps what its {path} says (no --config takes it): {'; '.join(fixed)}")
    return [f"{key} {given[key]} (was {saved[key]})" for key in changed]

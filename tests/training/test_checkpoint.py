import errno
import os
import resource

import pytest
import torch

from hifigan_fast.training import checkpoint
from hifigan_fast.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from hifigan_fast.training.step import Trainer

pytestmark = pytest.mark.usefixtures("tiny_discriminators")


@pytest.fixture
def trainer(tiny_config):
    trainer = Trainer(tiny_config, torch.device("cpu"))
    trainer.train_step(torch.rand(2, 1024) - 0.5)
    return trainer


@pytest.fixture
def fresh(tiny_config):
    tiny_config.seed = 1234
    return Trainer(tiny_config, torch.device("cpu"))


def equal(a, b):
    """Whether two states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def states(trainer):
    names = ("generator", "mpd", "msd", "optim_g", "optim_d")
    return {name: getattr(trainer, name).state_dict() for name in names}


def load(path):
    return torch.load(path, weights_only=True)


def test_keys_are_the_originals(trainer, tmp_path):
    save_checkpoint(tmp_path, trainer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["do_00000001", "g_00000001"]
    assert list(load(tmp_path / "g_00000001")) == ["generator"]
    rest = load(tmp_path / "do_00000001")
    assert list(rest)[:6] == ["mpd", "msd", "optim_g", "optim_d", "steps", "epoch"]
    assert (rest["steps"], rest["epoch"], rest["batch"], rest["seed"]) == (1, 0, 1, 1234)


def test_round_trip_is_exact(trainer, fresh, tmp_path):
    trainer.end_epoch()
    trainer.train_step(torch.rand(2, 1024) - 0.5)
    save_checkpoint(tmp_path, trainer)
    load_checkpoint(fresh, *newest_checkpoint(tmp_path))
    assert equal(states(fresh), states(trainer))
    assert (fresh.step, fresh.epoch, fresh.batch) == (2, 1, 1)
    for scheduler, theirs in zip(fresh.schedulers, trainer.schedulers, strict=True):
        scheduler.step()
        theirs.step()
    assert equal(states(fresh), states(trainer))
    assert fresh.optim_g.param_groups[0]["lr"] == 2e-4 * 0.5**2


def test_files_of_the_original_load(trainer, fresh, tmp_path):
    """No extra keys, and the optimizer state of an old torch: an int for a step, few hyperparameters."""
    save_checkpoint(tmp_path, trainer)
    rest = load(tmp_path / "do_00000001")
    del rest["batch"], rest["batch_size"], rest["seed"]
    for name in ("optim_g", "optim_d"):
        group = rest[name]["param_groups"][0]
        kept = ("lr", "betas", "eps", "weight_decay", "amsgrad", "initial_lr", "params")
        rest[name]["param_groups"] = [{key: group[key] for key in kept}]
        for entry in rest[name]["state"].values():
            entry["step"] = int(entry["step"])
    torch.save(rest, tmp_path / "do_00000001", _use_new_zipfile_serialization=False)
    load_checkpoint(fresh, *newest_checkpoint(tmp_path))
    assert (fresh.step, fresh.epoch, fresh.batch) == (1, 0, 0)
    y = torch.rand(2, 1024) - 0.5
    assert torch.equal(torch.stack(list(fresh.train_step(y))), torch.stack(list(trainer.train_step(y))))


def test_optimizer_of_the_discriminators_goes_over_msd_first(trainer):
    expected = [*trainer.msd.parameters(), *trainer.mpd.parameters()]
    found = trainer.optim_d.param_groups[0]["params"]
    assert len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


def test_newest_complete_pair(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for name in ("g_00000002", "do_00000002", "g_00000010", "do_00000010", "g_00000012", "do_00000013"):
        (tmp_path / name).touch()
    for name in ("g_00000099.tmp", "do_00000099.tmp", "do_00000099.pt", "xg_00000099"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path) == (tmp_path / "g_00000010", tmp_path / "do_00000010")
    (tmp_path / "g_100000000").touch()
    (tmp_path / "do_100000000").touch()
    assert newest_checkpoint(tmp_path) == (tmp_path / "g_100000000", tmp_path / "do_100000000")


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def torn_write(content, file):
    file.write(b"half a checkpoint")
    raise RuntimeError("PytorchStreamWriter failed writing file")


@pytest.mark.parametrize(
    ("where", "name", "failure"),
    [(torch, "save", torn_write), (os, "fsync", full_disk), (os, "replace", full_disk)],
)
def test_failed_write_leaves_the_old_files_whole(trainer, fresh, tmp_path, monkeypatch, where, name, failure):
    save_checkpoint(tmp_path, trainer)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failure)
        with pytest.raises(OSError, match="checkpoint .*g_00000001 could not be written, earlier ones are untouched"):
            save_checkpoint(tmp_path, trainer)
        trainer.step += 1
        with pytest.raises(OSError, match="could not be written"):
            save_checkpoint(tmp_path, trainer)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    load_checkpoint(fresh, *newest_checkpoint(tmp_path))


def test_file_size_limit(trainer, tmp_path):
    """The kernel itself refuses to write on, in the middle of a file."""
    save_checkpoint(tmp_path, trainer)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trainer.step += 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(map(len, before.values())) // 2, hard))
    try:
        with pytest.raises(OSError, match="could not be written.*File too large"):
            save_checkpoint(tmp_path, trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupt_while_writing_leaves_nothing_half(trainer, tmp_path, monkeypatch):
    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, trainer)
    assert list(tmp_path.iterdir()) == []


def _another_generator(g, do):
    del g["generator"]["conv_pre.bias"]


def _another_shape(g, do):
    g["generator"]["conv_pre.bias"] = torch.zeros(9)


def _another_ensemble(g, do):
    do["mpd"]["discriminators.5.conv_post.bias"] = torch.zeros(1)


def _swapped_optimizer(g, do):
    do["optim_d"] = do["optim_g"]


def _no_steps(g, do):
    del do["steps"]


def _another_seed(g, do):
    do["seed"] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_generator, r"g_00000001, generator: of another model: conv_pre.bias has shape none, it is missing"),
        (_another_shape, r"g_00000001, generator: of another model: conv_pre.bias has shape \[9\], expected \[8\]"),
        (_another_ensemble, r"do_00000001, mpd: of another model: discriminators.5.* expected no such tensor"),
        (_swapped_optimizer, r"do_00000001, optim_d: of another model: moments of \d+ parameters"),
        (_no_steps, r"do_00000001: expected the keys .* missing \['steps'\]"),
        (_another_seed, r"seed: .*do_00000001 was trained with seed 7, got 1234"),
    ],
)
def test_checkpoint_of_another_model(trainer, fresh, tmp_path, change, message):
    save_checkpoint(tmp_path, trainer)
    paths = newest_checkpoint(tmp_path)
    contents = [load(path) for path in paths]
    change(*contents)
    for content, path in zip(contents, paths, strict=True):
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(fresh, *paths)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_unreadable_checkpoint(trainer, fresh, tmp_path, content):
    save_checkpoint(tmp_path, trainer)
    whole = (tmp_path / "do_00000001").read_bytes()
    for broken in (content, whole[: len(whole) // 2]):
        (tmp_path / "do_00000001").write_bytes(broken)
        with pytest.raises(ValueError, match="checkpoint .*do_00000001 is not readable"):
            load_checkpoint(fresh, *newest_checkpoint(tmp_path))

import errno
import os
import resource

import pytest
import torch

from hifigan_fast.training import checkpoint
from hifigan_fast.training.checkpoint import (
    half_pairs,
    load_checkpoint,
    load_pair,
    newest_checkpoint,
    save_checkpoint,
    thin,
)
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


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "halves"),
    [
        (["g_00000002"], ["g_00000002"]),
        (["do_00000002"], ["do_00000002"]),
        (["g_00000002", "do_00000003"], ["g_00000002", "do_00000003"]),
        (["g_00000001", "g_00000002", "do_00000002", "do_00000003"], ["do_00000003"]),
        (["g_00000002", "do_00000002"], []),
        ([], []),
    ],
)
def test_half_pairs_are_those_without_a_newer_whole_one(tmp_path, names, halves):
    touch(tmp_path, *names)
    assert half_pairs(tmp_path) == [tmp_path / name for name in halves]


@pytest.mark.parametrize(
    ("keep", "every", "left"), [(1, None, [7]), (2, None, [6, 7]), (1, 3, [3, 6, 7]), (9, None, [1, 2, 3, 4, 5, 6, 7])]
)
def test_thin_leaves_the_newest_and_every_so_many_steps(tmp_path, keep, every, left):
    touch(tmp_path, *(f"{kind}_{step:08d}" for kind in ("g", "do") for step in range(1, 8)))
    others = ["g_00000000", "do_00000009", "config.json", "do_00000002.tmp", "g_published"]
    touch(tmp_path, *others)
    thin(tmp_path, keep, every)
    expected = {f"{kind}_{step:08d}" for kind in ("g", "do") for step in left} | set(others)
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_pair_of_another_run_at_step_0(trainer, tiny_config, tmp_path):
    """Networks and moments, but the own learning rate, seed and order."""
    trainer.end_epoch()
    save_checkpoint(tmp_path, trainer)
    tiny_config.seed, tiny_config.learning_rate = 7, 5e-4
    begun = Trainer(tiny_config, torch.device("cpu"))
    load_pair(begun, tmp_path / "g_00000001", tmp_path / "do_00000001")
    assert (begun.step, begun.epoch, begun.batch) == (0, 0, 0)
    for name in ("generator", "mpd", "msd"):
        assert equal(getattr(begun, name).state_dict(), getattr(trainer, name).state_dict())
    for ours, theirs in zip(begun.optimizers, trainer.optimizers, strict=True):
        assert equal(ours.state_dict()["state"], theirs.state_dict()["state"])
        assert ours.param_groups[0]["lr"] == ours.param_groups[0]["initial_lr"] == 5e-4
    begun.end_epoch()
    assert begun.optim_g.param_groups[0]["lr"] == 2.5e-4


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


def test_what_a_kill_left_of_a_write_goes_with_the_next(trainer, tmp_path):
    for name in ("g_00000007.tmp", "do_00000007.tmp", "mine.tmp", "g_7.tmp"):
        (tmp_path / name).touch()
    save_checkpoint(tmp_path, trainer)
    assert {path.name for path in tmp_path.iterdir()} == {"do_00000001", "g_00000001", "g_7.tmp", "mine.tmp"}


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


def _unnamed_moments(g, do):
    del do["optim_g"]["state"][0]["exp_avg"]


def _step(count):
    """Another step count of a parameter, or none."""

    def change(g, do):
        del do["optim_g"]["state"][0]["step"]
        if count is not None:
            do["optim_g"]["state"][0]["step"] = count

    return change


def _poisoned_moments(g, do):
    do["optim_g"]["state"][3]["exp_avg_sq"][0] = torch.inf


def _poisoned_weights(g, do):
    do["msd"]["conv.bias"][1] = torch.nan


def _other_betas(g, do):
    do["optim_d"]["param_groups"][0]["betas"] = (0.5, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, do: do.update(mpd=None), "do_00000001: mpd: expected a dict, got NoneType"),
        (lambda g, do: g.update(generator=[1]), "g_00000001: generator: expected a dict, got list"),
        (lambda g, do: do.update(steps=-4), "do_00000001: steps: expected a number of at least 0, got -4"),
        (lambda g, do: do.update(batch="x"), "do_00000001: batch: expected a number of at least 0, got 'x'"),
        (lambda g, do: do.update(optim_g={}), "do_00000001, optim_g: expected an AdamW's state"),
        (_unnamed_moments, "do_00000001, optim_g: expected an AdamW's state .*exp_avg"),
        (_step(None), "do_00000001, optim_g: expected an AdamW's state .*step"),
        (_step(torch.ones(2)), "do_00000001, optim_g: expected an AdamW's state with one group"),
        (_step(torch.tensor(torch.nan)), "do_00000001, optim_g: expected step counts of at least 0, got nan"),
        (_poisoned_moments, "do_00000001, optim_g: has moments that are not finite"),
        (_poisoned_weights, "do_00000001, msd: conv.bias has values that are not finite"),
        (_other_betas, r"adam_b1, adam_b2: .*do_00000001, optim_d was trained with \(0.5, 0.9\), got \(0.8, 0.99\)"),
    ],
)
def test_checkpoint_with_something_else_in_it(trainer, fresh, tmp_path, change, message):
    test_checkpoint_of_another_model(trainer, fresh, tmp_path, change, message)


def test_settings_of_the_optimizers_are_the_runs_own(trainer, fresh, tmp_path):
    """A run with --cuda-graph saves what a CPU refuses to step with; moments, step counts and rates are taken over."""
    save_checkpoint(tmp_path, trainer)
    path = tmp_path / "do_00000001"
    rest = load(path)
    for name in ("optim_g", "optim_d"):
        rest[name]["param_groups"][0] |= {"capturable": True, "lr": torch.tensor(1e-4), "weight_decay": 0.5}
    torch.save(rest, path)
    load_checkpoint(fresh, tmp_path / "g_00000001", path)
    for ours, theirs in zip(fresh.optimizers, trainer.optimizers, strict=True):
        assert equal(ours.state_dict()["state"], theirs.state_dict()["state"])
        [group], [own] = ours.state_dict()["param_groups"], theirs.state_dict()["param_groups"]
        assert group == own | {"lr": pytest.approx(1e-4)}
    fresh.train_step(torch.rand(2, 1024) - 0.5)


def test_networks_with_parametrized_norms_load(trainer, fresh, tmp_path):
    save_checkpoint(tmp_path, trainer)
    for path, name in ((tmp_path / "g_00000001", "generator"), (tmp_path / "do_00000001", "mpd")):
        content = load(path)
        names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
        for key in list(content[name]):
            stem, _, last = key.rpartition(".")
            content[name][f"{stem}.{names.get(last, last)}"] = content[name].pop(key)
        torch.save(content, path)
    load_checkpoint(fresh, *newest_checkpoint(tmp_path))
    assert equal(states(fresh), states(trainer))


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"hello world", b"version https://git-lfs.github.com/spec/v1"]
)
def test_unreadable_checkpoint(trainer, fresh, tmp_path, content):
    save_checkpoint(tmp_path, trainer)
    whole = (tmp_path / "do_00000001").read_bytes()
    for broken in (content, whole[: len(whole) // 2]):
        (tmp_path / "do_00000001").write_bytes(broken)
        with pytest.raises(ValueError, match="checkpoint .*do_00000001 is not readable"):
            load_checkpoint(fresh, *newest_checkpoint(tmp_path))

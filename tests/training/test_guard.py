"""Steps that are not finite: who notices, what is written, what is undone."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch

from hifigan_fast.training import loop, processes
from hifigan_fast.training.checkpoint import newest_checkpoint
from hifigan_fast.training.data import Clips, find_clips
from hifigan_fast.training.guard import Guard, Snapshot
from hifigan_fast.training.step import Trainer

from . import tiny
from .test_checkpoint import equal, load, states

pytestmark = pytest.mark.usefixtures("tiny_discriminators")
NAN = float("nan")


def poison(monkeypatch, *numbers):
    """One sample of the batches of these numbers, from 1, is NaN."""
    batches = loop.endless_batches

    def poisoned(*args):
        for number, (y, *mels) in enumerate(batches(*args), 1):
            if number in numbers:
                y[-1, 7] = NAN
            yield y, *mels

    monkeypatch.setattr(loop, "endless_batches", poisoned)


@contextlib.contextmanager
def faulty(trainer, network):
    """Within the block gradients of this network are infinite."""
    hook = next(getattr(trainer, network).parameters()).register_hook(lambda gradient: gradient * math.inf)
    yield
    hook.remove()


def batch_files(speech, config, batch):
    """The files of a batch of the first epoch, by the documented order."""
    clips = find_clips(speech)[0]
    order = np.random.default_rng((config.seed, 0)).permutation(len(clips))
    return [str(clips[index]) for index in order[4 * batch : 4 * batch + 4]]


def json_rows(out):
    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constant) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("late", ["log_interval", "checkpoint_interval", "validation_interval"])
def test_run_stops_before_anything_of_the_step_is_written(out, run, monkeypatch, speech, tiny_config, late):
    """Whichever report comes first after it, here two steps later."""
    poison(monkeypatch, 2)
    intervals = {"log_interval": 100, "checkpoint_interval": 100, "validation_interval": 100} | {late: 3}
    with pytest.raises(FloatingPointError) as raised:
        run(out, steps=6, **intervals)
    message = str(raised.value)
    assert message.startswith("step 2: losses or gradients are not finite (D nan, G nan, mel nan), on ")
    assert ", ".join(batch_files(speech, tiny_config, 1)) in message and "--skip-non-finite" in message
    assert newest_checkpoint(out) is None
    assert not (out / "metrics.jsonl").exists()


def test_what_was_written_before_stays(out, run, monkeypatch):
    poison(monkeypatch, 3)
    with pytest.raises(FloatingPointError, match="step 3: "):
        run(out, steps=6, checkpoint_interval=2, validation_interval=100)
    assert newest_checkpoint(out)[0].name == "g_00000002"
    assert [row["step"] for row in json_rows(out)] == [1, 2]


def test_gradients_alone(tiny_config):
    """Finite losses, but a gradient that would poison the weights, and with them a checkpoint."""
    trainer = Trainer(tiny_config, torch.device("cpu"))
    with faulty(trainer, "generator"):
        losses = trainer.train_step(torch.rand(2, 1024) - 0.5)
    assert all(map(math.isfinite, losses.read())) and not losses.finite


@pytest.mark.parametrize("half", ["discriminator_step_loss", "generator_step_loss"])
def test_losses_alone(tiny_config, monkeypatch, half):
    """A loss that overflows, with gradients that do not, in either half."""
    original = getattr(tiny.DISCRIMINATORS, half)

    def overflowing(*args):
        found = original(*args)
        return found._replace(adversarial=found.adversarial + math.inf)

    monkeypatch.setattr(tiny.DISCRIMINATORS, half, overflowing)
    trainer = Trainer(tiny_config, torch.device("cpu"))
    assert not trainer.train_step(torch.rand(2, 1024) - 0.5).finite
    assert all(p.isfinite().all() for p in (*trainer.generator.parameters(), *trainer.mpd.parameters()))


def test_finite_step_is_finite(tiny_config):
    assert Trainer(tiny_config, torch.device("cpu")).train_step(torch.rand(2, 1024) - 0.5).finite


@pytest.mark.parametrize("network", ["generator", "mpd", "msd"])
@pytest.mark.parametrize("after", [0, 1])
def test_skipped_step_leaves_everything_as_it_was(tiny_config, network, after):
    """Weights, moments and spectral norm's vectors, bit for bit; before the first step there are no moments."""
    trainer, expected = (Trainer(tiny_config, torch.device("cpu")) for _ in range(2))
    said = []
    guard = Guard(trainer, lambda epoch, batch: [f"clip {epoch} {batch}"], skips=1, say=said.append)
    y = torch.rand(4, 2, 1024) - 0.5
    for batch in y[:after]:
        guard.train_step(batch)
        expected.train_step(batch)
    before = states(expected)
    with faulty(trainer, network):
        assert guard.train_step(y[2]) is None
    assert equal(states(trainer), before)
    assert (trainer.step, trainer.batch) == (after, after + 1)
    assert said[0].startswith(f"step {after + 1}: ") and said[0].endswith(
        f", on clip 0 {after}; undone and passed over, 1 of 1"
    )
    assert torch.equal(guard.train_step(y[3]).generator, expected.train_step(y[3]).generator)
    assert equal(states(trainer), states(expected))


def test_skipping_in_a_run(out, run, monkeypatch, capsys):
    poison(monkeypatch, 2, 5)
    with pytest.raises(FloatingPointError, match=r"step 4: .*; 1 such steps were passed over before"):
        run(out, steps=6, skip_non_finite=1, checkpoint_interval=2)
    assert "step 2: " in capsys.readouterr().out
    assert [row["step"] for row in json_rows(out) if "gen_loss" in row] == [1, 2, 3]
    rest = load(newest_checkpoint(out)[1])
    assert (rest["steps"], rest["epoch"], rest["batch"]) == (
        2,
        1,
        0,
    )  # of the 3 batches of an epoch one was passed over


def test_no_more_than_what_is_wanted(out, run):
    with pytest.raises(ValueError, match="skip_non_finite: expected at least 0 steps, got -1"):
        run(out, steps=1, skip_non_finite=-1)


def test_faults_of_other_processes_count(monkeypatch, tiny_config):
    """The flags are those of all processes; the first step that was faulty anywhere is named."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    theirs = torch.tensor([1, 0, 1], dtype=torch.uint8)

    def all_reduce(tensor, operation):
        assert operation == torch.distributed.ReduceOp.MIN
        tensor.copy_(torch.minimum(tensor, theirs))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert processes.in_all(torch.tensor([True, True, False])).tolist() == [True, False, False]
    trainer = Trainer(tiny_config, torch.device("cpu"))
    guard = Guard(trainer, lambda epoch, batch: [f"clip {batch}"])
    for _ in range(3):
        guard.train_step(torch.rand(2, 1024) - 0.5)
    with pytest.raises(FloatingPointError, match="step 2: .* on clip 1;"):
        guard.check()
    guard.check()  # each step is looked at once


def test_snapshot_keeps_the_tensors(tiny_config):
    """A captured graph reads and writes these very tensors."""
    trainer = Trainer(tiny_config, torch.device("cpu"))
    y = torch.rand(2, 1024) - 0.5
    trainer.train_step(y)
    snapshot = Snapshot([trainer.generator, trainer.mpd, trainer.msd], trainer.optimizers)
    places = [tensor.data_ptr() for tensor in snapshot._tensors()]
    for _ in range(2):
        snapshot.take()
        trainer.train_step(y)
        snapshot.restore()
    assert [tensor.data_ptr() for tensor in snapshot._tensors()] == places
    assert trainer.optim_g.state[trainer.generator.conv_pre.bias]["step"] == 1


def test_validation_that_is_not_finite_names_its_clip(tiny_config, speech):
    clips = Clips(sorted(speech.glob("*.wav"))[:2], tiny_config)
    clips.whole = lambda index: (torch.full((2000,), NAN if index else 0.1),)
    with pytest.raises(FloatingPointError, match=f"validation's mel error is nan on {clips.paths[1]}"):
        loop.validate(Trainer(tiny_config, torch.device("cpu")), clips)

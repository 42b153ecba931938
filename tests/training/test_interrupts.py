"""Ctrl-C and SIGTERM, raised in this process within a step (test_loop and test_distributed: from outside)."""

import signal
import threading

import pytest
import torch

from hifigan_fast.training import checkpoint, loop, processes
from hifigan_fast.training.checkpoint import newest_checkpoint
from hifigan_fast.training.interrupts import Interrupts

from .test_checkpoint import equal
from .test_loop import final, rows

pytestmark = pytest.mark.usefixtures("tiny_discriminators")
NEVER = {"checkpoint_interval": 100, "validation_interval": 100}


@pytest.fixture
def signal_in_step(monkeypatch):
    """Raises a signal while the given step is at hand."""

    def arm(number, step):
        train_step = loop.Guard.train_step

        def interrupted(guard, *inputs):
            if guard.trainer.step + 1 == step:
                signal.raise_signal(number)
            return train_step(guard, *inputs)

        monkeypatch.setattr(loop.Guard, "train_step", interrupted)

    return arm


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_step_at_hand_ends_and_a_pair_is_written(out, run, signal_in_step, capfd, number, status):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal_in_step(number, 2)
    assert run(out, steps=6, **NEVER) == status
    assert newest_checkpoint(out) == (out / "g_00000002", out / "do_00000002")
    assert [row["step"] for row in rows(out)] == [1, 2]
    output, errors = capfd.readouterr()
    name = signal.Signals(number).name
    assert f"{name}: ending this step, then writing a checkpoint; another Ctrl-C stops at once, without one" in errors
    assert f"{name} after step 2: g_00000002 and do_00000002 are in {out}; the same command goes on" in output
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_going_on_is_bit_for_bit(out, run, signal_in_step):
    straight = out.with_name("straight")
    assert run(straight, steps=4, **NEVER) == 0
    signal_in_step(signal.SIGTERM, 2)
    assert run(out, steps=4, **NEVER) == 143
    assert run(out, steps=4, **NEVER) == 0
    assert equal(final(out, 4), final(straight, 4))


def test_second_ctrl_c_stops_at_once(out, run, signal_in_step, monkeypatch, capfd):
    went_on = []

    def save(folder, trainer):
        signal.raise_signal(signal.SIGTERM)  # a launcher's, on top of it: changes nothing
        went_on.append(trainer.step)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("did not stop")

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    signal_in_step(signal.SIGINT, 1)
    assert run(out, steps=6, **NEVER) == 130
    assert went_on == [1]
    assert f"stopped at once; there is no checkpoint in {out}" in capfd.readouterr().err


def test_validation_is_given_up(out, run, signal_in_step, monkeypatch):
    """What kills after a grace period would not wait for it."""
    signal_in_step(signal.SIGTERM, 2)
    assert run(out, steps=6, checkpoint_interval=100, validation_interval=2) == 143
    assert newest_checkpoint(out)[0].name == "g_00000002"
    assert not any("validation_mel_error" in row for row in rows(out))


def test_signal_in_another_process(out, run, monkeypatch):
    """All end after the same step."""
    monkeypatch.setattr(loop, "in_any", lambda number: number or signal.SIGTERM)
    assert run(out, steps=6, **NEVER) == 143
    assert newest_checkpoint(out)[0].name == "g_00000001"


def test_largest_number_of_all_processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, operation: tensor.clamp_(min=15))
    assert processes.in_any(0) == 15


def test_outside_of_the_main_thread_signals_stay_as_they_are():
    found = []

    def enter():
        with Interrupts() as interrupts:
            found.append(interrupts.signal)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [0]

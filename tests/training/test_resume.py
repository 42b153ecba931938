import itertools
import json

import pytest
import torch

from hifigan_fast.training.checkpoint import newest_checkpoint, save_checkpoint
from hifigan_fast.training.config import load_config, save_config
from hifigan_fast.training.data import Order
from hifigan_fast.training.resume import resume
from hifigan_fast.training.step import Trainer
from hifigan_fast.voice import write_clips

from .test_checkpoint import load

pytestmark = pytest.mark.usefixtures("tiny_discriminators")
CPU = torch.device("cpu")


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A run in `tmp_path`, stopped in its third epoch with one batch of it done."""
    trainer = Trainer(tiny_config, CPU)
    trainer.train_step(torch.rand(2, 1024) - 0.5)
    trainer.end_epoch()
    trainer.end_epoch()
    trainer.batch = 1
    save_checkpoint(tmp_path, trainer)
    save_config(tiny_config, tmp_path / "config.json")
    return trainer


def test_a_run_goes_on_with_its_own_configuration_unless_another_is_given(saved, run, tmp_path, capsys):
    """A segment of another file would be refused; `--batch-size` alone changes that."""
    assert run(tmp_path, steps=2, config=None) == 0
    assert "resuming after step 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="config: a resumed run keeps .*config.json says .no --config takes it.: "):
        run(tmp_path, steps=3, config="v1", batch_size=2)


@pytest.fixture
def resumed(saved, tmp_path, tiny_config_file):
    """Resumes the run with values of its configuration changed -> the trainer, and the lines said."""

    def resumed(**changes):
        trainer = Trainer(load_config(tiny_config_file, **changes), CPU)
        return trainer, resume(trainer, *newest_checkpoint(tmp_path))

    return resumed


def rates(trainer):
    return [group["lr"] for optimizer in (trainer.optim_g, trainer.optim_d) for group in optimizer.param_groups]


@pytest.mark.parametrize("changes", [{}, {"num_gpus": 2, "num_freq": 3, "dist_config": {}}])
def test_nothing_changed_nothing_said(saved, resumed, changes):
    trainer, lines = resumed(**changes)
    assert lines == [] and rates(trainer) == rates(saved) == [2e-4 * 0.5**2] * 2
    assert (trainer.step, trainer.epoch, trainer.batch) == (1, 2, 1)


@pytest.mark.parametrize(
    ("changes", "rate", "line"),
    [
        ({"learning_rate": 1e-4}, 1e-4 * 0.5 * 0.5, "learning_rate 0.0001 (was 0.0002)"),
        ({"lr_decay": 0.9}, 2e-4 * 0.9 * 0.9, "lr_decay 0.9 (was 0.5)"),
    ],
)
def test_learning_rate_and_decay_are_applied(resumed, changes, rate, line):
    trainer, lines = resumed(**changes)
    assert rates(trainer) == [rate, rate]
    assert lines == [line, f"learning rate {rate:.4g} in epoch 2 (was 5e-05)"]
    trainer.end_epoch()
    assert rates(trainer) == [rate * trainer.config.lr_decay] * 2


def test_rate_that_an_original_decayed_too_often(resumed, tmp_path):
    """Its schedulers decay once more at each resume; what runs is what config.json says."""
    rest = load(tmp_path / "do_00000001")
    for name in ("optim_g", "optim_d"):
        rest[name]["param_groups"][0]["lr"] = 2e-4 * 0.5**5
    torch.save(rest, tmp_path / "do_00000001")
    (tmp_path / "config.json").unlink()
    trainer, lines = resumed()
    assert rates(trainer) == [5e-5, 5e-5] and lines == ["learning rate 5e-05 in epoch 2 (was 6.25e-06)"]


def test_workers_may_change(resumed):
    assert resumed(num_workers=3)[1] == ["num_workers 3 (was 0)"]


@pytest.mark.parametrize(("size", "first"), [(2, 2), (3, 2), (4, 1), (5, 1), (10, 1)])
def test_no_clip_of_an_epoch_comes_twice_with_another_batch_size(resumed, size, first):
    """One batch of 4 of 20 clips is done; batches of another size go on with the first that has none of them."""
    trainer, lines = resumed(batch_size=size)
    assert lines == ([f"batch_size {size} (was 4)"] if size != 4 else []) and trainer.batch == first
    done, order = Order(20, load_config("v1", batch_size=4)), Order(20, load_config("v1", batch_size=size))
    done.begin(2, 0)
    order.begin(2, trainer.batch)
    rest = [key for batch in itertools.islice(order, 20 // size - first) for key in batch]
    assert {epoch for epoch, _ in rest} == {2} and first * size - 4 < size  # what is left out
    assert not set(rest) & set(next(iter(done)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_size": 2048}, "segment_size 1024, got 2048$"),
        ({"fmax": 7000}, "fmax 8000, got 7000$"),
        ({"fmax_for_loss": 7000}, "fmax_for_loss None, got 7000$"),
        ({"win_size": 128}, "win_size 256, got 128$"),
        ({"adam_b1": 0.9}, "adam_b1 0.8, got 0.9$"),
        ({"seed": 5}, "seed 1234, got 5$"),
        ({"discriminator_periods": [2, 3]}, r"discriminator_periods \[2, 3, 5, 7, 11\], got \[2, 3\]$"),
        ({"use_spectral_norm": True, "learning_rate": 1e-3}, "use_spectral_norm False, got True$"),
        ({"seed": 5, "fmin": 10}, "seed 1234, got 5; fmin 0, got 10$"),
    ],
)
def test_what_a_run_keeps_is_an_error(resumed, tmp_path, changes, message):
    with pytest.raises(
        ValueError, match=f"config: a resumed run keeps what its {tmp_path}/config.json says .*: {message}"
    ):
        resumed(**changes)


def test_saved_configuration_of_the_original(resumed, tmp_path):
    """Without the optional keys: their defaults were what ran."""
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("discriminator_periods", "use_spectral_norm", "num_freq"):
        del values[key]
    (tmp_path / "config.json").write_text(json.dumps(values | {"resblock_initial_channel": 256}))
    assert resumed()[1] == []


def test_a_run_records_what_runs(out, run, capsys):
    """Through the command, a step an epoch: said, used and recorded, and used again by the next resume."""
    write_clips(out.parent / "wavs", 5, 0.1)
    settings = {"data": out.parent / "wavs", "checkpoint_interval": 10}
    assert run(out, steps=2, **settings) == 0
    values = json.loads((out / "config.json").read_text()) | {"learning_rate": 1e-3}
    changed = out.parent / "changed.json"
    changed.write_text(json.dumps(values))
    said = ["learning_rate 0.001 (was 0.0002)", "learning rate 0.00025 in epoch 2 (was 5e-05)"]
    for steps, lines in ((3, said), (4, [])):
        capsys.readouterr()
        assert run(out, steps=steps, config=changed, **settings) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if "(was" in line] == lines
        assert load_config(out / "config.json").learning_rate == 1e-3
    assert load(out / "do_00000004")["optim_d"]["param_groups"][0]["lr"] == 1e-3 * 0.5**4
    changed.write_text(json.dumps(values | {"fmax": 7000}))
    with pytest.raises(ValueError, match="fmax 8000, got 7000"):
        run(out, steps=5, config=changed, **settings)
    assert load_config(out / "config.json").fmax == 8000

"""Two processes on a CPU against one with the whole batch."""

import pytest
import torch

from hifigan_fast.training import processes
from hifigan_fast.training.checkpoint import newest_checkpoint

from .test_checkpoint import load

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def finish(process):
    output, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    return output


def assert_same_gradients(one, two):
    """Of both optimizers' parameters, to rounding."""
    for name in ("optim_g", "optim_d"):
        for expected, found in zip(gradients(one, name), gradients(two, name), strict=True):
            scale = expected.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


def gradients(checkpoint, name):
    """The running means of the gradients in AdamW's state."""
    return [entry["exp_avg"] for _, entry in sorted(checkpoint[name]["state"].items())]


def test_two_processes_equal_one_with_the_whole_batch(tmp_path, tiny_config_file, start, run, tiny_discriminators):
    """Gradients of two steps, the second resumed. The learning rate leaves the weights, so rounding stays rounding."""
    config = tmp_path / "config.json"
    config.write_text(tiny_config_file.read_text().replace('"learning_rate": 0.0002', '"learning_rate": 1e-09'))
    run(tmp_path / "one", steps=2, config=config)
    for steps in (1, 2):
        output = finish(start(tmp_path / "two", TWO, steps=steps, config=config))
        assert output.count("finished; checkpoints in") == 1  # one process reports
    assert output.count("resuming after step 1") == 1
    one, two = (load(tmp_path / name / "do_00000002") for name in ("one", "two"))
    assert_same_gradients(one, two)
    for name in ("mpd", "msd"):  # spectral norm's buffers among them
        for key, expected in one[name].items():
            torch.testing.assert_close(two[name][key], expected, rtol=1e-6, atol=1e-7)
    assert (two["steps"], two["epoch"], two["batch"]) == (one["steps"], one["epoch"], one["batch"])


def test_trouble_in_one_process_is_that_of_all(out, start):
    """A step that is not finite there is undone in all; SIGTERM to the launcher ends all after the same step."""
    process = start(out, TWO, script=("-m", "tests.training.troubled"), steps=100000, skip_non_finite=1)
    output, errors = process.communicate(timeout=1800)
    assert "step 2: losses or gradients are not finite" in output and "undone and passed over, 1 of 1" in output
    assert errors.count("SIGTERM: ending this step, then writing a checkpoint") == 1
    newest = newest_checkpoint(out)
    step = int(newest[0].name[2:])
    assert f"SIGTERM after step {step}: {newest[0].name} and {newest[1].name} are in {out}" in output
    rest = load(newest[1])
    assert rest["steps"] == step and rest["epoch"] * 3 + rest["batch"] == step + 1
    for name in ("mpd", "msd"):
        assert all(tensor.isfinite().all() for tensor in rest[name].values())


def test_processes_at_different_steps(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def gather(steps, step):
        steps[:] = [step, 0]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    processes.check_same_step(0)
    with pytest.raises(ValueError, match=r"out: the processes found checkpoints of the steps \[300, 0\]"):
        processes.check_same_step(300)


def test_one_gpu_for_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device: each of several processes takes .* expected cuda, got 'cuda:0'"):
        processes.pick_device("cuda:0")

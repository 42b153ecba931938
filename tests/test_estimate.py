"""hifigan-fast estimate: real steps timed, and a model of GPUs that are not there."""

import re
from dataclasses import replace

import pytest
import torch

from hifigan_fast import reference
from hifigan_fast.bench import cases, datasheets, model
from hifigan_fast.bench.steps import DISCRIMINATOR, FROZEN_STEPS, GENERATOR, ORIGINAL, OURS


def test_the_models_figures_are_sums_of_bounds(tiny):
    sheet, tiny = datasheets.DEVICES["H200"], replace(tiny, discriminator_periods=[2])
    found = model.seconds_per_step(tiny, sheet, "bfloat16")
    assert 0 < found[OURS] < found["frozen"] < found[ORIGINAL]
    with model.META:
        modules = [reference.MultiPeriodDiscriminator((2,)), reference.MultiScaleDiscriminator()]
        waves = [
            torch.empty(tiny.batch_size, 1, tiny.segment_size, dtype=torch.float32, device="meta") for _ in range(2)
        ]
    fused = 0
    for step in (DISCRIMINATOR, GENERATOR):  # all but convolutions is done where they store
        with model.Bounds(sheet, "bfloat16") as bounds:
            FROZEN_STEPS[step](modules, *waves, reference)
        fused += bounds.all - bounds.convolutions
    assert found["frozen"] - found[OURS] == pytest.approx(fused)


def test_the_models_bounds_are_of_the_work():
    """Without a bandwidth to bound it, the arithmetic of a discriminator step is that of its floor; half the rates take
    twice as long."""
    modules = [reference.MultiPeriodDiscriminator((2, 3))]
    y = torch.zeros(1, 1, 600, dtype=torch.float32, device="cpu")
    work, found = cases.forward_work(modules, y, y), []
    for rate, bandwidth in ((1, 1e12), (2, 2e12), (0.5, 1e-9), (1, 2e-9)):  # the last two by bytes alone
        with model.Bounds(datasheets.Device("sm_90", 1, rate, rate, rate, bandwidth), "float32") as bounds:
            FROZEN_STEPS[DISCRIMINATOR](modules, y, y, reference)
        found.append(bounds)
    assert found[0].convolutions == pytest.approx(3 * work.flops / 1e12, rel=0.01)  # but for the stems' input gradients
    for slow, fast in (found[:2], found[2:]):
        assert slow.all == pytest.approx(2 * fast.all) and slow.convolutions == pytest.approx(2 * fast.convolutions)


@pytest.mark.parametrize("name", datasheets.DEVICES)
def test_a_device_from_ampere_on_has_tf32_and_bfloat16(name):
    sheet, old = datasheets.DEVICES[name], name == "T4"
    assert sheet.arithmetic("fp32") == ("float32" if old else "tf32")
    if old:
        with pytest.raises(ValueError, match="precision: expected fp32 on a device of sm_75.*got bf16"):
            sheet.arithmetic("bf16")
    else:
        assert sheet.arithmetic("bf16") == "bfloat16"


def test_estimate_by_a_model(tiny, capsys):
    from hifigan_fast.cli import main

    assert main(["estimate", "--device-model", "h200", "--precision", "bf16", "--steps", "3600000"]) == 0
    out = capsys.readouterr().out
    assert "a model of training steps on H200" in out and "nothing was timed" in out and "not measured" in out
    assert main(["estimate", "--device-model", "t4", "--precision", "bf16"]) == 2
    assert "precision: expected fp32 on a device of sm_75, which has no bfloat16" in capsys.readouterr().err
    with pytest.raises(ValueError, match="device_model: expected one of t4, a100, 4090.*got 'v100'"):
        datasheets.named("v100")


def test_estimate(tiny, tmp_path, capsys):
    from hifigan_fast.cli import main

    flags = ["--batch-size", "2", "--steps", "3600", "--repeats", "1"]
    assert main(["estimate", *flags, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    found = dict(re.findall(r"^(hifigan_fast|plain PyTorch, [a-z' ]*loop) +([0-9.]+ +[0-9.]+)", out, re.M))
    assert len(found) == 3 and "batch 2 × 1024, fp32" in out and out.count(" × as fast as plain PyTorch") == 2
    for line in found.values():
        seconds, hours = map(float, line.split())
        assert hours == pytest.approx(seconds, abs=0.06)  # 3600 steps, to their rounding
    assert main(["estimate", "--config", "v9"]) == 2 and "v9" in capsys.readouterr().err


def test_the_commands_gpus_are_what_there_is():
    """They are spelled out where the command line is read."""
    from hifigan_fast import cli

    chosen = {a.dest: a.choices for a in cli._parser()._subparsers._group_actions[0].choices["estimate"]._actions}
    assert list(chosen["device_model"]) == list(datasheets.SHORT)

"""What a GPU benchmark makes of its figures, made up here, and that its steps are the same steps."""

import json

import pytest
import torch

import hifigan_fast
from benchmarks import gpu
from hifigan_fast import parity
from hifigan_fast.bench.steps import FastLosses
from hifigan_fast.bench.workloads import build
from hifigan_fast.discriminators import stack_of


def row(contender, ms=None, graph=False, **others):
    found = {"workload": "HiFi-GAN", "step": "forward", "contender": contender, "graph": graph, **others}
    return found if ms is None else {**found, "ms": ms}


def test_the_table_compares_ours_with_the_loop_and_the_fastest_rival(tmp_path, capsys):
    file = tmp_path / "run.json"
    rows = [
        row("eager", 12.0),
        row("eager", 8.0, graph=True),
        row("torch.compile default", error="RuntimeError: no"),
        row("hifigan_fast", 4.0),
        row("hifigan_fast, autocast bfloat16", 2.0, graph=True),
    ]
    file.write_text(json.dumps({"device": "a device", "parity": {}, "rows": rows}))
    assert gpu.main(["--table", str(file)]) == 0
    device, _, _, _, line = capsys.readouterr().out.strip().splitlines()
    assert device == "a device"
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("HiFi-GAN", "forward", "12.00", "eager, graph", "8.00"),
        *("hifigan_fast, autocast bfloat16, graph", "2.00", "6.00 ×", "4.00 ×"),
    ]


def test_a_contender_that_failed_everywhere_leaves_a_gap(tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(
        json.dumps({"device": "a device", "parity": {}, "rows": [row("eager", 12.0), row("hifigan_fast", error="no")]})
    )
    assert gpu.main(["--table", str(file)]) == 0
    assert "nan" in capsys.readouterr().out


def test_rates_are_of_the_layers_own_work():
    modules = [module.eval() for module in build(["mpd", "msd"], plain=True)]
    y = torch.zeros(1, 1, 4096)
    expected = 0
    for module, lengths in zip(modules, ((4096,) * 5, (4096, 2049, 1025))):
        for discriminator, length in zip(module.discriminators, lengths):
            stack = stack_of(discriminator)
            rows = stack.rows(length)[1:]
            expected += 2 * stack.period * sum(layer.flops(n) for layer, n in zip(stack.layers, rows))
    assert gpu.forward_flops(modules, y, y) == expected
    assert gpu.rates({"ms": 2.0}, 1e12, 1e15) == pytest.approx({"tflops": 500.0, "of_floor": 0.5})
    assert gpu.rates({"error": "no"}, 1e12, 1e15) == {}


@pytest.mark.parametrize("step", gpu.BY_STEP_LOSSES)
def test_a_step_by_step_losses_is_the_same_step(step):
    module, grads = hifigan_fast.MultiPeriodDiscriminator((2,)), []
    y, y_hat = parity.waveforms(1, 300)
    for steps in (gpu._with(FastLosses), gpu.BY_STEP_LOSSES):
        module.zero_grad()
        steps[step]([module], y, y_hat)
        grads.append([p.grad for p in module.parameters() if p.grad is not None])
    assert len(grads[0]) == (0 if "frozen" in step else 18)
    for apart, ours in zip(*grads, strict=True):
        torch.testing.assert_close(ours, apart, rtol=1e-4, atol=1e-7)


def test_another_file_is_refused(tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"device": "cpu"}))
    assert gpu.main(["--table", str(file)]) == 2
    assert "--table: expected a file that this command wrote" in capsys.readouterr().err
    assert gpu.main(["--table", str(tmp_path / "none.json")]) == 2

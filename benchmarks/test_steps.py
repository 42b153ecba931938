"""Each step of each workload's ensembles, by the original loop and by ours on every backend; whole training steps; the
feature loss alone. On a GPU where there is one."""

import pytest
import torch

import hifigan_fast as hf
from hifigan_fast import dispatch, parity, reference
from hifigan_fast.bench import training
from hifigan_fast.bench.steps import ORIGINAL, OURS, PASSES, TRAINING, WAYS
from hifigan_fast.bench.workloads import WORKLOADS, left, modules_of
from hifigan_fast.training.processes import pick_device

DEVICE = pick_device()
ENSEMBLES = [(name, ensemble) for name, workload in WORKLOADS.items() for ensemble in workload.ensembles]
PLAIN = "plain"  # PyTorch, as the original's loop has it; the other implementations are ours by their backends


def waves(workload):
    chosen = WORKLOADS[workload]
    batch = chosen.batch if DEVICE.type == "cuda" else chosen.cpu_batch
    return [x.to(DEVICE) for x in parity.waveforms(batch, chosen.segment)]


def waited_for(call):
    def run():
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


@pytest.mark.parametrize("step", list(PASSES))
@pytest.mark.parametrize("implementation", [PLAIN, *parity.able(device=DEVICE)])
@pytest.mark.parametrize("workload, ensemble", ENSEMBLES)
def test_step(timed, benchmark, workload, ensemble, implementation, step):
    benchmark.group = f"{workload}, {ensemble}, {step}"
    name = ORIGINAL if implementation == PLAIN else OURS
    with dispatch.use_backend("reference" if implementation == PLAIN else implementation):
        modules = modules_of(WORKLOADS[workload], {name: WAYS[name]}, DEVICE)[name][ensemble]
        assert not left(modules)
        timed(waited_for(WAYS[name].call(step, modules, *waves(workload))))


@pytest.mark.parametrize("name", [ORIGINAL, "frozen", OURS])
@pytest.mark.parametrize("step", list(TRAINING))
def test_training_step(timed, benchmark, name, step):
    benchmark.group = step
    y = waves("hifigan")[0].squeeze(1)
    timed(training.Step(training.config_of(step, len(y), y.shape[-1]), WAYS[name], y))


@pytest.mark.parametrize("implementation", ["ours", PLAIN])
def test_feature_loss(timed, benchmark, implementation):
    benchmark.group = "feature loss and its gradient"
    module, function = {
        "ours": (hf.MultiPeriodDiscriminator, hf.feature_loss),
        PLAIN: (reference.MultiPeriodDiscriminator, reference.feature_loss),
    }[implementation]
    with torch.no_grad():
        _, _, real, fake = module().to(DEVICE)(*waves("hifigan"))
    fake = [[m.detach().requires_grad_() for m in own] for own in fake]
    timed(waited_for(lambda: torch.autograd.grad(function(real, fake), [m for own in fake for m in own])))

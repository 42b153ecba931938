"""Faults planted in the sources of the CUDA kernels that move memory are seen: by the machine, or by the ratio rule."""

import pytest
import torch

from hifigan_fast import dispatch

from .test_step import assert_ensemble_is_right, assert_losses_are_right
from .windows import planted

CUDA, rare = dispatch.BACKENDS["cuda"], pytest.mark.exhaustive


def ensemble():
    assert_ensemble_is_right("both norms, periods 1 and 11", "bfloat16", CUDA, 80)


def losses():
    assert_losses_are_right(torch.bfloat16, CUDA, 80)


@pytest.mark.parametrize(
    "run, said, file, old, new",
    [
        (losses, "unordered", "together.cuh", "atom.acq_rel", "atom.relaxed"),
        (ensemble, "race", "stem_weight_grad.cu", "__syncthreads();", ""),
        (ensemble, "<=", "stem.cuh", "2 * (length - 1) - straight", "2 * length - 1 - straight"),
        pytest.param(ensemble, "<=", "head_input_grad.cu", "phase.shift - back", "phase.shift + 1 - back", marks=rare),
        pytest.param(
            ensemble, "<=", "turned.cuh", "part.taps + own_tap;", "part.taps + part.taps - 1 - own_tap;", marks=rare
        ),
    ],
)
def test_planted(run, said, file, old, new):
    with planted(file, old, new), pytest.raises(AssertionError, match=said):
        run()

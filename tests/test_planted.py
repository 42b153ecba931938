"""The parity test itself is tested: every planted bug must be caught, and nothing else."""

import pytest
import torch

from hifigan_fast import parity
from hifigan_fast.dispatch import BACKENDS

from .small import SmallEnsemble
from .wrong.backends import ALL

CASES = {
    "folded, weight norm": {"length": 101},
    "scales, two sigmas a pair": {"folded": False, "norm": "spectral", "sigmas": 2, "length": 96},
}


def worst(backend):
    return max(SmallEnsemble(**case).worst_ratio(backend) for case in CASES.values())


def test_the_right_backend_passes():
    assert worst(BACKENDS["reference"]) <= parity.LIMIT


@pytest.mark.parametrize("wrong", ALL, ids=lambda cls: cls.__name__)
def test_a_planted_bug_is_caught(wrong):
    assert worst(wrong()) > parity.LIMIT


@pytest.mark.parametrize("error", [1.0, -1.0])
def test_an_errors_ratio_is_that_of_the_worse_measure(error):
    """One wrong element of many raises the maximum more than the RMS; several tensors are judged as one."""
    oracle = [
        torch.ones(100, dtype=torch.float64),
        torch.zeros(0, dtype=torch.float64),
        torch.ones(300, dtype=torch.float64),
    ]
    plain = [o + 0.5 * (-1) ** torch.arange(len(o)) for o in oracle]
    ours = [o.clone() for o in oracle]
    ours[0][7] += 2 * error
    pairs = [((a, o), (b, o)) for a, b, o in zip(ours, plain, oracle)]
    assert parity.error_ratio(pairs, 0, 0.0) == 4
    everywhere = [((o + 1.5 * error, o), (b, o)) for b, o in zip(plain, oracle)]
    assert parity.error_ratio(everywhere, 0, 0.0) == 3
    assert parity.error_ratio(everywhere, 1.0, 1.0) == 1
    ours[2][0] = float("nan")
    assert not parity.error_ratio(pairs, 0, 0.0) <= parity.LIMIT
    assert parity.error_ratio([((None, oracle[0]), (plain[0], oracle[0]))], 0, 0.0) == float("inf")


def test_a_verdict_names_all_that_failed():
    worst = {"maps": (0.5, "real 0"), "bias gradients": (9.0, "a"), "logits": (3.0, "b")}
    assert str(parity.Verdict(worst)) == (
        f"FAIL, worst ratio 9.00 (bias gradients: a); also above {parity.LIMIT}: 3.00 (logits: b)"
    )

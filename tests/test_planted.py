"""The parity test itself is tested: every planted bug must be caught, and nothing else."""

import pytest

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

"""Each layer of the design's table, each direction, plain PyTorch's and ours on every backend that runs on this CPU."""

import pytest

from hifigan_fast import parity

from . import layers
from .conftest import BATCH

PLAIN = "plain"


@pytest.mark.parametrize("direction", layers.DIRECTIONS)
@pytest.mark.parametrize("implementation", [PLAIN, *parity.able()])
@pytest.mark.parametrize("name", list(layers.table()))
def test_layer(timed, benchmark, name, implementation, direction):
    benchmark.group = f"{name}, {direction}"
    if implementation == PLAIN:
        case = layers.LayerCase(name, 2 * BATCH)
        timed(case.plain(direction), case.flops)
    else:
        case = layers.LayerCase(name, 2 * BATCH, implementation)
        timed(case.ours(direction), case.flops)

"""Each layer of the design's table, each direction, ours and plain PyTorch's."""

import pytest

from . import layers
from .conftest import BATCH


@pytest.mark.parametrize("direction", layers.DIRECTIONS)
@pytest.mark.parametrize("implementation", ["ours", "plain"])
@pytest.mark.parametrize("name", list(layers.table()))
def test_layer(timed, benchmark, name, implementation, direction):
    benchmark.group = f"{name}, {direction}"
    case = layers.LayerCase(name, 2 * BATCH)
    timed(getattr(case, implementation)(direction), case.flops)

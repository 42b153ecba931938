"""pytest benchmarks: per layer, per ensemble and per step, for people who compare commits.

pytest benchmarks                                        everything
pytest benchmarks --benchmark-autosave                   keep the figures; then, on another commit,
pytest benchmarks --benchmark-compare                    and compare
pytest benchmarks -k "S5 and forward"                    one layer
"""

import pytest

from hifigan_fast import parity

BATCH, SEGMENT = 4, 8192


@pytest.fixture(scope="session")
def waveforms():
    return parity.waveforms(BATCH, SEGMENT)


@pytest.fixture
def timed(benchmark):
    """Few rounds of one call each: a call takes tens of milliseconds and more."""

    def run(call, flops=None):
        benchmark.pedantic(call, rounds=5, iterations=1, warmup_rounds=1)
        if flops:
            benchmark.extra_info["GFLOP/s"] = round(flops / benchmark.stats.stats.median / 1e9, 1)

    return run

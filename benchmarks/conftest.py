"""pytest benchmarks: per layer, per ensemble and per step, for people who compare commits.

pytest benchmarks                                        everything
pytest benchmarks --benchmark-autosave                   keep the figures; then, on another commit,
pytest benchmarks --benchmark-compare                    and compare with the last that were kept
pytest benchmarks -k "S5 and forward"                    one layer
pytest benchmarks -k "vits and generator"                one step

Without pytest, for tables: python -m benchmarks.layers or shapes.
"""

import pytest

from . import report

BATCH = 4


@pytest.fixture(scope="session")
def peak():
    return report.peak()


@pytest.fixture
def timed(benchmark, request):
    """Few rounds of one call each: a call takes tens of milliseconds and more."""

    def run(call, flops=None):
        benchmark.pedantic(call, rounds=5, iterations=1, warmup_rounds=1)
        if flops and benchmark.stats:  # none under --benchmark-disable
            rate = flops / benchmark.stats.stats.median
            peak = request.getfixturevalue("peak")
            benchmark.extra_info |= {"GFLOP/s": round(rate / 1e9, 1), "fraction of peak": round(rate / peak, 3)}

    return run

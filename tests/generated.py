"""Generated cases: of each property a seeded sample every day, and many new cases where tests are exhaustive."""

import pytest
from hypothesis import HealthCheck, settings


def cases(sample, exhaustive):
    """Runs a test with `generated`, Hypothesis' settings of that many cases, for the check inside of it."""
    shared = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
    every_day = settings(max_examples=sample, derandomize=True, **shared)
    many = pytest.param(settings(max_examples=exhaustive, **shared), marks=pytest.mark.exhaustive)
    return pytest.mark.parametrize("generated", [every_day, many], ids=["a sample", "many"])

"""What the seeds say: the band in which one more run of a standard lies, and how far a variant is from it."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
FEWEST = 3  # seeds: of fewer there is no band


def band(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Low and high of the prediction interval (Student's t) of one more run, at each point; None of too few runs."""
    if len(curves) < FEWEST:
        return None
    from scipy.stats import t

    values, runs = np.array(curves, dtype=float), len(curves)
    half = t.ppf((1 + CONFIDENCE) / 2, runs - 1) * values.std(0, ddof=1) * math.sqrt(1 + 1 / runs)
    return values.mean(0) - half, values.mean(0) + half


def difference(values: dict[int, float], standard: dict[int, float]) -> str:
    """Mean difference of values by seed, with its interval (Student's t of the pairs), in words.

    Runs of one seed see the same crops: their differences are free of what these do.
    """
    pairs = [values[seed] - standard[seed] for seed in values if seed in standard]
    if len(pairs) < FEWEST:
        return "too few seeds"
    from scipy.stats import t

    half = t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1) * np.std(pairs, ddof=1) / math.sqrt(len(pairs))
    return f"{np.mean(pairs):+.3f} ± {half:.3f}"


def within(curve: Sequence[float], of: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of a curve's points that lie in a band."""
    low, high = of
    return float(np.mean((low <= np.array(curve)) & (np.array(curve) <= high)))


def inside(curves: Sequence[Sequence[float]], standard: Sequence[Sequence[float]]) -> str:
    """The least share of a variant's curves in the band of the standard's, in words; nothing of the standard itself."""
    limits = band(standard)
    if limits is None:
        return "no band yet"
    least = min(within(curve, limits) for curve in curves)
    return "" if curves == standard else "100%" if least == 1 else f"≥ {least:.0%}"

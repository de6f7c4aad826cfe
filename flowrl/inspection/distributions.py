"""Percentiles and histograms of numbers, some of which may not be finite."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCENTS", "Distribution", "Histogram"]

PERCENTS = (0, 5, 10, 25, 50, 75, 90, 95, 100)
BINS = 40


@dataclass(frozen=True)
class Distribution:
    """Of the finite values of an array; all None where there is none."""

    count: int
    """How many are finite."""
    mean: float | None
    std: float | None
    percentiles: dict[int, float]
    """Percent → value."""

    @classmethod
    def of(cls, values: NDArray[np.floating] | NDArray[np.integer]) -> "Distribution":
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(0, None, None, {})
        percentiles = np.percentile(values, PERCENTS)
        return cls(
            len(values),
            float(values.mean()),
            float(values.std()),
            {percent: float(value) for percent, value in zip(PERCENTS, percentiles, strict=True)},
        )


@dataclass(frozen=True)
class Histogram:
    """Counts of finite values between `edges`, one more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.floating], edges: NDArray[np.floating] | int = BINS) -> "Histogram":
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if isinstance(edges, int) and len(values):
            low, high = float(values.min()), float(values.max())
            # Values that differ by rounding alone leave no room for bins between them.
            room = max(1e-9 * (max(abs(low), abs(high)) or 1.0), high - low)
            edges = np.linspace(low, low + room if room > high - low else high, edges + 1)
        counts, bin_edges = np.histogram(values, edges)
        return cls(tuple(bin_edges.tolist()), tuple(counts.tolist()))

"""Statistics of returns: normalised scores, the interquartile mean, and bootstrap intervals.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. Returns
stand in an array (seeds, episodes): a row per training seed, a column per environment seed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Returns = NDArray[np.float64]  # (seeds, episodes)


def normalised(achieved: float, reference: tuple[float, float] | None) -> float | None:
    """100·(return − random)/(expert − random) for a `reference` of (random, expert) returns; None without one."""
    if reference is None:
        return None
    random, expert = reference
    return 100.0 * (achieved - random) / (expert - random)


def interquartile_mean(returns: NDArray[np.float64]) -> float:
    """The mean of the middle half of all values: a quarter of their weight is cut from each end, values in parts."""
    values = np.sort(np.ravel(returns))
    cut = len(values) / 4
    edges = np.arange(len(values) + 1)
    weights = np.minimum(edges[1:], len(values) - cut) - np.maximum(edges[:-1], cut)
    return float(np.average(values, weights=np.clip(weights, 0.0, 1.0)))


def mean(returns: NDArray[np.float64]) -> float:
    """The mean of all values."""
    return float(np.mean(returns))


def bootstrap_interval(
    returns: Returns,
    statistic: Callable[[NDArray[np.float64]], float],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of (seeds, episodes) returns.

    Training seeds are drawn with replacement, then episodes; every drawn seed keeps the same drawn episodes, since
    all seeds meet the same environment seeds. With one seed the interval is over episodes alone, and says nothing of
    how training varies.
    """
    seeds, episodes = returns.shape
    drawn = [
        statistic(returns[np.ix_(generator.integers(seeds, size=seeds), generator.integers(episodes, size=episodes))])
        for _ in range(resamples)
    ]
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def paired_difference(
    ours: Returns, theirs: Returns, generator: np.random.Generator, *, confidence: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Mean of ours − theirs where training seed and environment seed agree, and its bootstrap interval.

    Raises:
        ValueError: the two differ in shape, so that they cannot be paired.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"returns of shapes {ours.shape} and {theirs.shape} cannot be paired")
    difference = ours - theirs
    return mean(difference), bootstrap_interval(difference, mean, generator, confidence=confidence)

"""Statistics of returns: normalised scores, the interquartile mean, bootstrap intervals, and comparisons over tasks.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. Returns
(or scores) of an agent on one task stand in an array (seeds, episodes): a row per training seed, a column per
environment seed. The mean of a row is a *run score*. A list of such arrays holds an agent's tasks; a task may have
seeds of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Returns = Floats  # (seeds, episodes)

CONFIDENCE = 0.95
RESAMPLES = 2_000


class Estimate(NamedTuple):
    """A statistic and the ends of its interval."""

    value: float
    low: float
    high: float


def normalised(episode_return: float, reference: tuple[float, float] | None) -> float | None:
    """100·(return − random)/(expert − random) for a `reference` of (random, expert) returns; None without one."""
    if reference is None:
        return None
    random, expert = reference
    return 100.0 * (episode_return - random) / (expert - random)


def interquartile_mean(values: ArrayLike) -> Floats:
    """(..., N) to (...): the mean of the middle half; a quarter of the weight is cut from each end, values in parts."""
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    count = ordered.shape[-1]
    edges = np.arange(count + 1)
    weights = np.minimum(edges[1:], 0.75 * count) - np.maximum(edges[:-1], 0.25 * count)
    return np.average(ordered, axis=-1, weights=np.clip(weights, 0.0, 1.0))


def resample(returns: Returns, generator: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """(resamples, seeds, episodes) bootstrap samples of (seeds, episodes) returns.

    Training seeds are drawn with replacement, then episodes; every drawn seed keeps the same drawn episodes, since all
    seeds meet the same environment seeds. With one seed only episodes vary: that says nothing of how training varies.
    """
    seeds, episodes = returns.shape
    drawn_seeds = generator.integers(seeds, size=(resamples, seeds, 1))
    drawn_episodes = generator.integers(episodes, size=(resamples, 1, episodes))
    return returns[drawn_seeds, drawn_episodes]


def interval(samples: Floats) -> tuple[float, float]:
    """The percentile interval of (resamples,) values of a statistic."""
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return float(low), float(high)


def mean_return(returns: Returns, generator: np.random.Generator) -> Estimate:
    """The mean over seeds and episodes."""
    return Estimate(float(returns.mean()), *interval(resample(returns, generator).mean((1, 2))))


def paired_difference(ours: Returns, theirs: Returns, generator: np.random.Generator) -> Estimate:
    """Mean of ours − theirs where training seed and environment seed agree.

    Raises:
        ValueError: the two differ in shape, so that they cannot be paired.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"returns of shapes {ours.shape} and {theirs.shape} cannot be paired")
    return mean_return(ours - theirs, generator)


def _run_scores(tasks: Sequence[Returns], generator: np.random.Generator) -> list[Floats]:
    """Per task (resamples, seeds) run scores of a bootstrap that is stratified: seeds are drawn within their task."""
    return [resample(returns, generator).mean(2) for returns in tasks]


class Aggregate(NamedTuple):
    """The scores of an agent over tasks and seeds, with stratified-bootstrap intervals; the set of tasks is fixed."""

    iqm: Estimate  # of all run scores
    mean: Estimate  # of the tasks' means
    median: Estimate  # of the tasks' means


def aggregate(tasks: Sequence[Returns], generator: np.random.Generator) -> Aggregate:
    """The interquartile mean over run scores, and mean and median over the tasks' means."""

    def statistics(runs: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
        means = np.stack([scores.mean(-1) for scores in runs], axis=-1)
        return interquartile_mean(np.concatenate(runs, axis=-1)), means.mean(-1), np.median(means, axis=-1)

    estimates = statistics([returns.mean(1) for returns in tasks])
    drawn = statistics(_run_scores(tasks, generator))
    return Aggregate(
        *(Estimate(float(value), *interval(samples)) for value, samples in zip(estimates, drawn, strict=True))
    )


def aggregate_difference(
    ours: Sequence[Returns], theirs: Sequence[Returns], generator: np.random.Generator
) -> Estimate:
    """The mean over tasks of the paired difference, its interval from seeds and episodes drawn within each task.

    Raises:
        ValueError: the two differ in shape on a task, so that they cannot be paired.
    """
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape:
            raise ValueError(f"returns of shapes {mine.shape} and {other.shape} cannot be paired")
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    return aggregate(differences, generator).mean


def probability_of_improvement(
    ours: Sequence[Returns], theirs: Sequence[Returns], generator: np.random.Generator
) -> Estimate:
    """P(a run score of ours > one of theirs), averaged over tasks; of equal ones half counts.

    All pairs of runs on a task are compared, whatever their seeds, and the two agents are drawn apart from each other.
    """

    def probability(mine: Sequence[Floats], others: Sequence[Floats]) -> Floats:
        per_task = []
        for x, y in zip(mine, others, strict=True):
            x, y = x[..., :, None], y[..., None, :]
            per_task.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
        return np.mean(per_task, axis=0)

    estimate = probability([returns.mean(1) for returns in ours], [returns.mean(1) for returns in theirs])
    drawn = probability(_run_scores(ours, generator), _run_scores(theirs, generator))
    return Estimate(float(estimate), *interval(drawn))


class Profile(NamedTuple):
    """The share of runs that score above each threshold, with pointwise intervals."""

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats


def performance_profile(tasks: Sequence[Returns], thresholds: ArrayLike, generator: np.random.Generator) -> Profile:
    """The share of all run scores, over tasks and seeds, above each of (N,) thresholds."""
    levels = np.asarray(thresholds, np.float64)
    scores = np.concatenate([returns.mean(1) for returns in tasks])
    share = (scores[:, None] > levels).mean(0)
    drawn = np.concatenate(_run_scores(tasks, generator), axis=1)
    shares = np.stack([(drawn > level).mean(1) for level in levels], axis=1)  # (resamples, N)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [tail, 1.0 - tail], axis=0)
    return Profile(levels, share, low, high)

"""Everything that can be counted in the arrays of a dataset: episodes, returns, rewards, columns, flags."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowrl.data.spaces import Column
from flowrl.data.stored_arrays import StoredArrays
from flowrl.inspection.distributions import Distribution, Histogram
from flowrl.inspection.features import Feature, Layout, features_of
from flowrl.inspection.references import References
from flowrl.text import LISTED

__all__ = ["Place", "Statistics", "episode_returns", "summarise"]


@dataclass(frozen=True)
class Place:
    """Where a number is NaN or infinite."""

    array: str
    """observations, actions or rewards."""
    episode: int
    step: int
    column: str | None
    value: str


@dataclass(frozen=True)
class Statistics:
    """Everything that can be counted in the arrays of a dataset; episodes are named by their ids in the file."""

    episodes: int
    steps: int
    lengths: Distribution
    returns: Distribution
    """Over episodes."""
    returns_by_step: Distribution
    """Every step counts with the return of its episode, as a sampler of steps sees it."""
    returns_histogram: Histogram
    """Over episodes."""
    returns_by_step_histogram: Histogram
    """With the same edges."""
    returns_to_go: Distribution
    rewards: Distribution
    rewards_histogram: Histogram
    terminated: int
    truncated: int
    both_flags: int
    neither_flag: int
    early_flags: int
    """Episodes that go on after a flag."""
    observations: tuple[Feature, ...]
    actions: tuple[Feature, ...]
    non_finite: int
    non_finite_places: tuple[Place, ...]
    """The first of them."""
    duplicates: tuple[tuple[int, ...], ...]
    """Groups of episodes whose observations, actions and rewards are equal to the bit; all but the first repeat it."""
    scores: dict[str, dict[int, float]]
    """Name of a reference → percent → that percentile of the returns over episodes, normalised by this reference."""

    @property
    def repeated(self) -> int:
        """How many episodes repeat an earlier one."""
        return sum(len(group) - 1 for group in self.duplicates)


def summarise(arrays: StoredArrays, indices: Sequence[int], layout: Layout, references: References) -> Statistics:
    """Summarise the arrays; NaN and infinity are listed and left out of everything else.

    Args:
        indices: (E,) the episodes' ids in the file.
        layout: the names and bounds of the arrays' columns.
        references: returns of a random and of an expert policy, by name; None where they are not known.
    """
    lengths = arrays.lengths
    ends = np.cumsum(lengths)
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    returns = episode_returns(arrays)
    by_step = returns[episode_of]
    histogram = Histogram.of(returns)
    terminated, truncated = arrays.terminations[ends - 1], arrays.truncations[ends - 1]
    flagged = arrays.terminations | arrays.truncations
    flagged[ends - 1] = False
    non_finite, places = _non_finite(arrays, indices, layout)
    distribution = Distribution.of(returns)
    return Statistics(
        episodes=len(lengths),
        steps=len(arrays.rewards),
        lengths=Distribution.of(lengths),
        returns=distribution,
        returns_by_step=Distribution.of(by_step),
        returns_histogram=histogram,
        returns_by_step_histogram=Histogram.of(by_step, np.array(histogram.edges)),
        returns_to_go=Distribution.of(_returns_to_go(arrays, returns)),
        rewards=Distribution.of(arrays.rewards),
        rewards_histogram=Histogram.of(arrays.rewards),
        terminated=int(terminated.sum()),
        truncated=int(truncated.sum()),
        both_flags=int((terminated & truncated).sum()),
        neither_flag=int((~terminated & ~truncated).sum()),
        early_flags=len(np.unique(episode_of[flagged])),
        observations=features_of(arrays.observations, layout.observations, offset=arrays.offset),
        actions=features_of(arrays.actions, layout.actions, layout.action_low, layout.action_high),
        non_finite=non_finite,
        non_finite_places=places,
        duplicates=_duplicates(arrays, indices),
        scores=_scores(distribution, references),
    )


def episode_returns(arrays: StoredArrays) -> NDArray[np.float64]:
    """(E,) the sum of each episode's rewards."""
    starts = np.cumsum(arrays.lengths) - arrays.lengths
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.add.reduceat(arrays.rewards.astype(np.float64), starts)


def _returns_to_go(arrays: StoredArrays, returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) NaN in every episode whose return is not finite."""
    rewards, ends = arrays.rewards.astype(np.float64), np.cumsum(arrays.lengths)
    # A NaN would spread over all that is summed after it, beyond its episode.
    total = np.cumsum(np.where(np.isfinite(rewards), rewards, 0.0))
    returns_to_go = np.repeat(total[ends - 1], arrays.lengths) - total + rewards
    returns_to_go[np.repeat(~np.isfinite(returns), arrays.lengths)] = np.nan
    return returns_to_go


def _scores(returns: Distribution, references: References) -> dict[str, dict[int, float]]:
    return {
        name: {
            percent: 100.0 * (value - pair[0]) / (pair[1] - pair[0]) for percent, value in returns.percentiles.items()
        }
        for name, pair in references.items()
        if pair is not None and pair[0] != pair[1]
    }


def _non_finite(arrays: StoredArrays, indices: Sequence[int], layout: Layout) -> tuple[int, tuple[Place, ...]]:
    count, places = 0, []
    columns: dict[str, Sequence[Column]] = {"observations": layout.observations, "actions": layout.actions}
    for name, one_more in (("observations", 1), ("actions", 0), ("rewards", 0)):
        array = getattr(arrays, name)
        bad = np.argwhere(~np.isfinite(array))
        count += len(bad)
        starts = np.cumsum(arrays.lengths + one_more) - (arrays.lengths + one_more)
        for at in bad[: LISTED - len(places)].tolist():
            episode = int(np.searchsorted(starts, at[0], side="right")) - 1
            column = columns[name][at[1]].name if len(at) > 1 else None
            place = Place(name, indices[episode], at[0] - int(starts[episode]), column, str(array[tuple(at)]))
            places.append(place)
    return count, tuple(places)


def _duplicates(arrays: StoredArrays, indices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    ends = np.cumsum(arrays.lengths).tolist()
    for number, (index, length, end) in enumerate(zip(indices, arrays.lengths.tolist(), ends, strict=True)):
        digest = hashlib.blake2b(length.to_bytes(8, "little"), digest_size=16)
        digest.update(np.ascontiguousarray(arrays.observations[end - length + number : end + number + 1]).data)
        digest.update(np.ascontiguousarray(arrays.actions[end - length : end]).data)
        digest.update(np.ascontiguousarray(arrays.rewards[end - length : end]).data)
        groups[digest.digest()].append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)

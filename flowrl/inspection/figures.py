"""Everything that can be counted in the arrays of a dataset: episodes, returns, rewards, columns, flags."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowrl.data.spaces import Column
from flowrl.data.stored_arrays import StoredArrays
from flowrl.text import LISTED

PERCENTS = (0, 5, 10, 25, 50, 75, 90, 95, 100)
BINS = 40

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Distribution:
    """Of the finite ones among some numbers; all None where there is none."""

    count: int
    """Of the finite ones."""
    mean: float | None
    std: float | None
    percentiles: dict[int, float]
    """Percent → value."""

    @classmethod
    def of(cls, values: Floats | NDArray[np.integer]) -> "Distribution":
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
    def of(cls, values: Floats, edges: Floats | int = BINS) -> "Histogram":
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if isinstance(edges, int) and len(values):
            low, high = float(values.min()), float(values.max())
            # Values that rounding alone sets apart leave no room for bins between them.
            room = max(1e-9 * max(abs(low), abs(high), 1.0), high - low)
            edges = np.linspace(low, low + room if room > high - low else high, edges + 1)
        counts, made = np.histogram(values, edges)
        return cls(tuple(made.tolist()), tuple(counts.tolist()))


@dataclass(frozen=True)
class Feature:
    """One column of the observations (all T+1 of an episode) or of the actions, over its finite entries."""

    name: str
    """As `flowrl.data.spaces.columns` has it."""
    minimum: float | None
    mean: float | None
    std: float | None
    maximum: float | None
    constant: bool
    """It varies by no more than rounding."""
    non_finite: int
    at_low: float | None = None
    """Share of the entries at the lower bound of the action space or below; None where there is no such bound."""
    at_high: float | None = None
    """Likewise, at the upper or above."""
    outside: int = 0
    """Entries beyond a bound of the action space by more than rounding."""
    one_hot: bool = False
    """One of a Discrete's columns: its mean is the share of the steps that chose it."""

    @property
    def saturated(self) -> float | None:
        """Share of the entries at a bound or beyond it."""
        shares = [share for share in (self.at_low, self.at_high) if share is not None]
        return sum(shares) if shares else None


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
class Figures:
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


def count_figures(
    arrays: StoredArrays,
    indices: Sequence[int],
    *,
    observation_names: Sequence[Column] | None = None,
    action_names: Sequence[Column] | None = None,
    action_low: Floats | None = None,
    action_high: Floats | None = None,
    references: Mapping[str, tuple[float, float] | None] | None = None,
) -> Figures:
    """Count what is in the arrays; NaN and infinity are listed and left out of everything else.

    Args:
        indices: the episodes' ids in the file.
        observation_names: one a column; numbered where None.
        action_names: likewise.
        action_low: (action size,) bounds of the action space; None where it has none.
        references: returns of a random and of an expert policy, by name; None where they are not known.
    """
    names = (
        observation_names or _numbered("observation", arrays.observations),
        action_names or _numbered("action", arrays.actions),
    )
    lengths = arrays.lengths
    ends = np.cumsum(lengths)
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    rewards = arrays.rewards.astype(np.float64)
    returns = episode_returns(arrays)
    # A NaN would spread over all that is summed after it, beyond its episode.
    total = np.cumsum(np.where(np.isfinite(rewards), rewards, 0.0))
    returns_to_go = total[ends - 1][episode_of] - total + rewards
    returns_to_go[~np.isfinite(returns)[episode_of]] = np.nan

    by_step = returns[episode_of]
    histogram = Histogram.of(returns)
    terminated, truncated = arrays.terminations[ends - 1], arrays.truncations[ends - 1]
    flagged = arrays.terminations | arrays.truncations
    flagged[ends - 1] = False
    count, places = _non_finite(arrays, indices, names)
    distribution = Distribution.of(returns)
    return Figures(
        episodes=len(lengths),
        steps=len(rewards),
        lengths=Distribution.of(lengths),
        returns=distribution,
        returns_by_step=Distribution.of(by_step),
        returns_histogram=histogram,
        returns_by_step_histogram=Histogram.of(by_step, np.array(histogram.edges)),
        returns_to_go=Distribution.of(returns_to_go),
        rewards=Distribution.of(rewards),
        rewards_histogram=Histogram.of(rewards),
        terminated=int(terminated.sum()),
        truncated=int(truncated.sum()),
        both_flags=int((terminated & truncated).sum()),
        neither_flag=int((~terminated & ~truncated).sum()),
        early_flags=len(np.unique(episode_of[flagged])),
        observations=_features(arrays.observations, names[0], None, None),
        actions=_features(arrays.actions, names[1], action_low, action_high),
        non_finite=count,
        non_finite_places=places,
        duplicates=_duplicates(arrays, indices),
        scores={
            name: {percent: 100.0 * (value - pair[0]) / (pair[1] - pair[0]) for percent, value in
                   distribution.percentiles.items()}
            for name, pair in (references or {}).items()
            if pair is not None and pair[0] != pair[1]
        },
    )  # fmt: skip


def episode_returns(arrays: StoredArrays) -> NDArray[np.float64]:
    """(E,) the sum of each episode's rewards."""
    starts = np.cumsum(arrays.lengths) - arrays.lengths
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.add.reduceat(arrays.rewards.astype(np.float64), starts)


def _numbered(what: str, array: Floats) -> list[Column]:
    return [Column(f"{what}[{number}]") for number in range(array.shape[1])]


def _features(array: Floats, names: Sequence[Column], low: Floats | None, high: Floats | None) -> tuple[Feature, ...]:
    found = []
    for number, name in enumerate(names):
        # In rows, columns are far apart in memory: one pass to bring them together, all others on that copy.
        column = array[:, number].astype(np.float64)
        finite = column[np.isfinite(column)]
        missing = len(column) - len(finite)
        if not len(finite):
            found.append(Feature(name.name, None, None, None, None, False, missing, one_hot=name.one_hot))
            continue
        minimum, maximum, std = float(finite.min()), float(finite.max()), float(finite.std())
        at_low, below = _at_bound(-finite, None if low is None else -low[number])
        at_high, above = _at_bound(finite, None if high is None else high[number])
        found.append(
            Feature(
                name=name.name,
                minimum=minimum,
                mean=float(finite.mean()),
                std=std,
                maximum=maximum,
                # As flowrl.data's normaliser judges it: rounding alone makes a constant vary.
                constant=std <= 1e-6 * max(abs(minimum), abs(maximum), 1.0),
                non_finite=missing,
                at_low=at_low,
                at_high=at_high,
                outside=below + above,
                one_hot=name.one_hot,
            )
        )
    return tuple(found)


def _at_bound(values: Floats, bound: float | None) -> tuple[float | None, int]:
    """The share of the values at an upper bound or above it, and how many are above by more than rounding."""
    if bound is None or not np.isfinite(bound):
        return None, 0
    rounding = 1e-6 * max(1.0, abs(float(bound)))
    return float((values >= bound - rounding).mean()), int((values > bound + rounding).sum())


def _non_finite(
    arrays: StoredArrays, indices: Sequence[int], names: tuple[Sequence[Column], Sequence[Column]]
) -> tuple[int, tuple[Place, ...]]:
    count, places = 0, []
    columns: dict[str, Sequence[Column]] = {"observations": names[0], "actions": names[1]}
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

"""What is in a dataset: figures on its episodes, returns, features and flags, and what is wrong with it.

Three questions get an answer in a sentence: what training would refuse, whether transitions follow from their actions
(`judge_alignment`, of errors that a simulator was asked for), and whether returns can steer a policy (`steering`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import h5py
import minari
import numpy as np
from numpy.typing import NDArray

from flowrl.data import TrajectoryDataset
from flowrl.errors import InputError, cause
from flowrl.stored_arrays import StoredArrays, read_arrays

PERCENTS = (0, 5, 10, 25, 50, 75, 90, 95, 100)
BINS = 40
LISTED = 20  # of many faulty places or episodes so many are named

FEW_EPISODES = 10
SATURATED = 0.5  # share of an action's entries at one bound or the other that is worth a warning

Floats = NDArray[np.floating]


def reset_seeds(dataset: minari.MinariDataset) -> dict[int, int]:
    """The seed of each episode's reset by the episode's id, where they were recorded.

    Raises:
        InputError: the file cannot be read.
    """
    indices = [int(index) for index in dataset.episode_indices]
    try:
        rows = dataset.storage.get_episode_metadata(indices)
        return {
            index: int(row["seed"]) for index, row in zip(indices, rows, strict=True) if row.get("seed") is not None
        }
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the seeds of {dataset.id} cannot be read: {cause(error)}") from error


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
        counts, made = np.histogram(values[np.isfinite(values)], edges)
        return cls(tuple(made.tolist()), tuple(counts.tolist()))


@dataclass(frozen=True)
class Feature:
    """One dimension of the observations (all T+1 of an episode) or of the actions, over its finite entries."""

    dimension: int
    minimum: float | None
    mean: float | None
    std: float | None
    maximum: float | None
    constant: bool
    """It varies by no more than rounding."""
    non_finite: int
    at_low: float | None = None
    """Share of the entries at the lower bound of the action space; None where there is no such bound."""
    at_high: float | None = None
    """Likewise, the upper."""

    @property
    def saturated(self) -> float | None:
        """Share of the entries at a bound."""
        shares = [share for share in (self.at_low, self.at_high) if share is not None]
        return sum(shares) if shares else None


@dataclass(frozen=True)
class Place:
    """Where a number is NaN or infinite."""

    array: str
    """observations, actions or rewards."""
    episode: int
    step: int
    dimension: int | None
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
    """Groups of episodes that are equal to the bit, the first of each the one that the others repeat."""
    scores: dict[str, dict[int, float]]
    """Name of a reference → percent → that percentile of the returns over episodes, normalised by this reference."""

    @property
    def repeated(self) -> int:
        """How many episodes repeat an earlier one."""
        return sum(len(group) - 1 for group in self.duplicates)


def figures(
    arrays: StoredArrays,
    indices: Sequence[int],
    *,
    action_low: Floats | None = None,
    action_high: Floats | None = None,
    references: Mapping[str, tuple[float, float] | None] | None = None,
) -> Figures:
    """Count what is in the arrays; NaN and infinity are listed and left out of everything else.

    Args:
        indices: the episodes' ids in the file.
        action_low: (action size,) bounds of the action space; None where it has none.
        references: returns of a random and of an expert policy, by name; None where they are not known.
    """
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
    count, places = _non_finite(arrays, indices)
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
        observations=_features(arrays.observations, None, None),
        actions=_features(arrays.actions, action_low, action_high),
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


def _features(array: Floats, low: Floats | None, high: Floats | None) -> tuple[Feature, ...]:
    found = []
    for dimension in range(array.shape[1]):
        column = array[:, dimension].astype(np.float64)
        finite = column[np.isfinite(column)]
        missing = len(column) - len(finite)
        shares = [_share_at(array[:, dimension], bound, dimension) for bound in (low, high)]
        if not len(finite):
            found.append(Feature(dimension, None, None, None, None, False, missing, *shares))
            continue
        std, largest = float(finite.std()), float(np.abs(finite).max())
        # As flowrl.data's normaliser judges it: rounding alone makes a constant vary.
        constant = std <= 1e-6 * max(largest, 1.0)
        found.append(
            Feature(dimension, float(finite.min()), float(finite.mean()), std, float(finite.max()), constant, missing,
                    *shares)
        )  # fmt: skip
    return tuple(found)


def _share_at(column: Floats, bounds: Floats | None, dimension: int) -> float | None:
    if bounds is None or not np.isfinite(bounds[dimension]):
        return None
    bound = np.float32(bounds[dimension])
    return float((np.abs(column - bound) <= 1e-6 * max(1.0, abs(float(bound)))).mean())


def _non_finite(arrays: StoredArrays, indices: Sequence[int]) -> tuple[int, tuple[Place, ...]]:
    count, places = 0, []
    for name, one_more in (("observations", 1), ("actions", 0), ("rewards", 0)):
        array = getattr(arrays, name)
        bad = np.argwhere(~np.isfinite(array))
        count += len(bad)
        starts = np.cumsum(arrays.lengths + one_more) - (arrays.lengths + one_more)
        for at in bad[: LISTED - len(places)].tolist():
            episode = int(np.searchsorted(starts, at[0], side="right")) - 1
            dimension = at[1] if len(at) > 1 else None
            place = Place(name, indices[episode], at[0] - int(starts[episode]), dimension, str(array[tuple(at)]))
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


def load(dataset: minari.MinariDataset) -> tuple[StoredArrays | None, TrajectoryDataset | None, list[str]]:
    """A dataset's arrays and its form for training, as far as each can be had, and what training would refuse."""
    try:
        arrays = read_arrays(dataset)
    except InputError as error:
        return None, None, [str(error), *_shape_refusals(dataset, known=str(error))]
    low, high = action_bounds(dataset.action_space, arrays.actions.shape[1])
    unbounded = np.full(arrays.actions.shape[1], np.inf)
    try:
        loaded = TrajectoryDataset.from_arrays(
            dataset.id,
            arrays,
            action_low=-unbounded if low is None else low,
            action_high=unbounded if high is None else high,
            env_spec=dataset.env_spec,
        )
    except InputError as error:
        return arrays, None, [str(error)]
    return arrays, loaded, []


def action_bounds(space: gym.Space, size: int) -> tuple[Floats | None, Floats | None]:
    """The bounds (action size,) of a flat Box; None and None for any other space."""
    if isinstance(space, gym.spaces.Box) and space.shape == (size,):
        return space.low, space.high
    return None, None


def _shape_refusals(dataset: minari.MinariDataset, known: str) -> list[str]:
    """What else is wrong than the first thing: how many episodes' arrays disagree in length."""
    file = Path(dataset.storage.data_path) / "main_data.hdf5"
    wrong = []
    try:
        with h5py.File(file, "r") as opened:
            for index in dataset.episode_indices:
                group = opened[f"episode_{int(index)}"]
                shapes = {name: getattr(group.get(name), "shape", None) for name in ("observations", "actions")}  # pyright: ignore[reportAttributeAccessIssue]
                length = group["rewards"].shape[0]  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
                due = {"observations": length + 1, "actions": length}
                if length == 0 or any(shape is not None and shape[0] != due[name] for name, shape in shapes.items()):
                    wrong.append(int(index))
    except (OSError, KeyError, RuntimeError, AttributeError, IndexError, TypeError):
        return []  # then the first sentence is all there is to know
    if len(wrong) < 2:
        return []
    return [f"{len(wrong):,} episodes in all are empty or disagree in length: {named(wrong)}"]


def figure(value: float | None) -> str:
    """A figure in as many digits as it needs; a dash for None."""
    if value is None:
        return "–"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3}f}"


def share(value: float) -> str:
    """A share in per cent; no minus before a zero."""
    return f"{value:.1%}" if round(value, 3) else "0.0%"


def named(numbers: Sequence[int]) -> str:
    """Numbers in a row, the first few of many."""
    told = ", ".join(map(str, numbers[:LISTED]))
    return told if len(numbers) <= LISTED else f"{told} and {len(numbers) - LISTED:,} more"


# The simulator's answer.

SHIFTS = {
    "stored": "o[t], a[t] → o[t+1]",
    "action one earlier": "o[t], a[t−1] → o[t+1]",
    "action one later": "o[t], a[t+1] → o[t+1]",
    "next observation one earlier": "o[t], a[t] → o[t]",
    "next observation one later": "o[t], a[t] → o[t+2]",
}
"""Ways in which observations o and actions a might belong together; in a whole dataset, it is the first."""
ACTIONS = {"stored": 0, "action one earlier": -1, "action one later": 1}
"""By how much each of those with another action shifts it."""

REPRODUCED = 1e-3
"""Largest error of a simulator of the same version. Gymnasium's Hopper, Walker2d, HalfCheetah and Ant (v4 and v5) were
found to err by less than 1e-12 from float64 and 1e-4 from float32 observations (their medians below 1e-6), and by 1 to
10 under any shift; between them lies what another version of the simulator does."""
APART = 20.0
"""How many times larger the median error of the next best shift has to be than the best one's."""

AlignmentVerdict = Literal[
    "aligned", "aligned, other simulator", "other rewards", "misaligned", "partly misaligned", "unclear", "unknown"
]


@dataclass(frozen=True)
class ShiftError:
    """Error of one way of putting the data together: largest absolute difference over the dimensions, a transition."""

    name: str
    count: int
    median: float
    maximum: float
    rewards: dict[str, float]
    """Which stored reward → median absolute error of the simulator's."""


@dataclass(frozen=True)
class SeededReplay:
    """Whole episodes played again from their reset seed and their stored actions."""

    episodes: int
    steps: int
    first_observation: float
    """Largest error of a first observation."""
    median: float
    """Over all steps, of the largest absolute difference over the dimensions."""
    maximum: float
    reward: float
    """Largest error of a reward."""
    diverged: int | None
    """The earliest step at which some episode's error is above `REPRODUCED`."""
    by_step: tuple[float, ...]
    """Step → largest error over the episodes."""


@dataclass(frozen=True)
class Alignment:
    """Whether the simulator goes from stored observations to the stored next ones by the stored actions."""

    verdict: AlignmentVerdict
    sentence: str
    env_id: str | None = None
    checked: int = 0
    skipped_clipped: int = 0
    """Transitions left out because a velocity in the observation stands at its clip, so the state is not known."""
    skipped_not_set: int = 0
    """Transitions left out because the simulator cannot be set to the observation."""
    shifts: tuple[ShiftError, ...] = ()
    first: float | None = None
    """Median error of the episodes' first transitions."""
    last: float | None = None
    """Of their last."""
    wrong: int = 0
    """Transitions whose error is above `REPRODUCED` and as large as a misalignment's can be."""
    seeded: SeededReplay | None = None


@dataclass
class TransitionErrors:
    """Errors of transitions, gathered one by one; a name that a transition does not have (at an edge) is left out."""

    observations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Shift → errors."""
    rewards: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Shift of the action, and of the stored reward → errors."""
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    skipped_clipped: int = 0
    skipped_not_set: int = 0


def judge_alignment(errors: TransitionErrors, seeded: SeededReplay | None, env_id: str) -> Alignment:
    """Turn a simulator's errors into a verdict: aligned only where the error as stored is both small and the smallest.

    Where no state could be set, the replay from recorded seeds decides; without that either, the verdict is unknown.
    """
    shifts = tuple(
        ShiftError(
            name,
            len(errors.observations[name]),
            float(np.median(errors.observations[name])),
            float(np.max(errors.observations[name])),
            {
                f"r[t{offset:+d}]" if offset else "r[t]": float(np.median(found))
                for (of, offset), found in sorted(errors.rewards.items())
                if of == name and found
            },
        )
        for name in SHIFTS
        if errors.observations.get(name)
    )
    common = {
        "env_id": env_id,
        "skipped_clipped": errors.skipped_clipped,
        "skipped_not_set": errors.skipped_not_set,
        "shifts": shifts,
        "first": float(np.median(errors.first)) if errors.first else None,
        "last": float(np.median(errors.last)) if errors.last else None,
        "seeded": seeded,
    }
    stored = np.array(errors.observations.get("stored", []))
    others = [shift for shift in shifts if shift.name != "stored"]
    if not len(stored) or not others:
        return Alignment(*_judge_seeded(seeded, errors), **common)
    median = float(np.median(stored))
    best = min(others, key=lambda shift: shift.median)
    limit = max(REPRODUCED, best.median / APART)
    wrong = int((stored > limit).sum())
    common |= {"checked": len(stored), "wrong": wrong}
    told = f"{env_id} set to {len(stored):,} stored observations"
    if best.median * APART < median:
        where = SHIFTS[best.name]
        return Alignment(
            "misaligned",
            f"MISALIGNED: {told} misses the next observation by {median:.2g} (median) as stored, but by only"
            f" {best.median:.2g} under {where}.",
            **common,
        )
    if median * APART >= best.median:
        return Alignment(
            "unclear",
            f"Unclear: {told} misses the next observation by {median:.2g} (median), and by {best.median:.2g} under"
            f" {SHIFTS[best.name]}; no way of putting the data together fits this simulator.",
            **common,
        )
    if wrong:
        at_the_end = bool(errors.last) and np.median(errors.last) > limit
        why = (
            "the last transitions of episodes above all: is their last observation a repeated one?"
            if at_the_end
            else "another version of the simulator could do that, or faulty episodes."
        )
        return Alignment(
            "partly misaligned",
            f"Mostly aligned, but {wrong:,} of {len(stored):,} transitions are not what {env_id} does (errors up to"
            f" {stored.max():.2g}, the median is {median:.2g}): {why}",
            **common,
        )
    fits = (
        f"{told} gives the stored next observation within {stored.max():.2g} (median {median:.2g}); every shift"
        f" misses by {best.median:.2g} or more"
    )
    rewards = shifts[0].rewards
    if (paid := rewards.get("r[t]", 0.0)) > REPRODUCED:
        nearest = min(rewards, key=lambda name: rewards[name])
        if rewards[nearest] * APART < paid:
            return Alignment(
                "misaligned",
                f"MISALIGNED rewards: observations and actions are aligned, but the simulator pays {nearest} (median"
                f" error {rewards[nearest]:.2g}), not r[t] ({paid:.2g}).",
                **common,
            )
        if np.quantile(stored, 0.9) <= REPRODUCED:
            return Alignment(
                "other rewards",
                f"Aligned, but rewards are others than {env_id} pays (median error {paid:.2g}): {fits}.",
                **common,
            )
    if np.quantile(stored, 0.9) > REPRODUCED:
        return Alignment("aligned, other simulator", f"Aligned, but made by another simulator: {fits}.", **common)
    return Alignment("aligned", f"Aligned: {fits}.", **common)


def _judge_seeded(seeded: SeededReplay | None, errors: TransitionErrors) -> tuple[AlignmentVerdict, str]:
    why = (
        "every sampled observation holds a velocity at its clip"
        if errors.skipped_clipped and not errors.skipped_not_set
        else "the state of this environment cannot be set from its observations"
    )
    if seeded is None:
        return "unknown", f"Not checked: {why}, and the episodes record no reset seed to play them again from."
    if seeded.first_observation > REPRODUCED:
        return "unclear", (
            f"Unclear: {why}, and resetting to the recorded seeds does not give the stored first observations (error"
            f" {seeded.first_observation:.2g}): another environment or version made them."
        )
    if seeded.diverged == 0:
        return "misaligned", (
            f"MISALIGNED: {why}, and played again from its seed an episode differs from its very first step on (error"
            f" {seeded.by_step[0]:.2g})."
        )
    if seeded.diverged is not None:
        return "unclear", (
            f"Unclear: {why}; played again from their seeds, {seeded.episodes} episodes keep to the stored"
            f" observations until step {seeded.diverged} and then leave them."
        )
    return "aligned", (
        f"Aligned: {why}, but {seeded.episodes} episodes played again from their recorded seeds give all"
        f" {seeded.steps:,} stored observations within {seeded.maximum:.2g}."
    )


# Steering by return.

FOLDS = 10
T_FOLDS = 2.262  # Student's t for a 95 % interval, FOLDS − 1 degrees of freedom
TESTED_STEPS = 12_000
START = 20  # steps from an episode's start, where observations do not tell yet who acts
RANDOM_FEATURES = 192
WIDEST = 200  # dimensions beyond these enter through random features alone
BASE_PENALTIES = (1.0, 10.0, 100.0)
RETURN_PENALTIES = (1e2, 1e3, 1e4, 1e5, 1e6)

WIDE, NARROW = 0.25, 0.10  # of the scale, from the 10th to the 90th percentile of returns over steps
BAND = 0.1  # of the scale
SCALES = {
    "own": "the range from random to expert measured by us",
    "dataset": "the dataset's own range from random to expert",
    "D4RL": "D4RL's range from random to expert",
}
# Relative gain in held-out error from which on the return says something about the action. Chosen on our own Hopper
# sets: mixtures gain 1.0 to 3.6 %, the medium and the expert policy alone 0.0 %. The untrained policy gains 3 %, since
# in its short episodes the noise itself decides the return, but its returns are all alike.
TELLING = 0.005
LEVEL_EPISODES = 5


@dataclass(frozen=True)
class Gain:
    """How much better actions are predicted on held-out episodes once the return-to-go is known as well."""

    steps: int
    episodes: int
    explained: float
    """Share of the actions' variance that observation and time explain on held-out episodes."""
    gain: float
    """1 − error with the return / error without."""
    low: float
    """95 % interval over the folds."""
    high: float


@dataclass(frozen=True)
class Steering:
    """Whether asking for a return can be expected to change what a policy trained on these data does."""

    verdict: Literal["yes", "weakly", "no"]
    sentence: str
    scale: float | None = None
    """The returns' spread is measured against this: the reference range, or the mean size of returns without one."""
    scale_name: str | None = None
    spread: float | None = None
    """From the 10th to the 90th percentile of returns over steps, over the scale."""
    densest_band: float | None = None
    """Largest share of the steps whose episodes' returns lie within `BAND` of the scale."""
    low_episodes: int | None = None
    """Episodes below the middle between the two percentiles."""
    high_episodes: int | None = None
    """The others."""
    everywhere: Gain | None = None
    start: Gain | None = None
    """The same on the first `START` steps of the episodes alone."""


def steering(
    dataset: TrajectoryDataset,
    references: Mapping[str, tuple[float, float] | None],
    generator: np.random.Generator,
) -> Steering:
    """Judge from the data alone whether returns can steer.

    Yes takes both: returns that differ by much over the steps, and a return-to-go that says something about the action
    beyond what observation and time say. The latter is a ridge regression of the action on random Fourier features
    (Rahimi and Recht, 2007) with and without the return-to-go and its products with the observation, compared on
    episodes held out. Returns that vary by luck alone, as one noisy policy's do, pass the first and fail the second.

    Args:
        references: returns of a random and of an expert policy, by name; the first that is known gives the scale.
    """
    lengths, returns = dataset.lengths.cpu().numpy(), dataset.returns.cpu().numpy().astype(np.float64)
    if len(lengths) < FEW_EPISODES:
        return Steering("no", f"No: {len(lengths)} episode(s) are too few to choose between returns.")
    by_step = np.repeat(returns, lengths)
    scale, scale_name = _scale(by_step, references)
    p10, p90 = (float(p) for p in np.percentile(by_step, (10, 90)))
    spread = (p90 - p10) / scale
    middle = (p10 + p90) / 2
    low_episodes = int((returns < middle).sum())
    band = _densest(by_step, BAND * scale)
    facts: dict[str, Any] = {
        "scale": scale,
        "scale_name": scale_name,
        "spread": spread,
        "densest_band": band,
        "low_episodes": low_episodes,
        "high_episodes": len(returns) - low_episodes,
    }
    told = (
        f"Weighted by steps, returns go from {figure(p10)} (p10) to {figure(p90)} (p90), which is {spread:.0%} of"
        f" {scale_name} ({figure(scale)}), and {band:.0%} of the steps lie within a band of {BAND:.0%} of it"
    )
    if spread == 0:
        return Steering("no", f"No: all returns are the same. {told}.", **facts)
    everywhere = regression_gain(dataset, generator)
    start = regression_gain(dataset, generator, within=START) if int(lengths.max()) > START else None
    facts |= {"everywhere": everywhere, "start": start}
    gains = [gain for gain in (everywhere, start) if gain is not None]
    if not gains:
        return Steering("no", f"No: the actions never vary. {told}.", **facts)
    best = max(gains, key=lambda gain: gain.low)
    told += "; " + _told_gain(best, f"in the first {START} steps" if best is start else "")
    if spread < NARROW:
        return Steering("no", f"No: the returns are too much alike. {told}.", **facts)
    if all(gain.high < TELLING for gain in gains):
        return Steering("no", f"No: the returns differ, but hardly by what was done. {told}.", **facts)
    if best.low < TELLING:
        less = (
            "maybe not at all, the test is inconclusive" if best.low <= 0 else "what was done differs little by return"
        )
        return Steering("weakly", f"Weakly: {less}. {told}.", **facts)
    if spread < WIDE:
        return Steering("weakly", f"Weakly: the returns tell what was done, but differ little. {told}.", **facts)
    if min(low_episodes, len(returns) - low_episodes) < LEVEL_EPISODES:
        return Steering(
            "weakly",
            f"Weakly: {low_episodes} episode(s) below the middle of the returns and {len(returns) - low_episodes} above"
            f" are too few on one side. {told}.",
            **facts,
        )
    return Steering("yes", f"Yes: the returns differ, and by what was done. {told}.", **facts)


def _told_gain(gain: Gain, where: str) -> str:
    return (
        f"knowing the return-to-go takes {share(gain.gain)} [{share(gain.low)}, {share(gain.high)}] off the held-out"
        f" error of predicted actions{' ' + where if where else ''}"
    )


def _scale(by_step: Floats, references: Mapping[str, tuple[float, float] | None]) -> tuple[float, str]:
    for name, pair in references.items():
        if pair is not None and pair[1] > pair[0]:
            return pair[1] - pair[0], SCALES.get(name, name)
    return float(np.abs(by_step).mean()) or 1.0, "the mean size of the returns (no reference is known)"


def _densest(values: Floats, width: float) -> float:
    """Largest share of the values in any closed interval of that width."""
    values = np.sort(values)
    return float((np.searchsorted(values, values + width, side="right") - np.arange(len(values))).max() / len(values))


def regression_gain(
    dataset: TrajectoryDataset, generator: np.random.Generator, *, within: int | None = None
) -> Gain | None:
    """How much a return-to-go tells of the action beyond observation and time, on episodes held out.

    Args:
        within: only an episode's first so many steps.

    Returns:
        None where there are fewer than `FOLDS` episodes or the actions never vary.
    """
    timesteps = dataset.timesteps.cpu().numpy()
    lengths = dataset.lengths.cpu().numpy()
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(timesteps)) if within is None else np.flatnonzero(timesteps < within)
    if len(rows) > TESTED_STEPS:
        rows = np.sort(generator.choice(rows, TESTED_STEPS, replace=False))
    sampled, episode_of = np.unique(episode_of[rows], return_inverse=True)
    if len(sampled) < FOLDS:
        return None
    fold = (generator.permutation(len(sampled)) % FOLDS)[episode_of]
    actions = _standardised(dataset.actions.cpu().numpy()[rows])
    actions = actions[:, actions.any(0)]
    if not actions.shape[1]:
        return None
    returns = _standardised(dataset.returns_to_go.cpu().numpy()[rows, None])
    known = _standardised(np.column_stack([dataset.observations.cpu().numpy()[rows], timesteps[rows]]))
    weights = generator.normal(size=(known.shape[1], RANDOM_FEATURES)) * 0.7 / np.sqrt(known.shape[1])
    random_features = np.sqrt(2.0) * np.cos(known @ weights + generator.uniform(0, 2 * np.pi, RANDOM_FEATURES))
    linear = known[:, :WIDEST]
    base = np.concatenate([np.ones((len(rows), 1)), linear, random_features], 1)
    more = np.concatenate([base, returns, returns**2, linear * returns], 1)

    size = base.shape[1]
    without = _held_out(base, actions, fold, [np.full(size, p) for p in BASE_PENALTIES])
    with_return = _held_out(
        more,
        actions,
        fold,
        [np.r_[np.full(size, p), np.full(more.shape[1] - size, q)] for p in BASE_PENALTIES for q in RETURN_PENALTIES],
    )
    gain = 1.0 - with_return.sum() / without.sum()
    # The standard error of a ratio of sums over folds.
    residual = (without - with_return) - gain * without
    error = np.sqrt(FOLDS / (FOLDS - 1) * (residual**2).sum()) / without.sum()
    return Gain(
        steps=len(rows),
        episodes=len(sampled),
        explained=float(1.0 - without.sum() / (actions**2).sum()),
        gain=float(gain),
        low=float(gain - T_FOLDS * error),
        high=float(gain + T_FOLDS * error),
    )


def _standardised(array: Floats) -> NDArray[np.float64]:
    """Columns with mean 0 and deviation 1, far outliers cut; those that never vary become 0."""
    array = array.astype(np.float64)
    array -= array.mean(0)
    std = array.std(0)
    return np.clip(array / np.where(std > 1e-6, std, np.inf), -5.0, 5.0)


def _held_out(
    inputs: NDArray[np.float64],
    outputs: NDArray[np.float64],
    fold: NDArray[np.int64],
    penalties: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """(FOLDS,) squared error of ridge regressions, each on the fold that it was not fitted to.

    The penalty of a fold is the one that does best on all the others, so a fold has no say in its own.
    """
    parts = [(inputs[fold == k], outputs[fold == k]) for k in range(FOLDS)]
    grams = np.stack([x.T @ x for x, _ in parts])
    moments = np.stack([x.T @ y for x, y in parts])
    squares = np.array([(y**2).sum() for _, y in parts])
    gram, moment = grams.sum(0), moments.sum(0)
    errors = np.empty((len(penalties), FOLDS))
    for row, penalty in enumerate(penalties):
        for k in range(FOLDS):
            weights = np.linalg.solve(gram - grams[k] + np.diag(penalty), moment - moments[k])
            errors[row, k] = squares[k] - 2 * (weights * moments[k]).sum() + (weights * (grams[k] @ weights)).sum()
    others = errors.sum(1, keepdims=True) - errors
    return errors[others.argmin(0), np.arange(FOLDS)]


def warnings(
    found: Figures | None,
    alignment: Alignment | None,
    references: Mapping[str, tuple[float, float] | None],
) -> list[str]:
    """What training would accept and a person should know, a sentence each."""
    told = []
    if found is not None:
        told += _figure_warnings(found)
    if alignment is not None and alignment.verdict in ("misaligned", "partly misaligned", "other rewards", "unclear"):
        told.append(f"Alignment with the simulator: {alignment.verdict}.")
    if not any(references.values()):
        told.append("No reference scores are known: returns cannot be normalised.")
    return told


def _figure_warnings(found: Figures) -> list[str]:
    told = []
    if found.episodes < FEW_EPISODES:
        told.append(f"Only {found.episodes} episode(s): percentiles of returns and targets mean little.")
    for what, features in (("observation", found.observations), ("action", found.actions)):
        if constant := [f.dimension for f in features if f.constant]:
            told.append(f"{what.capitalize()} dimension(s) {named(constant)} never vary.")
    if saturated := [f.dimension for f in found.actions if (f.saturated or 0.0) >= SATURATED and not f.constant]:
        told.append(
            f"Action dimension(s) {named(saturated)} stand at a bound in at least {SATURATED:.0%} of the steps."
        )
    if found.repeated:
        groups = "; ".join(" = ".join(map(str, group[:LISTED])) for group in found.duplicates[:5])
        more = f" and {len(found.duplicates) - 5:,} groups more" if len(found.duplicates) > 5 else ""
        told.append(f"{found.repeated:,} episode(s) repeat another exactly: {groups}{more}.")
    if found.episodes > 1 and found.returns.std == 0:
        told.append("All episodes have the same return.")
    if found.neither_flag:
        told.append(
            f"{found.neither_flag:,} episode(s) end with neither flag: neither the task nor a time limit ended them."
        )
    if found.early_flags:
        told.append(f"{found.early_flags:,} episode(s) go on after a termination or truncation flag.")
    return told

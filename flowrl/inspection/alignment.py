"""Whether transitions follow from their actions: a verdict on the errors of a simulator that was asked for them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import minari
import numpy as np

from flowrl.errors import InputError, cause

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
    repeats: bool = True
    """Playing an episode twice gives the same observations and rewards."""
    later: float | None = None
    """Largest error of an observation or reward with the actions one later, o[t], a[t+1] → o[t+1], but for each
    episode's last step, where there is no such action; None where it was not tried."""
    action_matters: bool | None = None
    """Those other actions lead to other observations or rewards somewhere; None where they were not tried."""


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
        return Alignment(*_judge_seeded(seeded, errors, env_id), **common)
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
        f"{told} gives the stored next observation within {stored.max():.2g} (median {median:.2g}); the nearest shift,"
        f" {SHIFTS[best.name]}, misses it by {best.median:.2g} (median)"
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
                f"Aligned, but with other rewards than {env_id} pays (median difference {paid:.2g}): {fits}.",
                **common,
            )
    if np.quantile(stored, 0.9) > REPRODUCED:
        return Alignment(
            "aligned, other simulator",
            f"Aligned, but not reproduced exactly, as by another version of the simulator: {fits}.",
            **common,
        )
    return Alignment("aligned", f"Aligned: {fits}.", **common)


def _judge_seeded(seeded: SeededReplay | None, errors: TransitionErrors, env_id: str) -> tuple[AlignmentVerdict, str]:
    why = (
        "every observation drawn holds a velocity at its clip, so single transitions cannot be checked"
        if errors.skipped_clipped and not errors.skipped_not_set
        else f"{env_id} cannot be put into the state of a stored observation, so single transitions cannot be checked"
    )
    if seeded is None:
        return "unknown", f"Not checked: {why}, and the episodes record no reset seed to play them again from."
    played = f"{seeded.episodes} episode(s) ({seeded.steps:,} steps) played again from their recorded reset seeds"
    if seeded.first_observation > REPRODUCED:
        return "unclear", (
            f"Unclear: {why}, and resetting to the recorded seeds does not give the stored first observations"
            f" (difference {seeded.first_observation:.2g}): another environment or version made them."
        )
    if not seeded.repeats:
        return "unclear", f"Unclear: {why}, and {env_id} does not play the same episode twice from the same seed."
    if seeded.diverged is None and seeded.reward <= REPRODUCED:
        if seeded.action_matters is False:
            return "unclear", (
                f"Unclear: {why}; {played} give all stored observations and rewards, but so do other actions: these"
                " episodes do not depend on what is done."
            )
        return "aligned", (
            f"Aligned: {why}, but {played} give all stored observations within {seeded.maximum:.2g} and rewards within"
            f" {seeded.reward:.2g}."
        )
    if seeded.later is not None and seeded.later <= REPRODUCED:
        return "misaligned", (
            f"MISALIGNED: {why}, and {played} differ from the stored data, but fit under {SHIFTS['action one later']}."
        )
    if seeded.diverged is None:
        return "other rewards", (
            f"Aligned, but with other rewards than {env_id} pays: {why}; {played} give all stored observations, but"
            f" rewards differ by up to {seeded.reward:.2g}."
        )
    if seeded.diverged == 0:
        return "unclear", (
            f"Unclear: {why}, and {played} start as stored and differ after the very first action (by"
            f" {seeded.by_step[0]:.2g}): other actions or another version of the environment made them."
        )
    return "unclear", (
        f"Unclear: {why}; {played} keep to the stored observations up to step {seeded.diverged} and then leave them."
    )


def reset_seeds(dataset: minari.MinariDataset, indices: Sequence[int]) -> dict[int, int]:
    """The seed of the reset of each of these episodes by the episode's id, where they were recorded.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        rows = dataset.storage.get_episode_metadata(indices)
        return {
            index: int(row["seed"]) for index, row in zip(indices, rows, strict=True) if row.get("seed") is not None
        }
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the seeds of {dataset.id} cannot be read: {cause(error)}") from error

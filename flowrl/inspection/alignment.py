"""How a simulator's steps compare with stored transitions: ways to align them, errors, and the verdict on them."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from flowrl.inspection.reward_check import Paid, RewardCheck

__all__ = [
    "ACTION_OFFSETS",
    "APART",
    "REPRODUCED",
    "SHIFTS",
    "Alignment",
    "AlignmentVerdict",
    "SeededReplay",
    "ShiftError",
    "TransitionErrors",
]

SHIFTS = {
    "stored": "o[t], a[t] → o[t+1]",
    "action one earlier": "o[t], a[t−1] → o[t+1]",
    "action one later": "o[t], a[t+1] → o[t+1]",
    "next observation one earlier": "o[t], a[t] → o[t]",
    "next observation one later": "o[t], a[t] → o[t+2]",
}
"""Ways in which observations o and actions a might belong together; in a sound dataset, it is the first."""
ACTION_OFFSETS = {"stored": 0, "action one earlier": -1, "action one later": 1}
"""Shift → how many steps later than the observation its action is, of those that are compared with o[t+1]."""

REPRODUCED = 1e-3
"""Largest error of a simulator of the same version. Measured: Gymnasium's Hopper, Walker2d, HalfCheetah and Ant (v4 and
v5) err by less than 1e-12 from float64 and 1e-4 from float32 observations (their medians below 1e-6), and by 1 to 10
under any shift; between them lies what another version of the simulator does."""
APART = 20.0
"""How many times larger the median error of the next best shift has to be than the best one's."""

AlignmentVerdict = Literal[
    "aligned",
    "aligned, other simulator",
    "other rewards",
    "faulty rewards",
    "misaligned",
    "partly misaligned",
    "unclear",
    "unknown",
]


@dataclass(frozen=True)
class ShiftError:
    """Errors under one shift; the error of a transition is its largest absolute difference over the dimensions."""

    name: str
    count: int
    median: float
    maximum: float
    rewards: dict[str, float]
    """Which stored reward → median absolute error of the simulator's."""


@dataclass(frozen=True)
class SeededReplay:
    """Errors of whole episodes that were replayed from their reset seed with their stored actions."""

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
    """Replaying an episode twice gives the same observations and rewards."""
    later: float | None = None
    """Largest error of an observation or reward with the actions one later, o[t], a[t+1] → o[t+1], but for each
    episode's last step, where there is no such action; None where it was not tried."""
    action_matters: bool | None = None
    """Those other actions lead to other observations or rewards somewhere; None where they were not tried."""
    reward_check: RewardCheck = RewardCheck()
    """The single rewards that differ, of those up to where a replay leaves the data."""


@dataclass(frozen=True)
class Alignment:
    """Whether the simulator goes from stored observations to the stored next ones by the stored actions."""

    verdict: AlignmentVerdict
    sentence: str
    env_id: str | None = None
    checked: int = 0
    """Transitions."""
    skipped_clipped: int = 0
    """Transitions left out because a velocity in the observation is at its clip, so the state is not known."""
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

    @property
    def aligned(self) -> bool:
        """Whether the simulator reproduces the data."""
        return self.verdict.startswith("aligned")

    @property
    def certainty(self) -> int:
        """How much was found out: nothing (0), that nothing fits (1), what is wrong (2), that nothing is (3)."""
        return 3 if self.aligned else {"unknown": 0, "unclear": 1}.get(self.verdict, 2)


@dataclass
class TransitionErrors:
    """Errors of transitions, gathered one by one; a shift that a transition lacks (at an edge) is left out."""

    observations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Shift → errors."""
    rewards: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Shift of the action, and of the stored reward → errors."""
    paid: list[tuple[Paid, float]] = field(default_factory=list)
    """As stored: both rewards, and the error of the observation."""
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    skipped_clipped: int = 0
    skipped_not_set: int = 0

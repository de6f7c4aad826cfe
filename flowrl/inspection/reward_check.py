"""Single rewards that a simulator does not pay: one that was flipped or edited among thousands that are right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Paid", "RewardCheck", "check_outliers", "check_rewards", "fault_sentence"]

ROUNDING = 1e-6
"""Relative to the larger of the two rewards and the mean size of all. Measured: Gymnasium's Hopper, HalfCheetah,
Walker2d and Ant repeat the rewards of a recording exactly, and to 6e-8 of their size where they were stored as
float32."""
DRIFT = 100.0
"""How much more a reward may be off than the observations are so far: it divides a change of position by a time step
of 0.008 to 0.05."""
EXACT = 1e-3
"""Rewards are compared up to the first observation that is farther off: from there on it is another episode."""
LISTED = 3


@dataclass(frozen=True)
class Paid:
    """A stored reward and the simulator's."""

    episode: int
    step: int
    stored: float
    simulated: float


@dataclass(frozen=True)
class RewardCheck:
    """Of how many stored rewards which ones the simulator does not pay."""

    checked: int = 0
    faults: tuple[Paid, ...] = ()

    def __add__(self, other: "RewardCheck") -> "RewardCheck":
        return RewardCheck(self.checked + other.checked, self.faults + other.faults)

    @property
    def few(self) -> bool:
        """They are faults of the data, and not another way to reward."""
        return 0 < len(self.faults) <= max(1, self.checked // 10)


def check_rewards(
    episode: int, stored: NDArray[np.floating], simulated: NDArray[np.floating], errors: NDArray[np.floating]
) -> RewardCheck:
    """Compare the rewards of a replayed episode, as far as the replay follows it.

    Args:
        episode: its number.
        stored: (T,) as recorded.
        simulated: (T,) as replayed.
        errors: (T+1,) how far the observations of the replay are from the stored ones.
    """
    worst = np.maximum.accumulate(errors)[1:]  # NaN where one is, which is no number below a limit
    exact = worst <= EXACT
    if not exact.any():
        return RewardCheck()
    size = np.maximum(np.maximum(np.abs(stored), np.abs(simulated)), np.abs(simulated[exact]).mean())
    with np.errstate(invalid="ignore"):
        right = np.abs(np.asarray(stored, np.float64) - simulated) <= ROUNDING * size + DRIFT * worst
    # A stored infinity or NaN is within no limit; neither may an infinite size excuse it.
    wrong = np.flatnonzero(exact & ~(right & np.isfinite(stored)))
    faults = (Paid(episode, int(step), float(stored[step]), float(simulated[step])) for step in wrong)
    return RewardCheck(int(exact.sum()), tuple(faults))


def check_outliers(compared: Sequence[tuple[Paid, float]]) -> RewardCheck:
    """Which of single transitions pay another reward, beyond what is usual among them.

    A simulator that was set to an observation may pay by a part of its state which no observation shows.

    Args:
        compared: with how far the next observation is from the stored one.
    """
    exact = [(paid, error) for paid, error in compared if error <= EXACT]
    if not exact:
        return RewardCheck()
    gaps = np.array([abs(paid.stored - paid.simulated) for paid, _ in exact])
    usual = 20 * np.quantile(gaps, 0.9) + ROUNDING * np.mean([abs(paid.simulated) for paid, _ in exact])
    faults = [
        paid
        for (paid, error), gap in zip(exact, gaps.tolist(), strict=True)
        if not gap <= usual + ROUNDING * abs(paid.simulated) + DRIFT * error
    ]
    return RewardCheck(len(exact), tuple(faults))


def fault_sentence(check: RewardCheck, env_id: str) -> str:
    """Which rewards differ, the first few by episode and step."""
    return (
        f"{len(check.faults):,} of {check.checked:,} rewards that were checked are not what {env_id} pays:"
        f" {_listed(check.faults)}."
    )


def _listed(faults: Sequence[Paid]) -> str:
    named = [
        f"episode {fault.episode}, step {fault.step}: {fault.stored:.6g} instead of {fault.simulated:.6g}"
        for fault in faults[:LISTED]
    ]
    return "; ".join(named) + (f" and {len(faults) - LISTED:,} more" if len(faults) > LISTED else "")

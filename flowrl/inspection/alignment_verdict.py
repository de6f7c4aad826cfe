"""Whether transitions follow from their actions: a verdict on the errors of a simulator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowrl.inspection.alignment import (
    APART,
    REPRODUCED,
    SHIFTS,
    Alignment,
    AlignmentVerdict,
    SeededReplay,
    ShiftError,
    TransitionErrors,
)
from flowrl.inspection.reward_check import RewardCheck, check_outliers, fault_sentence

__all__ = ["judge_alignment"]

Verdict = tuple[AlignmentVerdict, str]


def judge_alignment(errors: TransitionErrors, seeded: SeededReplay | None, env_id: str) -> Alignment:
    """Turn a simulator's errors into a verdict: aligned only where the error as stored is both small and the smallest.

    Where no state could be set, the replay from recorded seeds decides; without that either, the verdict is unknown.
    """
    shifts = _shift_errors(errors)
    stored = np.array(errors.observations.get("stored", []))
    others = [shift for shift in shifts if shift.name != "stored"]
    last = float(np.median(errors.last)) if errors.last else None
    wrong = checked = 0
    if len(stored) and others:
        nearest = min(others, key=lambda shift: shift.median)
        comparison = Comparison(env_id, stored, nearest, shifts[0].rewards, last)
        verdict, sentence = _judge_transitions(comparison)
        checked, wrong = len(stored), comparison.wrong
    else:
        verdict, sentence = _judge_seeded(seeded, errors, env_id)
    replayed = RewardCheck() if seeded is None else seeded.reward_check
    check = replayed if replayed.faults else check_outliers(errors.paid)
    verdict, sentence = _with_rewards(verdict, sentence, check if check.faults else replayed, env_id)
    return Alignment(
        verdict,
        sentence,
        env_id=env_id,
        checked=checked,
        skipped_clipped=errors.skipped_clipped,
        skipped_not_set=errors.skipped_not_set,
        shifts=shifts,
        first=float(np.median(errors.first)) if errors.first else None,
        last=last,
        wrong=wrong,
        seeded=seeded,
    )


def _shift_errors(errors: TransitionErrors) -> tuple[ShiftError, ...]:
    def rewards(name: str) -> dict[str, float]:
        return {
            f"r[t{offset:+d}]" if offset else "r[t]": float(np.median(values))
            for (shift, offset), values in sorted(errors.rewards.items())
            if shift == name and values
        }

    return tuple(
        ShiftError(name, len(values), float(np.median(values)), float(np.max(values)), rewards(name))
        for name in SHIFTS
        if (values := errors.observations.get(name))
    )


@dataclass(frozen=True)
class Comparison:
    """Transitions as stored beside the shift that comes nearest to them."""

    env_id: str
    stored: NDArray[np.float64]
    """(transitions,) errors as stored."""
    nearest: ShiftError
    """The other shift with the smallest median error."""
    rewards: dict[str, float]
    """Which stored reward → median error, with observations and actions as stored."""
    last: float | None
    """Median error of the episodes' last transitions."""

    @property
    def median(self) -> float:
        return float(np.median(self.stored))

    @property
    def limit(self) -> float:
        """An error above it counts as wrong."""
        return max(REPRODUCED, self.nearest.median / APART)

    @property
    def wrong(self) -> int:
        return int((self.stored > self.limit).sum())

    @property
    def reproduced(self) -> bool:
        return float(np.quantile(self.stored, 0.9)) <= REPRODUCED


def _judge_transitions(of: Comparison) -> Verdict:
    median, nearest, shift = of.median, of.nearest.median, SHIFTS[of.nearest.name]
    simulated = f"{of.env_id}, set to {len(of.stored):,} stored observations,"
    if nearest * APART < median:
        return "misaligned", (
            f"MISALIGNED: {simulated} misses the next observation by {median:.2g} (median) as stored, but by only"
            f" {nearest:.2g} under {shift}."
        )
    if median * APART >= nearest:
        return "unclear", (
            f"Unclear: {simulated} misses the next observation by {median:.2g} (median), and by {nearest:.2g} under"
            f" {shift}. No shift fits this simulator."
        )
    if of.wrong:
        why = (
            "These are above all the last transitions of episodes: is their last observation a repeated one?"
            if of.last is not None and of.last > of.limit
            else "Another version of the simulator could do that, or faulty episodes."
        )
        return "partly misaligned", (
            f"Mostly aligned, but {of.wrong:,} of {len(of.stored):,} transitions are not what {of.env_id} does (errors"
            f" up to {of.stored.max():.2g}, median {median:.2g}). {why}"
        )
    fits = (
        f"{simulated} gives the stored next observation within {of.stored.max():.2g} (median {median:.2g}); the nearest"
        f" shift, {shift}, misses it by {nearest:.2g} (median)."
    )
    if (verdict := _judge_rewards(of, fits)) is not None:
        return verdict
    if not of.reproduced:
        return "aligned, other simulator", (
            f"Aligned, but not reproduced exactly, as by another version of the simulator: {fits}"
        )
    return "aligned", f"Aligned: {fits}"


def _judge_rewards(of: Comparison, fits: str) -> Verdict | None:
    """The verdict where the simulator's rewards are not the stored ones; None where they are."""
    error = of.rewards.get("r[t]", 0.0)
    if error <= REPRODUCED:
        return None
    nearest = min(of.rewards, key=lambda name: of.rewards[name])
    if of.rewards[nearest] * APART < error:
        return "misaligned", (
            f"MISALIGNED rewards: observations and actions are aligned, but the simulator pays {nearest} (median"
            f" error {of.rewards[nearest]:.2g}), not r[t] ({error:.2g})."
        )
    if of.reproduced:
        return "other rewards", (
            f"Aligned, but with other rewards than {of.env_id} pays (median difference {error:.2g}): {fits}"
        )
    return None


def _with_rewards(verdict: AlignmentVerdict, sentence: str, check: RewardCheck, env_id: str) -> Verdict:
    """The verdict and the sentence with what the replayed rewards add to them."""
    if not check.checked:
        return verdict, sentence
    if not check.faults:
        return verdict, f"{sentence} All {check.checked:,} rewards replayed from recorded seeds are as stored."
    faults = fault_sentence(check, env_id)
    if verdict in ("aligned", "other rewards") and check.few:
        return "faulty rewards", f"FAULTY rewards: {faults} {sentence}"
    if verdict == "aligned":
        return "other rewards", f"{sentence} But {faults}"
    if verdict == "aligned, other simulator":
        faults = f"{faults} That other version could do that, or faulty data."
    return verdict, f"{sentence} {faults}"


def _judge_seeded(seeded: SeededReplay | None, errors: TransitionErrors, env_id: str) -> Verdict:
    why = (
        "every observation drawn has a velocity at its clip, so single transitions cannot be checked"
        if errors.skipped_clipped and not errors.skipped_not_set
        else f"{env_id} cannot be put into the state of a stored observation, so single transitions cannot be checked"
    )
    if seeded is None:
        return "unknown", f"Not checked: {why}, and the episodes record no reset seed to replay them from."
    replayed = f"{seeded.episodes} episode(s) ({seeded.steps:,} steps) replayed from their recorded reset seeds"
    if seeded.first_observation > REPRODUCED:
        return "unclear", (
            f"Unclear: {why}, and resetting to the recorded seeds does not give the stored first observations"
            f" (difference {seeded.first_observation:.2g}): another environment or version recorded them."
        )
    if not seeded.repeats:
        return "unclear", f"Unclear: {why}, and {env_id} does not repeat an episode from the same seed."
    if seeded.diverged is None and seeded.reward <= REPRODUCED:
        if seeded.action_matters is False:
            return "unclear", (
                f"Unclear: {why}; {replayed} give all stored observations and rewards, but so do other actions."
            )
        return "aligned", (
            f"Aligned: {why}, but {replayed} give all stored observations within {seeded.maximum:.2g} and rewards"
            f" within {seeded.reward:.2g}."
        )
    if seeded.later is not None and seeded.later <= REPRODUCED:
        return "misaligned", (
            f"MISALIGNED: {why}, and {replayed} differ from the stored data, but fit under"
            f" {SHIFTS['action one later']}."
        )
    return _judge_divergence(seeded, f"{why}; {replayed}", env_id)


def _judge_divergence(seeded: SeededReplay, replayed: str, env_id: str) -> Verdict:
    if seeded.diverged is None:
        return "other rewards", (
            f"Aligned, but with other rewards than {env_id} pays: {replayed} give all stored observations, but rewards"
            f" differ by up to {seeded.reward:.2g}."
        )
    if seeded.diverged == 0:
        return "unclear", (
            f"Unclear: {replayed} start as stored and differ after the very first action (by {seeded.by_step[0]:.2g}):"
            " the actions or the version of the environment are not those of the recording."
        )
    return "unclear", (
        f"Unclear: {replayed} match the stored observations up to step {seeded.diverged} and then leave them."
    )

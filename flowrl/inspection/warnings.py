"""What training would accept and a person should know."""

from collections.abc import Sequence

from flowrl.inspection.alignment import Alignment
from flowrl.inspection.features import Feature
from flowrl.inspection.references import References
from flowrl.inspection.statistics import Statistics
from flowrl.inspection.steering import FEW_EPISODES
from flowrl.text import LISTED, listed

__all__ = ["find_warnings"]

WRONG = ("misaligned", "partly misaligned", "other rewards", "faulty rewards")
SATURATED = 0.5  # share of an action's entries at one bound or the other that is worth a warning
GROUPS = 5  # of equal episodes that are listed


def find_warnings(statistics: Statistics | None, alignment: Alignment | None, references: References) -> list[str]:
    """What training would accept and a person should know, a sentence each."""
    warnings = []
    if statistics is not None:
        warnings += [*_episode_warnings(statistics), *_column_warnings(statistics)]
    if alignment is not None and alignment.verdict in (*WRONG, "unclear"):
        warnings.append(f"Alignment with the simulator: {alignment.verdict}.")
    if not any(references.values()):
        warnings.append("No reference scores are known: returns cannot be normalised.")
    return warnings


def _episode_warnings(statistics: Statistics) -> list[str]:
    warnings = []
    if statistics.episodes < FEW_EPISODES:
        warnings.append(f"Only {statistics.episodes} episode(s): percentiles of returns and targets mean little.")
    if statistics.repeated:
        groups = "; ".join(" = ".join(map(str, group[:LISTED])) for group in statistics.duplicates[:GROUPS])
        more = len(statistics.duplicates) - GROUPS
        rest = f" and {more:,} groups more" if more > 0 else ""
        warnings.append(f"{statistics.repeated:,} episode(s) repeat another exactly: {groups}{rest}.")
    lowest, highest = statistics.returns.percentiles.get(0), statistics.returns.percentiles.get(100)
    if statistics.episodes > 1 and lowest is not None and lowest == highest:
        warnings.append("All episodes have the same return.")
    if statistics.neither_flag:
        warnings.append(
            f"{statistics.neither_flag:,} episode(s) end with neither flag: neither the task nor a time limit ended"
            " them."
        )
    if statistics.early_flags:
        warnings.append(f"{statistics.early_flags:,} episode(s) go on after a termination or truncation flag.")
    return warnings


def _column_warnings(statistics: Statistics) -> list[str]:
    warnings = []
    for what, features in (("Observation", statistics.observations), ("Action", statistics.actions)):
        if constant := [f for f in features if f.constant and not f.one_hot]:
            warnings.append(f"{what} column(s) that never vary: {_names(constant)}.")
        if unused := [f for f in features if f.one_hot and f.maximum == 0]:
            warnings.append(f"{what} value(s) that never occur: {_names(unused)}.")
    if outside := [f for f in statistics.actions if f.outside]:
        entries = sum(f.outside for f in outside)
        warnings.append(f"{entries:,} action entries lie outside the bounds of the action space: {_names(outside)}.")
    if saturated := [f for f in statistics.actions if (f.saturated or 0.0) >= SATURATED and not f.constant]:
        warnings.append(f"Action column(s) at a bound in at least {SATURATED:.0%} of the steps: {_names(saturated)}.")
    return warnings


def _names(features: Sequence[Feature]) -> str:
    return listed([feature.name for feature in features])

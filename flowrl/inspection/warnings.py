"""What training would accept and a person should know."""

from collections.abc import Mapping, Sequence

from flowrl.inspection.alignment import Alignment
from flowrl.inspection.figures import Feature, Figures
from flowrl.inspection.steering import FEW_EPISODES
from flowrl.text import LISTED, named

SATURATED = 0.5  # share of an action's entries at one bound or the other that is worth a warning


def find_warnings(
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
    for what, features in (("Observation", found.observations), ("Action", found.actions)):
        if constant := [f for f in features if f.constant and not f.one_hot]:
            told.append(f"{what} column(s) that never vary: {_names(constant)}.")
        if unused := [f for f in features if f.one_hot and f.maximum == 0]:
            told.append(f"{what} value(s) that never occur: {_names(unused)}.")
    if outside := [f for f in found.actions if f.outside]:
        entries = sum(f.outside for f in outside)
        told.append(f"{entries:,} action entries lie outside the bounds of the action space: {_names(outside)}.")
    if saturated := [f for f in found.actions if (f.saturated or 0.0) >= SATURATED and not f.constant]:
        told.append(f"Action column(s) at a bound in at least {SATURATED:.0%} of the steps: {_names(saturated)}.")
    if found.repeated:
        groups = "; ".join(" = ".join(map(str, group[:LISTED])) for group in found.duplicates[:5])
        more = f" and {len(found.duplicates) - 5:,} groups more" if len(found.duplicates) > 5 else ""
        told.append(f"{found.repeated:,} episode(s) repeat another exactly: {groups}{more}.")
    lowest, highest = found.returns.percentiles.get(0), found.returns.percentiles.get(100)
    if found.episodes > 1 and lowest is not None and lowest == highest:
        told.append("All episodes have the same return.")
    if found.neither_flag:
        told.append(
            f"{found.neither_flag:,} episode(s) end with neither flag: neither the task nor a time limit ended them."
        )
    if found.early_flags:
        told.append(f"{found.early_flags:,} episode(s) go on after a termination or truncation flag.")
    return told


def _names(features: Sequence[Feature]) -> str:
    return named([feature.name for feature in features])

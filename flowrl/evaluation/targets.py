"""Target returns from a dataset's returns."""

import re
from collections.abc import Sequence

import numpy as np

from flowrl.errors import InputError


def resolve_targets(words: Sequence[str], percentiles: Sequence[float]) -> list[float]:
    """Turn `best`, `pNN`, `rNN` and numbers into returns, each once.

    Args:
        percentiles: the 0th to the 100th percentile of the dataset's episode returns.

    Raises:
        InputError: a word is none of these.
    """
    low, high = percentiles[0], percentiles[-1]
    targets: list[float] = []
    for word in words:
        if word == "best":
            target = high
        elif match := re.fullmatch(r"p(\d{1,2}|100)", word):
            target = percentiles[int(match[1])]
        elif match := re.fullmatch(r"r(\d{1,2}|1\d\d|200)", word):
            # Rounding may put the whole way a little beyond the best return.
            target = high if match[1] == "100" else low + (high - low) * (int(match[1]) / 100)
        else:
            try:
                target = float(word)
            except ValueError:
                target = float("nan")
            if not np.isfinite(target):
                raise InputError(
                    f"target {word!r} is neither a number, nor pNN (0 to 100), nor rNN (0 to 200), nor best"
                )
        if target not in targets:
            targets.append(target)
    return targets


def target_cautions(words: Sequence[str], percentiles: Sequence[float]) -> list[str]:
    """A sentence for every target given as a number that is far from the data; takes what `resolve_targets` does."""
    low, high = percentiles[0], percentiles[-1]
    span = max(high - low, 1e-6 * max(abs(low), abs(high)))
    cautions = []
    for word in words:
        try:
            target = float(word)
        except ValueError:  # it comes from the data
            continue
        if target < 0 < low or high < 0 < target:
            trouble = "has the wrong sign"
        elif target > high + span / 4 or target < low - span / 4:
            trouble = "is far beyond the data"
        else:
            continue
        cautions.append(f"target {target:,.1f} {trouble}: returns in the dataset are {low:,.1f} to {high:,.1f}")
    return cautions

"""What each column of the observations and the actions holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import minari
import numpy as np
from numpy.typing import NDArray

from flowrl.data.scales import NOTHING, ROUNDING
from flowrl.data.spaces import Column, columns, leaves

__all__ = ["Feature", "Layout", "features_of"]

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Layout:
    """What the columns of a dataset's arrays are."""

    observations: Sequence[Column]
    actions: Sequence[Column]
    action_low: Floats | None = None
    """(action size,) the bounds of the action space; None where it has none."""
    action_high: Floats | None = None

    @classmethod
    def of(cls, dataset: minari.MinariDataset) -> "Layout":
        """That of a dataset whose spaces are supported.

        Raises:
            InputError: a space is not supported.
        """
        box = dataset.action_space if isinstance(dataset.action_space, gym.spaces.Box) else None
        return cls(
            columns(leaves(dataset.observation_space, "observation"), "observation"),
            columns(leaves(dataset.action_space, "action"), "action"),
            None if box is None else box.low,
            None if box is None else box.high,
        )


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


def features_of(
    array: Floats,
    names: Sequence[Column],
    low: Floats | None = None,
    high: Floats | None = None,
    *,
    offset: Floats | float = 0.0,
) -> tuple[Feature, ...]:
    """Every column of an array (N, d), with its bounds (d,) where it has some.

    Args:
        offset: (d,) or 0, what the array lies around: added to what is said of it.
    """
    around = np.broadcast_to(offset, array.shape[1:])
    return tuple(
        # In rows, columns are far apart in memory: one pass brings them together, all others work on that copy.
        _feature(
            array[:, number].astype(np.float64),
            column,
            float(around[number]),
            None if low is None else low[number],
            None if high is None else high[number],
        )
        for number, column in enumerate(names)
    )


def _feature(
    values: NDArray[np.float64], column: Column, offset: float, low: float | None, high: float | None
) -> Feature:
    finite = values[np.isfinite(values)]
    non_finite = len(values) - len(finite)
    if not len(finite):
        return Feature(column.name, None, None, None, None, False, non_finite, one_hot=column.one_hot)
    minimum, maximum, std = float(finite.min()), float(finite.max()), float(finite.std())
    largest = max(abs(minimum), abs(maximum))
    at_low, below = _at_bound(-finite, None if low is None else -low, largest)
    at_high, above = _at_bound(finite, high, largest)
    return Feature(
        name=column.name,
        minimum=minimum + offset,
        mean=float(finite.mean()) + offset,
        std=std,
        maximum=maximum + offset,
        # As the normaliser judges it: rounding alone makes a constant vary.
        constant=std <= max(ROUNDING * largest, NOTHING),
        non_finite=non_finite,
        at_low=at_low,
        at_high=at_high,
        outside=below + above,
        one_hot=column.one_hot,
    )


def _at_bound(values: Floats, bound: float | None, largest: float) -> tuple[float | None, int]:
    """The share of the values at an upper bound or above it, and how many are above by more than rounding.

    Args:
        largest: of all values, whatever their sign.
    """
    if bound is None or not np.isfinite(bound):
        return None, 0
    rounding = ROUNDING * max(largest, abs(float(bound)))
    return float((values >= bound - rounding).mean()), int((values > bound + rounding).sum())

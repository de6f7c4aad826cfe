"""How stored numbers become float32: less an offset where they vary by little around a large number.

A clock in seconds since 1970 or metres on a map need more digits than float32 has, but their differences do not. So
such a feature is centred in float64 first. Where float32 loses what the data tell apart all the same, it is named.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Exact = Callable[[str, NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64] | None]
"""``exact(name, columns, episodes)``: these columns (rows, n) of `observations`, `actions` or `rewards` as they are
stored, of these episodes in their order; None where float32 holds all of them."""

EPSILON = float(np.finfo(np.float32).eps)
CENTRED = 1e-3  # of the standard deviation: a feature that float32 would round by more is centred
LOST = 1e-2  # likewise: numbers that are not centred, and are rounded by more, are named
SAMPLED = 200  # episodes
MANY = 0.1  # of the changes from one row to the next
ROUNDING = 1e-12  # of the largest number: float64 alone makes a constant vary by less


class Settled(NamedTuple):
    """What `settle` did."""

    offset: NDArray[np.float64]
    """(observation size,), 0 for a feature that is not centred."""
    rounded: list[str]
    """What loses digits as float32, by name."""


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Whether float32 rounds numbers of that type."""
    return not np.can_cast(dtype, np.float32, "safe")


def settle(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    rewards: NDArray[np.float32],
    lengths: NDArray[np.int64],
    exact: Exact,
) -> Settled:
    """Centre what needs it, in place, and name what loses digits.

    Args:
        observations: (N+E, observation size), as the other arrays rounded to float32.
        actions: (N, action size).
        rewards: (N,).
        lengths: (E,) steps of each episode.
        exact: gives the columns that are in doubt.
    """
    offset, rounded = np.zeros(observations.shape[1]), []
    columns, stored = _in_doubt("observations", observations, lengths + 1, exact)
    if len(columns):
        offset[columns] = _offset(stored)
        moved = columns[offset[columns] != 0]
        observations[:, moved] = (stored - offset[columns])[:, offset[columns] != 0]
        lost = loses_digits(stored, observations[:, columns], lengths + 1)
        rounded += [f"observation feature {column}" for column in columns[lost]]
    for name, array, called in (("actions", actions, "action {}"), ("rewards", rewards[:, None], "the reward")):
        columns, stored = _in_doubt(name, array, lengths, exact)
        if len(columns):
            lost = loses_digits(stored, array[:, columns], lengths)
            rounded += [called.format(column) for column in columns[lost]]
    return Settled(offset, rounded)


def loses_digits(
    stored: NDArray[np.float64], kept: NDArray[np.float32], rows: NDArray[np.int64] | Sequence[int]
) -> NDArray[np.bool_]:
    """(n,) bool: columns of which float32 does not keep what the data tell apart.

    They are rounded by a good part of their standard deviation, or many changes from one row to the next vanish that
    are no smaller than the others (a robot at rest may tremble by less than float32 shows).

    Args:
        stored: (rows, n).
        kept: the same as float32, less an offset or not.
        rows: (E,) of each episode.
    """
    varies, std = _varies(stored)
    inside = np.ones(max(len(stored) - 1, 0), np.bool_)
    inside[np.cumsum(rows)[:-1] - 1] = False
    changes = np.abs(stored[1:] - stored[:-1])[inside]
    changes[changes == 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a change
        usual = np.nanmedian(changes, 0) / 2 if len(changes) else np.zeros(stored.shape[1])
    vanished = (changes >= usual) & (kept[1:] == kept[:-1])[inside]
    near = EPSILON * np.abs(kept.mean(0, dtype=np.float64)) > LOST * std
    return varies & (near | (vanished.sum(0) > MANY * np.isfinite(changes).sum(0)))


def _offset(stored: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) the means of the columns (rows, n) that need to be centred, 0 of the others."""
    varies, std = _varies(stored)
    mean = stored.mean(0)
    return np.where(varies & (EPSILON * np.abs(mean) > CENTRED * std), mean, 0.0)


def _varies(stored: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) whether columns vary by more than float64's rounding, and their standard deviations."""
    std = stored.std(0)
    return std > ROUNDING * np.abs(stored).max(0), std


def _in_doubt(
    name: str, array: NDArray[np.float32], rows: NDArray[np.int64], exact: Exact
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The columns of an array that need more digits than float32 has, or may lose some, and what is stored in them.

    Reading a dataset again takes long, so a part of the episodes decides first.
    """
    none, episodes = (np.zeros(0, np.intp), np.zeros((0, 0))), np.arange(len(rows))
    columns = np.flatnonzero(_suspect(array))
    few = np.unique(np.linspace(0, len(rows) - 1, SAMPLED).astype(np.intp))
    if len(columns) and len(few) < len(rows):
        if (some := exact(name, columns, few)) is None:
            return none
        columns = columns[loses_digits(some, some.astype(np.float32), rows[few]) | (_offset(some) != 0)]
    stored = exact(name, columns, episodes) if len(columns) else None
    return none if stored is None else (columns, stored)


def _suspect(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) columns that vary by little for their size, or are often equal from one row to the next."""
    with np.errstate(all="ignore"):  # infinity minus infinity; these are refused later
        low, high = array.min(0), array.max(0)
        largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        narrow = EPSILON * largest > CENTRED / 2 * (high.astype(np.float64) - low)
    stuck = (array[1:] == array[:-1]).sum(0) > MANY / 2 * len(array)
    return (narrow | stuck) & (largest > 0) & np.isfinite(largest)

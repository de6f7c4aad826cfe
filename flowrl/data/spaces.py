"""How a Gymnasium space becomes a row of numbers: Dict and Tuple end to end, Discrete as one-hot, Box flat.

A Dict's entries are sorted by name (`achieved_goal`, `desired_goal`, `observation`), whatever the order in which the
space lists them: Minari stores spaces without that order. So a goal in the observation is a part of the row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from flowrl.errors import InputError

MOST_FEATURES = 10_000  # more are pictures: no agent here reads them


@dataclass(frozen=True)
class Leaf:
    """One array within a space's values, and the columns of a row it becomes."""

    name: str
    """Its path within a nested value, as Minari names its parts: `goal/position`, `_index_0`; empty for the value."""
    shape: tuple[int, ...]
    """Of one value."""
    size: int
    """Columns."""
    first: int | None = None
    """The number of the first value of a Discrete, whose columns are one-hot; None for numbers taken as they are."""


@dataclass(frozen=True)
class Column:
    """One number of a row."""

    name: str
    """`desired_goal[0]`, or `action 3 (one-hot)` for one of a Discrete's columns."""
    one_hot: bool = False


def columns(leaves: Sequence[Leaf], what: str) -> list[Column]:
    """The columns of a row, by name.

    Args:
        leaves: of the space, as `leaves` gives them.
        what: the name of a space that is a single array.
    """
    row = []
    for leaf in leaves:
        name = leaf.name or what
        if leaf.first is not None:
            row += [Column(f"{name} {leaf.first + number} (one-hot)", True) for number in range(leaf.size)]
        elif not leaf.shape:
            row.append(Column(name))
        else:
            row += [Column(f"{name}[{','.join(map(str, at))}]") for at in np.ndindex(*leaf.shape)]
    return row


def leaves(space: gym.Space, what: str) -> list[Leaf]:
    """The arrays of a space in the order of their columns.

    Args:
        what: the name of the space in the message.

    Raises:
        InputError: the space, or a part of it, is no Box, Discrete, MultiBinary, Dict or Tuple, or is a picture.
    """
    arrays = _leaves(space, "", what)
    if (size := sum(leaf.size for leaf in arrays)) > MOST_FEATURES:
        raise InputError(f"the {what} space {space} has {size:,} features: at most {MOST_FEATURES:,} are supported")
    return arrays


def _leaves(space: gym.Space, name: str, what: str) -> list[Leaf]:
    if isinstance(space, gym.spaces.Dict):
        parts = sorted(space.spaces.items())
    elif isinstance(space, gym.spaces.Tuple):
        parts = [(f"_index_{number}", part) for number, part in enumerate(space.spaces)]
    elif isinstance(space, gym.spaces.Discrete):
        return [Leaf(name, (), int(space.n), int(space.start))]
    elif isinstance(space, gym.spaces.MultiBinary) or (isinstance(space, gym.spaces.Box) and not _is_picture(space)):
        return [Leaf(name, tuple(space.shape), math.prod(space.shape))]
    else:
        raise InputError(
            f"the {what} space{' part ' + name if name else ''} is {space}: Box (no pictures), Discrete, MultiBinary,"
            " and Dict and Tuple of these are supported"
        )
    return [leaf for key, part in parts for leaf in _leaves(part, f"{name}/{key}".lstrip("/"), what)]


def integer_type(space: gym.spaces.Box) -> str | None:
    """The name of a Box's type where its values are whole numbers, as int64; None where they are real."""
    return space.dtype.name if np.issubdtype(space.dtype, np.integer) else None


def within(values: NDArray[Any], low: ArrayLike, high: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """Values clipped to bounds of any type and as numbers of `dtype`, rounded to the nearest where these are whole."""
    if not np.issubdtype(dtype, np.integer):
        return np.clip(values.astype(dtype), low, high)
    # A float may be beyond a bound of int64 that it is meant to equal, and its cast would change the sign.
    rounded = np.rint(values.astype(np.float64))
    below, above = rounded <= np.asarray(low, np.float64), rounded >= np.asarray(high, np.float64)
    inside = np.where(below | above, 0, rounded).astype(dtype)
    return np.where(below, low, np.where(above, high, inside)).astype(dtype)


def _is_picture(space: gym.spaces.Box) -> bool:
    return space.dtype == "uint8" and len(space.shape) == 3


def action_leaf(space: gym.Space) -> Leaf:
    """The array of an action space: a row of real numbers, or a Discrete's one-hot row.

    Raises:
        InputError: the space is neither.
    """
    if isinstance(space, gym.spaces.Discrete) or (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        return _leaves(space, "", "action")[0]
    raise InputError(f"the action space is {space}: a flat Box (one dimension of real numbers) or Discrete is needed")

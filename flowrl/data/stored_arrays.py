"""A dataset's episodes as flat arrays, and the checks that every array which is read into them must pass."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowrl.data.precision import Exact, settle
from flowrl.data.spaces import Leaf
from flowrl.errors import InputError


@dataclass(frozen=True)
class StoredArrays:
    """A dataset's episodes end to end, E of them with N steps in all; those without steps are left out."""

    observations: NDArray[np.float32]  # (N+E, observation size): T+1 an episode, less the offset
    actions: NDArray[np.float32]  # (N, action size); one-hot rows where actions are discrete
    rewards: NDArray[np.float32]  # (N,)
    terminations: NDArray[np.bool_]  # (N,)
    truncations: NDArray[np.bool_]  # (N,)
    lengths: NDArray[np.int64]  # (E,)
    offset: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    """(observation size,), or () where it is 0: what observations lie around, see `flowrl.data.precision`."""
    left_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The places in the dataset of the episodes that have no steps, in order."""
    rounded: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, np.str_))
    """What loses digits as float32, by name."""

    @property
    def places(self) -> NDArray[np.int64]:
        """(E,) the places of the episodes in the dataset, counted from 0 with those that are left out."""
        return np.delete(np.arange(len(self.lengths) + len(self.left_out)), self.left_out)

    @property
    def raw_observations(self) -> NDArray[np.floating]:
        """(N+E, observation size) with the offset: float32, or float64 where there is one."""
        return self.observations + self.offset if self.offset.any() else self.observations

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every array that training reads: lengths, observations, actions, rewards and terminations."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.lengths, self.observations, self.actions, self.rewards, self.terminations):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        if self.offset.any():
            digest.update(self.offset.data)
        return digest.hexdigest()


def empty(lengths: NDArray[np.int64], observation_size: int, action_size: int) -> StoredArrays:
    """Arrays for episodes of these lengths (E,), to be filled."""
    steps, episodes = int(lengths.sum()), len(lengths)
    return StoredArrays(
        np.empty((steps + episodes, observation_size), np.float32),
        np.empty((steps, action_size), np.float32),
        np.empty(steps, np.float32),
        np.empty(steps, np.bool_),
        np.empty(steps, np.bool_),
        lengths,
    )


def without_empty(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the episodes without steps, and the lengths of the others.

    Raises:
        InputError: no episode has a step.
    """
    if not lengths.any():
        raise InputError(f"no episode has a step: all {len(lengths):,} are empty")
    return np.flatnonzero(lengths == 0), lengths[lengths > 0]


def settled(arrays: StoredArrays, left_out: NDArray[np.int64], exact: Exact) -> StoredArrays:
    """The arrays around an offset where float32 needs one.

    Args:
        left_out: places of the episodes without steps.
        exact: gives columns of some episodes as they are stored.
    """
    offset, rounded = settle(arrays.observations, arrays.actions, arrays.rewards, arrays.lengths, exact)
    return replace(arrays, offset=offset, left_out=left_out, rounded=np.array(rounded, np.str_))


def one_hot_or_flat(index: int, name: str, leaf: Leaf, values: NDArray[Any]) -> NDArray[Any]:
    """The columns (T, leaf size) of one array (T, *leaf shape) of episode `index`; one-hot where the leaf is Discrete.

    Raises:
        InputError: values of a Discrete that are no whole numbers or outside it.
    """
    if leaf.first is None:
        return values.reshape(len(values), leaf.size)
    if values.dtype.kind not in "iu":
        raise InputError(f"episode {index}: {name} are {values.dtype}: they must be whole numbers")
    number = values.astype(np.int64) - leaf.first
    if ((number < 0) | (number >= leaf.size)).any():
        bad = values[(number < 0) | (number >= leaf.size)][0]
        raise InputError(
            f"episode {index}: {name} hold {bad}: they must be {leaf.first} to {leaf.first + leaf.size - 1}"
        )
    return number[:, None] == np.arange(leaf.size)


def length_of(index: int, shape: tuple[int, ...]) -> int:
    """The steps of episode `index`, by the shape of its rewards.

    Raises:
        InputError: they are not one number a step.
    """
    if len(shape) != 1:
        raise InputError(f"episode {index}: rewards have shape {shape}: they must be one number a step")
    return shape[0]


def check_empty(index: int, name: str, shape: tuple[int, ...]) -> None:
    """Raise InputError where an episode without rewards has rows of another array beyond the first observation."""
    if shape[:1] > ((1,) if name.startswith("observations") else (0,)):
        raise InputError(f"episode {index} has no steps, but {shape[0]} {name}: an array of it is missing or cut")


def flags(index: int, name: str, values: Any) -> NDArray[np.bool_]:
    """The flags `name` of episode `index` as bool, of whatever type they are.

    Raises:
        InputError: a value is none of True, False, 1 and 0.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O":
        array = np.array(array.tolist())
    if array.dtype.kind not in "fiub":
        raise InputError(f"episode {index}: {name} are of type {array.dtype}: they must be True or False, or 1 or 0")
    if len(bad := array[(array != 0) & (array != 1)]):
        raise InputError(f"episode {index}: {name} hold {bad[0]}: they must be True or False, or 1 or 0")
    return array.astype(np.bool_)


def check_shape(index: int, name: str, shape: Sequence[int], expected: Sequence[int], length: int) -> None:
    """Raise InputError where an array of episode `index`, of `length` steps, is empty or has another shape."""
    if length == 0:
        raise InputError(f"episode {index} has no steps")
    if tuple(shape) != tuple(expected):
        raise InputError(
            f"episode {index}: {name} have shape {tuple(shape)} instead of {tuple(expected)} for {length} rewards"
            " (an episode of T steps has T+1 observations and T of everything else)"
        )


def check_finite(arrays: StoredArrays) -> None:
    """Raise InputError where an array that training reads holds NaN or infinity, naming it and the first episode."""
    episodes = arrays.places
    for name, rows in (("observations", arrays.lengths + 1), ("actions", arrays.lengths), ("rewards", arrays.lengths)):
        array = getattr(arrays, name)
        # One pass without a temporary: a sum is finite unless a term is not (or all is too large to train on).
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            total = array.sum(dtype=np.float64)
        if np.isfinite(total):
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
        if bad.any():
            raise InputError(f"{name} hold NaN or infinity, first in episode {np.repeat(episodes, rows)[bad.argmax()]}")

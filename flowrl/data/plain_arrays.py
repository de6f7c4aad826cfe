"""A user's own numpy arrays, an array an episode, checked and joined end to end."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowrl.data.precision import is_wide, settle
from flowrl.data.spaces import Leaf
from flowrl.data.stored_arrays import StoredArrays, flags, one_hot_or_flat
from flowrl.errors import InputError, cause


def join(
    observations: Sequence[ArrayLike],
    actions: Sequence[ArrayLike],
    rewards: Sequence[ArrayLike],
    terminations: Sequence[ArrayLike],
    discrete_actions: int | None = None,
) -> StoredArrays:
    """E episodes as flat float32 arrays; `TrajectoryDataset.from_arrays` says what each argument holds.

    Raises:
        InputError: no episode, or lists of different lengths; an array of another shape or type, naming its episode.
    """
    lists = {"observations": observations, "actions": actions, "rewards": rewards, "terminations": terminations}
    counts = {name: len(arrays) for name, arrays in lists.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"every list must have one array an episode: there are {lengths}")
    if not len(rewards):
        raise InputError("there is no episode: at least one is needed")
    if discrete_actions is not None and discrete_actions < 1:
        raise InputError(f"discrete_actions is {discrete_actions}: it must be at least 1")
    episodes = [
        _episode(index, *arrays, discrete_actions)
        for index, arrays in enumerate(zip(observations, actions, rewards, terminations, strict=True))
    ]
    for place, name in enumerate(("observations", "actions")):
        for index, episode in enumerate(episodes):
            first, size = episodes[0][place].shape[1], episode[place].shape[1]
            if size != first:
                raise InputError(f"episode {index}: {name} have {size} numbers a row, those of episode 0 have {first}")
    with np.errstate(over="ignore"):  # then it is infinite, and refused as such
        seen, acted, rewarded = (
            np.concatenate([episode[place] for episode in episodes]).astype(np.float32) for place in range(3)
        )
    ends = np.concatenate([episode[3] for episode in episodes])
    lengths = np.array([len(episode[2]) for episode in episodes], np.int64)
    places = {"observations": 0, "actions": 1, "rewards": 2}

    def exact(name: str, columns: NDArray[np.intp], of: NDArray[np.intp]) -> NDArray[np.float64] | None:
        chosen = [episodes[number][places[name]] for number in of]
        if not any(is_wide(part.dtype) for part in chosen):
            return None
        return np.concatenate([part.reshape(len(part), -1)[:, columns] for part in chosen]).astype(np.float64)

    offset, names = settle(seen, acted, rewarded, lengths, exact)
    last = np.isin(np.arange(lengths.sum()), np.cumsum(lengths) - 1)
    rounded = np.array(names, np.str_)
    return StoredArrays(seen, acted, rewarded, ends, last & ~ends, lengths, offset=offset, rounded=rounded)


def action_bounds(
    low: ArrayLike | None, high: ArrayLike | None, size: int, discrete_actions: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size,) each: the bounds given; infinite where none is, and 0 and 1 for the one-hot rows of discrete actions.

    Raises:
        InputError: bounds of another shape, NaN, a lower one above the upper, or any of discrete actions.
    """
    if discrete_actions is not None:
        if low is not None or high is not None:
            raise InputError("discrete actions have no bounds: action_low and action_high must be left out")
        return np.zeros(size), np.ones(size)
    bounds = []
    for name, bound, unbounded in (("action_low", low, -np.inf), ("action_high", high, np.inf)):
        try:
            array = np.asarray(unbounded if bound is None else bound, np.float64)
        except (TypeError, ValueError):
            array = np.full(0, np.nan)
        if array.shape not in ((), (1,), (size,)) or np.isnan(array).any():
            raise InputError(f"{name} is {bound}: it must be a number, or one for each of the {size} actions")
        bounds.append(np.broadcast_to(array, size))
    if (bounds[0] > bounds[1]).any():
        raise InputError(f"action_low {low} is above action_high {high}")
    return bounds[0], bounds[1]


def _episode(
    index: int,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminations: ArrayLike,
    discrete_actions: int | None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """One episode's observations (T+1, o), actions (T, a), rewards (T,) and terminations (T,)."""
    reward = _numbers(index, "rewards", rewards)
    if reward.ndim != 1 or not len(reward):
        _refuse(index, "rewards", reward, "(T,) with T of at least 1, a number a step")
    steps = len(reward)
    seen = _numbers(index, "observations", observations)
    if seen.ndim != 2 or len(seen) not in (steps, steps + 1) or not seen.shape[1]:
        _refuse(index, "observations", seen, f"({steps + 1}, size) or, without the last one, ({steps}, size)")
    if len(seen) == steps:
        # Nothing is known of what followed the last step: see `TrajectoryDataset.next_known`.
        seen = np.concatenate([seen, seen[-1:]])
    if discrete_actions is None:
        done = _numbers(index, "actions", actions)
        if done.ndim != 2 or len(done) != steps or not done.shape[1]:
            _refuse(index, "actions", done, f"({steps}, size), or discrete_actions must be given")
    else:
        choices = np.asarray(actions)
        if choices.shape != (steps,):
            _refuse(index, "actions", choices, f"({steps},), a whole number a step")
        done = one_hot_or_flat(index, "actions", Leaf("", (), discrete_actions, 0), choices)
    return seen, done, reward, _flags(index, terminations, steps)


def _numbers(index: int, name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"episode {index}: {name} are no array: {cause(error)}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"episode {index}: {name} are of type {array.dtype}: they must be numbers")
    return array


def _flags(index: int, values: ArrayLike, steps: int) -> NDArray[np.bool_]:
    """(T,) bool, from as many flags or from one for the last step."""
    given = np.asarray(values)
    if given.ndim == 0:
        given = np.append(np.zeros(steps - 1, given.dtype), given)
    if given.shape != (steps,):
        _refuse(index, "terminations", given, f"({steps},), a flag a step, or one flag for the episode")
    ends = flags(index, "terminations", given)
    early = np.flatnonzero(ends[:-1])
    if len(early):
        raise InputError(f"episode {index} is terminated at step {early[0]} of {steps}: it must end there")
    return ends


def _refuse(index: int, name: str, array: NDArray[Any], expected: str) -> None:
    raise InputError(f"episode {index}: {name} have shape {array.shape}: they must be {expected}")

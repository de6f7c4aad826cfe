"""D4RL's functions, which read any Minari dataset: old code that works on D4RL's dictionaries goes on working."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowrl.data import fingerprint_file
from flowrl.data.d4rl.writing import REPEATED
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.errors import InputError


def get_dataset(dataset_id: str) -> dict[str, NDArray[Any]]:
    """All steps of a Minari dataset as D4RL's flat dict, N rows each, episodes end to end.

    `observations` (N, o), `actions` (N, a), `rewards` (N,), `next_observations` (N, o) float32, but observations of a
    clock and the like float64 (see `flowrl.data.precision`); `terminals` (N,) and `timeouts` (N,) bool. As in D4RL, an
    episode ends where one of the two is set: that includes a last step that the dataset itself neither terminates nor
    truncates, which is a timeout here. `next_observations` is the dataset's own
    observation t+1, on an episode's last row too.

    Raises:
        InputError: there is no such dataset, it cannot be read, or it has changed since its fingerprint was recorded.
    """
    return _flat(dataset_id)[0]


def qlearning_dataset(dataset_id: str, *, keep_timeouts: bool = False) -> dict[str, NDArray[Any]]:
    """`observations actions next_observations rewards terminals` of a Minari dataset, as D4RL's function gives them.

    The rows are those that D4RL's function takes from `get_dataset`: all but the timeouts, and but the very last one,
    since it does not know what follows them. On a terminal row, where D4RL has the first observation of the next
    episode, `next_observations` is the episode's own last one (or its repeat); a learner multiplies either by zero.

    Args:
        keep_timeouts: keep all N rows: Minari's episodes have the observation that follows.

    Raises:
        InputError: there is no such dataset, or it cannot be read; `keep_timeouts` of an imported dataset whose last
            observations are not real.
    """
    if keep_timeouts and (repeated := open_dataset(dataset_id).storage.metadata.get(REPEATED, 0)):
        raise InputError(
            f"keep_timeouts needs the observation after an episode's last step, and {dataset_id} does not have it in"
            f" {repeated} episodes: their D4RL file does not"
        )
    flat, _ = _flat(dataset_id)
    kept = np.ones(len(flat["rewards"]), np.bool_)
    if not keep_timeouts:
        kept &= ~flat["timeouts"]
        kept[-1] = False
    names = ("observations", "actions", "next_observations", "rewards", "terminals")
    return {name: flat[name] if keep_timeouts else flat[name][kept] for name in names}


def sequence_dataset(dataset_id: str) -> Iterator[dict[str, NDArray[Any]]]:
    """The episodes of a Minari dataset one by one, as D4RL's function gives them: `get_dataset` with T rows each.

    Raises:
        InputError: there is no such dataset, or it cannot be read; at the call, not at the first episode.
    """
    flat, lengths = _flat(dataset_id)
    stops = np.cumsum(lengths)
    bounds = zip((stops - lengths).tolist(), stops.tolist(), strict=True)
    return ({name: array[start:stop] for name, array in flat.items()} for start, stop in bounds)


def _flat(dataset_id: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """`get_dataset`, and the lengths (E,) of the episodes."""
    stored = open_dataset(dataset_id)
    arrays = read_arrays(stored)
    fingerprint_file.verify(stored, arrays)
    lengths, observations = arrays.lengths, arrays.raw_observations
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(episode_of)) + episode_of  # an episode has one more observation than steps
    last = np.cumsum(lengths) - 1
    timeouts = arrays.truncations.copy()
    timeouts[last] |= ~arrays.terminations[last]
    flat = {
        "observations": observations[rows],
        "actions": arrays.actions,
        "rewards": arrays.rewards,
        "next_observations": observations[rows + 1],
        "terminals": arrays.terminations,
        "timeouts": timeouts,
    }
    return flat, lengths


def get_normalized_score(dataset_id: str, returns: ArrayLike) -> Any:
    """Returns, a number or an array, as a fraction of the way from the dataset's random to its expert reference.

    Raises:
        InputError: there is no such dataset, or it has no reference scores.
    """
    metadata = open_dataset(dataset_id).storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None or low == high:
        raise InputError(f"dataset {dataset_id} has no reference scores: they are {low} (random) and {high} (expert)")
    return (np.asarray(returns, np.float64) - low) / (high - low)

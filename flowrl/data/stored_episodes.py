"""Single episodes of a Minari dataset as they are stored, for those who compare them with a simulator."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from numpy.typing import NDArray

from flowrl.data.hdf5_guard import GuardedFile, check_is_file
from flowrl.data.reading import observation_rows
from flowrl.data.spaces import Leaf, leaves
from flowrl.data.stored_arrays import one_hot_or_flat

Stored = tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]
"""Index, observations (T+1, observation size), actions (T, action size), or (T,) numbers where they are discrete, and
rewards (T,), in the precision they are stored in."""


def stored_episodes(dataset: minari.MinariDataset, indices: Sequence[int]) -> Iterator[Stored]:
    """These episodes, in the order given; of an HDF5 file nothing else is read, as Minari would the infos.

    Raises:
        InputError: the file holds what `GuardedFile` refuses, or observations that disagree with the space.
        OSError, KeyError: it cannot be read.
    """
    observation = leaves(dataset.observation_space, "observation")
    path = Path(dataset.storage.data_path) / "main_data.hdf5"
    if not path.exists():
        for episode in dataset.iterate_episodes(indices):
            rows = observation_rows(episode, observation)
            yield int(episode.id), rows, np.asarray(episode.actions), np.asarray(episode.rewards)
        return
    check_is_file(path)
    with h5py.File(path, "r") as file:
        guarded = GuardedFile(file, path.stat().st_size)
        for index in indices:
            parts = [_leaf(guarded, index, leaf) for leaf in observation]
            rows = np.concatenate(parts, axis=1)
            yield index, rows, _array(guarded, index, "actions"), _array(guarded, index, "rewards")


def _leaf(guarded: GuardedFile, index: int, leaf: Leaf) -> NDArray[Any]:
    name = f"observations/{leaf.name}".rstrip("/")
    return one_hot_or_flat(index, name, leaf, _array(guarded, index, name))


def _array(guarded: GuardedFile, index: int, name: str) -> NDArray[Any]:
    return h5py.Dataset(guarded.array(f"episode_{index}/{name}", f"episode {index}: {name}"))[()]

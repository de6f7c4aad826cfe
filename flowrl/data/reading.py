"""A Minari dataset's episodes as flat arrays: read from its files, and kept beside them for the next time."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import minari
import numpy as np
from numpy.typing import NDArray

from flowrl.data import array_cache, fingerprint_file
from flowrl.data.array_cache import CACHE_FORMAT, CACHE_NAME
from flowrl.data.hdf5_guard import check_is_file
from flowrl.data.hdf5_reading import read_hdf5
from flowrl.data.precision import is_wide
from flowrl.data.spaces import Leaf, action_leaf, leaves
from flowrl.data.stored_arrays import (
    StoredArrays,
    check_empty,
    check_shape,
    empty,
    flags,
    length_of,
    one_hot_or_flat,
    settled,
    without_empty,
)
from flowrl.errors import InputError, cause

__all__ = ["observation_rows", "read_arrays"]


def read_arrays(dataset: minari.MinariDataset, *, cache: bool = True) -> StoredArrays:
    """Read a dataset's episodes into flat float32 arrays, or take them from the cache beside its file.

    The cache is a plain `.npz` in the dataset's folder. It is used only while the dataset's files have the size and
    times they had when it was written, and the fingerprint beside them is that of its arrays; else, and where it cannot
    be written (a read-only folder), the file is read. So bytes of the file that rot do no harm while a cache stands.

    Args:
        cache: use the cache, and write one where there is none.

    Raises:
        InputError: no episode with a step; shapes that disagree with each other or with the spaces; flags other than
            True and False; unreadable file.
    """
    observation, action = leaves(dataset.observation_space, "observation"), action_leaf(dataset.action_space)
    indices = [int(index) for index in dataset.episode_indices]
    if not indices:
        raise InputError(f"dataset {dataset.id} holds no episode")
    folder = Path(dataset.storage.data_path)
    file = folder / "main_data.hdf5"
    try:
        if not file.exists():
            return _join(_all(dataset.iterate_episodes(indices), len(indices)), observation, action)
        check_is_file(file)
        if not cache or len(indices) != dataset.storage.total_episodes:
            return read_hdf5(file, indices, observation, action)
        key = _cache_key(folder, observation, action)
        arrays = _load_cache(folder / CACHE_NAME, key)
        if arrays is None or not _is_sound(arrays, folder, sum(leaf.size for leaf in observation), action.size):
            arrays = read_hdf5(file, indices, observation, action)
            if key == _cache_key(folder, observation, action):  # else the file changed while it was read
                array_cache.save(folder / CACHE_NAME, key, {f.name: getattr(arrays, f.name) for f in fields(arrays)})
        return arrays
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise InputError(f"the data of {dataset.id} cannot be read: {cause(error)}") from error


def _cache_key(folder: Path, observation: Sequence[Leaf], action: Leaf) -> str:
    files = [(folder / name).stat() for name in ("main_data.hdf5", "metadata.json")]
    times = [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in files]
    return json.dumps([CACHE_FORMAT, times, repr(observation), repr(action)])


def _load_cache(path: Path, key: str) -> StoredArrays | None:
    """The cached arrays; None where there are none, they are of another file, or they are damaged."""
    arrays = array_cache.load(path, key, [field.name for field in fields(StoredArrays)])
    return None if arrays is None else StoredArrays(**arrays)


def _is_sound(arrays: StoredArrays, folder: Path, observation_size: int, action_size: int) -> bool:
    """Whether cached arrays fit each other, the spaces, and the fingerprint in the dataset's folder."""
    model = empty(np.zeros(0, np.int64), observation_size, action_size)
    steps, episodes = arrays.rewards.size, arrays.lengths.size
    rows = {"observations": steps + episodes, "lengths": episodes}
    for name in ("observations", "actions", "rewards", "terminations", "truncations", "lengths"):
        array, like = getattr(arrays, name), getattr(model, name)
        if array.dtype != like.dtype or array.shape != (rows.get(name, steps), *like.shape[1:]):
            return False
    if (arrays.lengths < 0).any() or arrays.lengths.sum() != steps:
        return False
    known = fingerprint_file.load(folder, quiet=True)
    return known is None or known.fits(arrays)


def _all(episodes: Iterable[Any], count: int) -> Iterator[Any]:
    """Minari's episodes; where files are missing, it gives the others and says nothing."""
    found = 0
    for episode in episodes:
        found += 1
        yield episode
    if found != count:
        raise InputError(f"the files hold {found:,} of {count:,} episodes: some are missing or empty")


def _join(episodes: Iterator[Any], observation: Sequence[Leaf], action: Leaf) -> StoredArrays:
    """The arrays of Minari's own episodes: for its formats other than HDF5."""
    parts: list[tuple[NDArray[Any], ...]] = []
    every = []
    for episode in episodes:
        every.append(length := length_of(episode.id, np.shape(episode.rewards)))
        if not length:
            for name, leaf in (*(("observations", leaf) for leaf in observation), ("actions", action)):
                check_empty(episode.id, name, np.shape(_part(episode, name, leaf)))
            continue
        ends = []
        for name in ("terminations", "truncations"):
            values = np.asarray(getattr(episode, name))
            check_shape(episode.id, name, values.shape, (length,), length)
            ends.append(flags(episode.id, name, values))
        rows = observation_rows(episode, observation), _rows(episode, "actions", action, length)
        parts.append((*rows, np.asarray(episode.rewards), *ends))
    left_out, lengths = without_empty(np.array(every, np.int64))
    arrays = empty(lengths, sum(leaf.size for leaf in observation), action.size)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    stored = {name: [part[number] for part in parts] for number, name in enumerate(names)}
    for name, values in stored.items():
        np.concatenate(values, out=getattr(arrays, name), casting="same_kind")

    def exact(group: str, columns: NDArray[np.intp], episodes: NDArray[np.intp]) -> NDArray[np.float64] | None:
        chosen = [stored[group][episode] for episode in episodes]
        if not any(is_wide(part.dtype) for part in chosen):
            return None
        return np.concatenate([part.reshape(len(part), -1)[:, columns] for part in chosen]).astype(np.float64)

    return settled(arrays, left_out, exact)


def observation_rows(episode: Any, observation: Sequence[Leaf]) -> NDArray[Any]:
    """The observations (T+1, observation size) of one of Minari's episodes, in the precision they are stored in.

    Raises:
        InputError: their shapes disagree with the rewards or with the space.
    """
    length = len(episode.rewards)
    return np.concatenate([_rows(episode, "observations", leaf, length + 1) for leaf in observation], axis=1)


def _part(episode: Any, group: str, leaf: Leaf) -> Any:
    """One array of a nested value."""
    values = getattr(episode, group)
    for key in leaf.name.split("/") if leaf.name else ():
        values = values[int(key.removeprefix("_index_"))] if isinstance(values, tuple) else values[key]
    return values


def _rows(episode: Any, group: str, leaf: Leaf, rows: int) -> NDArray[Any]:
    values = _part(episode, group, leaf)
    name = f"{group}/{leaf.name}".rstrip("/")
    check_shape(episode.id, name, np.shape(values), (rows, *leaf.shape), len(episode.rewards))
    return one_hot_or_flat(episode.id, name, leaf, np.asarray(values))

"""A Minari dataset's episodes as flat arrays: read straight from the file, and kept beside it for the next time."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from numpy.typing import NDArray

from flowrl.data import array_cache, fingerprint_file
from flowrl.data.array_cache import CACHE_FORMAT, CACHE_NAME
from flowrl.data.hdf5_guard import GuardedFile, check_is_file, check_memory
from flowrl.data.spaces import Leaf, action_leaf, leaves
from flowrl.errors import InputError, cause


@dataclass(frozen=True)
class StoredArrays:
    """A dataset's episodes end to end, E of them with N steps in all."""

    observations: NDArray[np.float32]  # (N+E, observation size): T+1 an episode
    actions: NDArray[np.float32]  # (N, action size); one-hot rows where actions are discrete
    rewards: NDArray[np.float32]  # (N,)
    terminations: NDArray[np.bool_]  # (N,)
    truncations: NDArray[np.bool_]  # (N,)
    lengths: NDArray[np.int64]  # (E,)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every array that training reads: lengths, observations, actions, rewards and terminations."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.lengths, self.observations, self.actions, self.rewards, self.terminations):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_arrays(dataset: minari.MinariDataset, *, cache: bool = True) -> StoredArrays:
    """Read a dataset's episodes into flat float32 arrays, or take them from the cache beside its file.

    The cache is a plain `.npz` in the dataset's folder. It is used only while the dataset's files have the size and
    times they had when it was written, and the fingerprint beside them is that of its arrays; else, and where it cannot
    be written (a read-only folder), the file is read. So bytes of the file that rot do no harm while a cache stands.

    Args:
        cache: use the cache, and write one where there is none.

    Raises:
        InputError: no episode; shapes that disagree with each other or with the spaces; unreadable file.
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
            return _read_hdf5(file, indices, observation, action)
        key = _cache_key(folder, observation, action)
        arrays = _load_cache(folder / CACHE_NAME, key)
        if arrays is None or not _is_sound(arrays, folder, sum(leaf.size for leaf in observation), action.size):
            arrays = _read_hdf5(file, indices, observation, action)
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
    model = _empty(np.zeros(0, np.int64), observation_size, action_size)
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


def _read_hdf5(path: Path, indices: Sequence[int], observation: Sequence[Leaf], action: Leaf) -> StoredArrays:
    # The low-level interface: h5py's own indexing costs several times the read itself for many short episodes.
    with h5py.File(path, "r") as file:
        guarded = GuardedFile(file, path.stat().st_size)
        # HDF5 remembers the objects it has opened, up to 32 MB of them: hardly one is opened again here.
        remember = file.id.get_mdc_config()
        remember.set_initial_size, remember.initial_size = True, 2**19
        remember.min_size, remember.max_size = 2**19, 2**20
        file.id.set_mdc_config(remember)

        def array(index: int, name: str) -> Any:
            path = f"episode_{index}/{name}".rstrip("/")
            return guarded.array(path, f"episode {index}: {name}")

        lengths = np.array([_length(index, array(index, "rewards").shape) for index in indices], np.int64)
        width = sum(leaf.size for leaf in observation)
        check_memory(4 * int((lengths + 1).sum()) * (width + action.size + 1))
        arrays = _empty(lengths, width, action.size)
        step = 0
        for number, (index, length) in enumerate(zip(indices, lengths.tolist(), strict=True)):
            rows = slice(step, step + length)
            seen = arrays.observations[step + number : step + number + length + 1]
            column = 0
            for leaf in observation:
                _read_leaf(index, "observations", leaf, array, seen[:, column : column + leaf.size], length)
                column += leaf.size
            _read_leaf(index, "actions", action, array, arrays.actions[rows], length)
            for name in ("rewards", "terminations", "truncations"):
                source, target = array(index, name), getattr(arrays, name)[rows]
                check_shape(index, name, source.shape, target.shape, length)
                source.read(h5py.h5s.ALL, h5py.h5s.ALL, target)
            step += length
    return arrays


def _read_leaf(index: int, group: str, leaf: Leaf, array: Any, target: NDArray[np.float32], length: int) -> None:
    """Read one array of episode `index` into its columns `target` (T or T+1, leaf size)."""
    name = f"{group}/{leaf.name}".rstrip("/")
    source = array(index, name)
    check_shape(index, name, source.shape, (len(target), *leaf.shape), length)
    if leaf.first is None and target.flags.c_contiguous:
        source.read(h5py.h5s.ALL, h5py.h5s.ALL, target.reshape(source.shape))
        return
    values = np.empty(source.shape, np.float32 if leaf.first is None else source.dtype)
    source.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    target[:] = one_hot_or_flat(index, name, leaf, values)


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


def _length(index: int, shape: tuple[int, ...]) -> int:
    if len(shape) != 1:
        raise InputError(f"episode {index}: rewards have shape {shape}: they must be one number a step")
    if shape[0] == 0:
        raise InputError(f"episode {index} has no steps")
    return shape[0]


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
    episodes = np.arange(len(arrays.lengths))
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


def _empty(lengths: NDArray[np.int64], observation_size: int, action_size: int) -> StoredArrays:
    steps, episodes = int(lengths.sum()), len(lengths)
    return StoredArrays(
        np.empty((steps + episodes, observation_size), np.float32),
        np.empty((steps, action_size), np.float32),
        np.empty(steps, np.float32),
        np.empty(steps, np.bool_),
        np.empty(steps, np.bool_),
        lengths,
    )


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
    for episode in episodes:
        length = _length(episode.id, np.shape(episode.rewards))
        flat = [np.asarray(getattr(episode, name)) for name in ("rewards", "terminations", "truncations")]
        for name, values in zip(("terminations", "truncations"), flat[1:], strict=True):
            check_shape(episode.id, name, values.shape, (length,), length)
        parts.append((observation_rows(episode, observation), _rows(episode, "actions", action, length), *flat))
    lengths = np.array([len(part[2]) for part in parts], np.int64)
    arrays = _empty(lengths, sum(leaf.size for leaf in observation), action.size)
    for number, field in enumerate(fields(StoredArrays)[:-1]):
        np.concatenate([part[number] for part in parts], out=getattr(arrays, field.name), casting="same_kind")
    return arrays


def observation_rows(episode: Any, observation: Sequence[Leaf]) -> NDArray[Any]:
    """The observations (T+1, observation size) of one of Minari's episodes, in the precision they are stored in.

    Raises:
        InputError: their shapes disagree with the rewards or with the space.
    """
    length = len(episode.rewards)
    return np.concatenate([_rows(episode, "observations", leaf, length + 1) for leaf in observation], axis=1)


def _rows(episode: Any, group: str, leaf: Leaf, rows: int) -> NDArray[Any]:
    values = getattr(episode, group)
    for key in leaf.name.split("/") if leaf.name else ():
        values = values[int(key.removeprefix("_index_"))] if isinstance(values, tuple) else values[key]
    name = f"{group}/{leaf.name}".rstrip("/")
    check_shape(episode.id, name, np.shape(values), (rows, *leaf.shape), len(episode.rewards))
    return one_hot_or_flat(episode.id, name, leaf, np.asarray(values))

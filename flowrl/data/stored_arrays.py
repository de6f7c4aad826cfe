"""A Minari dataset's episodes as flat arrays: read straight from the file, and kept beside it for the next time."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
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
from flowrl.data.precision import Exact, is_wide, settle
from flowrl.data.spaces import Leaf, action_leaf, leaves
from flowrl.errors import InputError, cause


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

        every = np.array([_length(index, array(index, "rewards").shape) for index in indices], np.int64)
        left_out, lengths = _without_empty(every)
        for index in (indices[place] for place in left_out):
            for name in (*(f"observations/{leaf.name}".rstrip("/") for leaf in observation), "actions"):
                _check_empty(index, name, array(index, name).shape)
        indices = np.delete(indices, left_out).tolist()
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
                if target.dtype == np.bool_ and source.dtype != np.bool_:
                    values = np.empty(source.shape, source.dtype)
                    source.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
                    target[:] = flags(index, name, values)
                else:
                    source.read(h5py.h5s.ALL, h5py.h5s.ALL, target)
            step += length
        return _settled(arrays, left_out, _exact_hdf5(array, indices, observation, action))


def _exact_hdf5(array: Any, indices: Sequence[int], observation: Sequence[Leaf], action: Leaf) -> Exact:
    """Reads columns again, as they are stored."""
    parts = {"observations": observation, "actions": [action], "rewards": [Leaf("", (), 1)]}

    def exact(group: str, columns: NDArray[np.intp], episodes: NDArray[np.intp]) -> NDArray[np.float64] | None:
        rows, wide = [], False
        for index in (indices[episode] for episode in episodes):
            row, column = [], 0
            for leaf in parts[group]:
                mine = columns[(columns >= column) & (columns < column + leaf.size)] - column
                column += leaf.size
                if not len(mine):
                    continue
                name = f"{group}/{leaf.name}".rstrip("/")
                source = array(index, name)
                values = np.empty(source.shape, source.dtype)
                source.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
                wide |= leaf.first is None and is_wide(values.dtype)
                row.append(one_hot_or_flat(index, name, leaf, values)[:, mine])
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows).astype(np.float64) if wide else None

    return exact


def _without_empty(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the episodes without steps, and the lengths of the others."""
    if not lengths.any():
        raise InputError(f"no episode has a step: all {len(lengths):,} are empty")
    return np.flatnonzero(lengths == 0), lengths[lengths > 0]


def _settled(arrays: StoredArrays, left_out: NDArray[np.int64], exact: Exact) -> StoredArrays:
    offset, rounded = settle(arrays.observations, arrays.actions, arrays.rewards, arrays.lengths, exact)
    return replace(arrays, offset=offset, left_out=left_out, rounded=np.array(rounded, np.str_))


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
    return shape[0]


def _check_empty(index: int, name: str, shape: tuple[int, ...]) -> None:
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
    every = []
    for episode in episodes:
        every.append(length := _length(episode.id, np.shape(episode.rewards)))
        if not length:
            for name, leaf in (*(("observations", leaf) for leaf in observation), ("actions", action)):
                _check_empty(episode.id, name, np.shape(_part(episode, name, leaf)))
            continue
        ends = []
        for name in ("terminations", "truncations"):
            values = np.asarray(getattr(episode, name))
            check_shape(episode.id, name, values.shape, (length,), length)
            ends.append(flags(episode.id, name, values))
        rows = observation_rows(episode, observation), _rows(episode, "actions", action, length)
        parts.append((*rows, np.asarray(episode.rewards), *ends))
    left_out, lengths = _without_empty(np.array(every, np.int64))
    arrays = _empty(lengths, sum(leaf.size for leaf in observation), action.size)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    stored = {name: [part[number] for part in parts] for number, name in enumerate(names)}
    for name, values in stored.items():
        np.concatenate(values, out=getattr(arrays, name), casting="same_kind")

    def exact(group: str, columns: NDArray[np.intp], episodes: NDArray[np.intp]) -> NDArray[np.float64] | None:
        chosen = [stored[group][episode] for episode in episodes]
        if not any(is_wide(part.dtype) for part in chosen):
            return None
        return np.concatenate([part.reshape(len(part), -1)[:, columns] for part in chosen]).astype(np.float64)

    return _settled(arrays, left_out, exact)


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

"""The episodes in Minari's HDF5 file, read straight into flat arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowrl.data.hdf5_guard import GuardedFile, check_memory
from flowrl.data.precision import Exact, is_wide
from flowrl.data.spaces import Leaf
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

__all__ = ["read_hdf5"]


def read_hdf5(path: Path, indices: Sequence[int], observation: Sequence[Leaf], action: Leaf) -> StoredArrays:
    """The episodes of those numbers, in that order.

    Raises:
        InputError: as `flowrl.data.reading.read_arrays`.
    """
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

        every = np.array([length_of(index, array(index, "rewards").shape) for index in indices], np.int64)
        left_out, lengths = without_empty(every)
        for index in (indices[place] for place in left_out):
            for name in (*(f"observations/{leaf.name}".rstrip("/") for leaf in observation), "actions"):
                check_empty(index, name, array(index, name).shape)
        indices = np.delete(indices, left_out).tolist()
        width = sum(leaf.size for leaf in observation)
        check_memory(4 * int((lengths + 1).sum()) * (width + action.size + 1))
        arrays = empty(lengths, width, action.size)
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
        return settled(arrays, left_out, _exact_hdf5(array, indices, observation, action))


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

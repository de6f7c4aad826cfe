"""What training would refuse, and as much of the dataset as can be read all the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import minari

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.hdf5_guard import check_is_file, own_member
from flowrl.data.reading import read_arrays
from flowrl.data.stored_arrays import StoredArrays
from flowrl.errors import InputError
from flowrl.text import listed

__all__ = ["load"]


def load(dataset: minari.MinariDataset) -> tuple[StoredArrays | None, TrajectoryDataset | None, list[str]]:
    """A dataset's arrays and its form for training, None where it cannot be read, and what training would refuse."""
    try:
        arrays = read_arrays(dataset)
    except InputError as error:
        return None, None, [str(error), *_shape_refusals(dataset)]
    try:
        return arrays, TrajectoryDataset.from_stored(dataset, arrays), []
    except InputError as error:
        return arrays, None, [str(error)]


def _shape_refusals(dataset: minari.MinariDataset) -> list[str]:
    """A sentence on all episodes whose arrays disagree in length, where there is more than one."""
    file = Path(dataset.storage.data_path) / "main_data.hdf5"
    wrong = []
    try:
        check_is_file(file)
        with h5py.File(file, "r") as opened:
            for index in dataset.episode_indices:
                group = own_member(opened, f"episode_{int(index)}")
                length = own_member(group, "rewards").shape[0]
                # Those of a Dict or Tuple are groups of arrays.
                rows = {
                    (name, array.shape[0]) for name in ("observations", "actions") for array in _arrays(group, name)
                }
                fitting = {("observations", length + 1), ("actions", length)}
                if rows - fitting - (set() if length else {("observations", 0)}):
                    wrong.append(int(index))
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError, IndexError, TypeError):
        return []  # the first refusal says all that is known
    if len(wrong) < 2:
        return []
    return [f"{len(wrong):,} episodes in all disagree in length: {listed(wrong)}"]


def _arrays(group: Any, name: str) -> Iterator[h5py.Dataset]:
    try:
        member = own_member(group, name)
    except KeyError:
        return
    if isinstance(member, h5py.Dataset):
        yield member
    elif isinstance(member, h5py.Group):
        for part in member:
            yield from _arrays(member, str(part))

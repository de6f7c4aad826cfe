"""What training would refuse, and as much of the dataset as can be had all the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import minari

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.stored_arrays import StoredArrays, read_arrays
from flowrl.errors import InputError
from flowrl.text import named


def load(dataset: minari.MinariDataset) -> tuple[StoredArrays | None, TrajectoryDataset | None, list[str]]:
    """A dataset's arrays and its form for training, as far as each can be had, and what training would refuse."""
    try:
        arrays = read_arrays(dataset)
    except InputError as error:
        return None, None, [str(error), *_shape_refusals(dataset)]
    try:
        return arrays, TrajectoryDataset.from_stored(dataset, arrays), []
    except InputError as error:
        return arrays, None, [str(error)]


def _shape_refusals(dataset: minari.MinariDataset) -> list[str]:
    """What else is wrong than the first thing: how many episodes' arrays disagree in length."""
    file = Path(dataset.storage.data_path) / "main_data.hdf5"
    wrong = []
    try:
        with h5py.File(file, "r") as opened:
            for index in dataset.episode_indices:
                group = opened[f"episode_{int(index)}"]
                length = group["rewards"].shape[0]  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
                # Those of a Dict or Tuple are groups of arrays.
                rows = {
                    (name, array.shape[0]) for name in ("observations", "actions") for array in _arrays(group, name)
                }
                if length == 0 or rows - {("observations", length + 1), ("actions", length)}:
                    wrong.append(int(index))
    except (OSError, KeyError, RuntimeError, AttributeError, IndexError, TypeError):
        return []  # then the first sentence is all there is to know
    if len(wrong) < 2:
        return []
    return [f"{len(wrong):,} episodes in all are empty or disagree in length: {named(wrong)}"]


def _arrays(group: Any, name: str) -> Iterator[h5py.Dataset]:
    found = group.get(name)
    if isinstance(found, h5py.Dataset):
        yield found
    elif isinstance(found, h5py.Group):
        for part in found:
            yield from _arrays(found, str(part))

"""A dataset's `metadata.json`, checked before Minari believes it."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from flowrl.data.hdf5_guard import check_is_file
from flowrl.errors import InputError, cause

NAME = "metadata.json"
LARGEST = 2**24
"""Bytes of the file; the bounds of a space of 10,000 numbers take less than a tenth of it."""
LARGEST_SPACE = 10_000_000
"""Numbers in a space, which Gymnasium allocates as it reads the space."""
EPISODE_BYTES = 256
"""HDF5 needs more than this for a group of five arrays, however short."""
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset_id", "minari_version", "data_format"), (str,)),
    **dict.fromkeys(("observation_space", "action_space"), (str, type(None))),
    **dict.fromkeys(("total_episodes", "total_steps"), (int,)),
    **dict.fromkeys(("author", "author_email", "requirements"), (str, list, type(None))),
    **dict.fromkeys(("ref_min_score", "ref_max_score"), (int, float, type(None))),
}
REQUIRED = ("dataset_id", "minari_version", "data_format", "total_episodes", "total_steps")


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the dataset whose `data` folder this is, as they stand in the file.

    Raises:
        InputError: no file or a huge one; no JSON object, or one nested too deeply; entries that are missing or of the
            wrong type; more episodes than the dataset's files can hold; a space too large to allocate.
    """
    path = folder / NAME
    check_is_file(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes: at most {LARGEST:,} are read")
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise InputError(f"{path} holds no JSON object")
        _check_entries(path, metadata)
        _check_episodes(folder, metadata)
        for name in ("observation_space", "action_space"):
            if metadata.get(name) is not None:
                _check_space(name, json.loads(metadata[name]))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {cause(error)}") from error
    return metadata


def _check_entries(path: Path, metadata: dict[str, Any]) -> None:
    if missing := [name for name in REQUIRED if name not in metadata]:
        raise InputError(f"{path} has no {', '.join(missing)}")
    for name, kinds in KINDS.items():
        value = metadata.get(name)
        # JSON's true is an int to Python.
        if name in metadata and (not isinstance(value, kinds) or isinstance(value, bool)):
            expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            raise InputError(f"{path}: {name} is {str(value)[:80]!r}: it must be of type {expected}")


def _check_episodes(folder: Path, metadata: dict[str, Any]) -> None:
    """Minari makes a list of them before it looks at a single one."""
    for name in ("total_episodes", "total_steps"):
        if metadata[name] < 0:
            raise InputError(f"{folder / NAME}: {name} is {metadata[name]:,}: it must be at least 0")
    file = folder / "main_data.hdf5"
    if metadata["data_format"] == "hdf5" and file.is_file():
        most = file.stat().st_size // EPISODE_BYTES
    else:
        most = sum(1 for entry in folder.iterdir() if entry.is_dir())
    if metadata["total_episodes"] > most:
        raise InputError(
            f"{folder / NAME}: total_episodes is {metadata['total_episodes']:,}: the files beside it cannot hold more"
            f" than {most:,}"
        )


def _check_space(name: str, space: Any) -> None:
    for shape in _shapes(space):
        if not all(isinstance(length, int) and length >= 0 for length in shape) or prod(shape) > LARGEST_SPACE:
            raise InputError(f"the {name.replace('_', ' ')} has a part of shape {str(shape)[:80]}: no agent reads it")


def _shapes(space: Any) -> Iterator[list[Any]]:
    """Those of all boxes in a space as Minari writes it."""
    if isinstance(space, dict):
        if isinstance(space.get("shape"), list):
            yield space["shape"]
        for part in space.values():
            yield from _shapes(part)
    elif isinstance(space, list):
        for part in space:
            yield from _shapes(part)

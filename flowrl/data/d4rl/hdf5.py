"""The arrays of a D4RL HDF5 file, each wholly in the file and of the expected shape, type and values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from flowrl.data.hdf5_guard import check_stored, own_member
from flowrl.errors import InputError, cause

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The arrays of a file by name, and the names of the entries that are not read.

    `observations`, `next_observations` and `actions` (N, size) and `rewards` (N,) are float32 or float64, whichever
    holds what the file has; `terminals` and `timeouts` (N,) bool.

    Raises:
        InputError: no HDF5 file, or a cut one; arrays missing, of shapes, types or lengths that do not fit, with NaN or
            infinity; flags other than 0 and 1.
    """
    if not path.is_file():
        raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}: a D4RL HDF5 file is needed")
    try:
        size = path.stat().st_size
        with h5py.File(path, "r") as file:
            names = list(file)
            missing = [name for name in REQUIRED if name not in names]
            if missing:
                raise InputError(f"no {', '.join(missing)}; it has {listed(names) or 'nothing at all'}")
            stored = {name: _dataset(file, name, size) for name in (*REQUIRED, *OPTIONAL) if name in names}
            _check_shapes({name: item.shape for name, item in stored.items()})
            arrays: dict[str, NDArray[Any]] = {name: item[()] for name, item in stored.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises many kinds for a foreign or broken file
        raise InputError(f"{path} cannot be read as HDF5: {cause(error)}") from error
    try:
        checked = {name: _checked(name, array) for name, array in arrays.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return checked, tuple(name for name in names if name not in arrays)


def listed(names: Sequence[str]) -> str:
    """Names in a row: a foreign file may have thousands, with any bytes in them."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def _dataset(file: h5py.File, name: str, file_size: int) -> h5py.Dataset:
    """The dataset of that name, if this file itself holds every number that it claims."""
    item = own_member(file, name)
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{name} is a group: it must be an array")
    if item.shape is None or item.ndim == 0:
        raise InputError(f"{name} is a single value: it must be an array with one row a step")
    if 0 in item.shape:
        raise InputError(f"{name} are empty: their shape is {item.shape}")
    check_stored(item.id, name, file_size)
    return item


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    rows = shapes["observations"][0]
    for name, shape in shapes.items():
        if name in ("observations", "actions", "next_observations"):
            fits, expected = len(shape) == 2, f"({rows}, size)"
        else:
            fits, expected = shape[1:] in ((), (1,)), f"({rows},)"
        if not fits or shape[0] != rows:
            raise InputError(f"{name} have shape {shape} instead of {expected} for {rows:,} observations")
    if shapes.get("next_observations", shapes["observations"]) != shapes["observations"]:
        raise InputError(
            f"next_observations have shape {shapes['next_observations']}, observations {shapes['observations']}"
        )


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if name in ("terminals", "timeouts"):
        return _flags(name, array.reshape(-1))
    return _numbers(name, array.reshape(-1) if name == "rewards" else array)


def _numbers(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """As float32 or float64, whichever holds what the file has; finite as float32 too."""
    array = array.astype(
        np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64, copy=False
    )
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()  # NaN if one is
    if not (low >= -_FLOAT32_MAX and high <= _FLOAT32_MAX):
        fine = (np.abs(array) <= _FLOAT32_MAX).reshape(len(array), -1).all(1)
        raise InputError(f"{name} hold NaN, infinity or a number beyond float32, first in row {fine.argmin()}")
    return array


def _flags(name: str, array: NDArray[Any]) -> NDArray[np.bool_]:
    if array.dtype.kind == "b":
        array = array.view(np.uint8)  # a file may hold other bytes than 0 and 1 as booleans
    known = (array == 0) | (array == 1)
    if not known.all():
        row = int(known.argmin())
        raise InputError(f"{name} hold {array[row]} in row {row}: they must be 0 or 1")
    return array == 1

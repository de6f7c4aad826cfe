"""A dataset's flat arrays in a `.npz` beside its file: read whole or not at all."""

import zipfile
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowrl.data.partials import replacing, sweep_beside

CACHE_NAME = "flowrl_cache.npz"
CACHE_FORMAT = 2


def load(path: Path, key: str, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """The arrays of those names; None where there is no cache, it has another `key`, or it is damaged in any way."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as opened, zipfile.ZipFile(opened) as file:
            members = {info.filename: info for info in file.infolist()}
            size = path.stat().st_size
            # As `np.savez` writes it: packed members could hold any number of zeros.
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > size for m in members.values()):
                return None
            arrays = {name: _array(file, members[f"{name}.npy"]) for name in ("key", *names)}  # checks the CRC of each
    except Exception:  # a broken zip file raises a dozen kinds
        return None
    return arrays if str(arrays.pop("key")) == key else None


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with file.open(member, "r") as opened:
        shape, dtype = _header(opened)
        if dtype.hasobject or opened.tell() + prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} has another size than its shape")
    with file.open(member, "r") as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)


def _header(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return shape, dtype


def save(path: Path, key: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a cache all or nothing; a read-only folder or a full disk leaves none."""
    sweep_beside(path)
    with suppress(OSError), replacing(path) as partial:
        np.savez(partial, key=np.array(key), **arrays)  # pyright: ignore[reportArgumentType]

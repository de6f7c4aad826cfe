"""Foreign HDF5 files: only arrays of plain numbers are read, and only those that lie wholly in the file itself."""

import math
import os
from pathlib import Path
from typing import Any

import h5py
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]  # its stubs lack it

from flowrl.errors import InputError

INFLATION = 1_100  # no filter of HDF5 makes data smaller than by this (deflate: 1,032): a larger claim is damage
NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.BITFIELD, h5py.h5t.ENUM)  # h5py stores bool as an enumeration
OPEN_GROUPS = 32


def check_is_file(path: Path) -> None:
    """Raise InputError unless `path` is a file or a link to one: to open a pipe may take forever."""
    if not path.is_file():
        raise InputError(f"{path} {'is no file' if os.path.lexists(path) else 'does not exist'}")


class GuardedFile:
    """The arrays of an open HDF5 file, each checked before a number of it is read."""

    def __init__(self, file: h5py.File, size: int) -> None:
        """`size` is the file's, in bytes."""
        self._root = file.id
        self._size = size
        self._held: dict[str, int] = {}
        self._all_held = 0
        self._groups: dict[str, h5py.h5g.GroupID] = {}

    def array(self, path: str, name: str) -> h5py.h5d.DatasetID:
        """The array at `path`.

        Args:
            name: of the array, in messages.

        Raises:
            InputError: a link leads to it; it holds anything but plain numbers; its numbers are not wholly in the file
                (external, virtual or never written), need a filter that is not here, or are also another array's.
            KeyError: nothing is at `path`, or no array.
        """
        where, _, last = path.rpartition("/")
        group = self._group(where, name)
        _check_link(group, last, name)
        stored = h5py.h5d.open(group, last.encode())
        if path not in self._held:
            self._held[path] = check_stored(stored, name, self._size)
            self._all_held += self._held[path]
        if self._all_held > self._size:
            raise InputError(f"{name} are not wholly in the file: other arrays share their storage")
        return stored

    def _group(self, path: str, name: str) -> Any:
        """An open group; the path from the root to it is searched once for all arrays in it."""
        if not path:
            return self._root
        if path not in self._groups:
            where, _, last = path.rpartition("/")
            parent = self._group(where, name)
            _check_link(parent, last, name)
            if len(self._groups) > OPEN_GROUPS:
                self._groups.clear()
            self._groups[path] = h5py.h5g.open(parent, last.encode())
        return self._groups[path]


def _check_link(group: Any, last: str, name: str) -> None:
    if group.links.get_info(last.encode()).type != h5l.TYPE_HARD:
        raise InputError(f"{name} is a link: the file itself must hold it")


def own_member(group: Any, name: str) -> Any:
    """The array or group of that name that a group of h5py itself holds.

    Raises:
        InputError: it is a link.
        KeyError: there is none.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(name)
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{name} is a link: the file itself must hold it")
    return group[name]


def check_stored(stored: h5py.h5d.DatasetID, name: str, file_size: int) -> int:
    """The bytes that an array takes in the file, which holds all of its numbers.

    A broken or malicious file may claim any shape: no more is allocated for it than it can hold, and HDF5's fill values
    are not taken for data.

    Raises:
        InputError: as `GuardedFile.array`.
    """
    kind, shape, layout = stored.get_type(), stored.shape, stored.get_create_plist()
    if kind.get_class() not in NUMBERS or kind.get_size() > 8:
        raise InputError(f"{name} are of type {_type_name(stored)}: they must be numbers")
    if shape is None:
        raise InputError(f"{name} hold nothing: they must be an array")
    item, in_file = kind.get_size(), stored.get_storage_size()
    whole = layout.get_external_count() == 0 and layout.get_layout() != h5py.h5d.VIRTUAL and in_file <= file_size
    packed = 1
    if whole and layout.get_layout() == h5py.h5d.CHUNKED:
        packed = INFLATION if layout.get_nfilters() else 1
        chunk = layout.get_chunk()
        chunks = math.prod(-(-length // part) for length, part in zip(shape, chunk, strict=True))
        chunk_bytes = math.prod(chunk) * item
        written = stored.get_num_chunks() if packed > 1 else in_file // max(chunk_bytes, 1)
        whole = chunk_bytes <= file_size * packed and written >= chunks
    if not whole or math.prod(shape) * item > in_file * packed:
        raise InputError(f"{name} of shape {shape} are not wholly in the file")
    for number in range(layout.get_nfilters()):
        if not h5py.h5z.filter_avail(code := layout.get_filter(number)[0]):
            raise InputError(f"{name} are packed with HDF5's filter {code}, which is not installed here")
    return in_file


def check_memory(needed: int) -> None:
    """Raise InputError where `needed` bytes are more than this machine has: packed zeros may claim any number."""
    try:
        here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return
    if needed > here > 0:
        raise InputError(f"the arrays need {needed / 1e9:,.0f} GB of memory: this machine has {here / 1e9:,.0f} GB")


def _type_name(stored: h5py.h5d.DatasetID) -> str:
    try:
        return str(stored.dtype)[:80]
    except (TypeError, ValueError):  # numpy has no such type
        return "unknown"

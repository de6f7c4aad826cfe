"""The folder of a dataset in Minari's root: put in place whole, by one process at a time, and found after a kill."""

import ctypes
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from minari.namespace import NAMESPACE_METADATA_FILENAME

from flowrl.errors import InputError
from flowrl.files import write_atomically

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def publish(dataset_id: str, partial: Path, root: Path) -> None:
    """Move a dataset, and those of its namespaces that are new, from the root `partial` to `root`.

    A dataset of that id is replaced: whenever the process is killed, the old one or the new one is there and whole.
    Call it inside `publishing`, of the dataset's path.

    Raises:
        OSError: the disk is full or read-only; what was there stays.
    """
    *namespace, _ = dataset_id.split("/")
    levels = ["/".join(namespace[: depth + 1]) for depth in range(len(namespace))]
    for level in levels:  # Minari lists only the folders that have such a file
        description = (root if (root / level).exists() else partial) / level / NAMESPACE_METADATA_FILENAME
        if not description.exists():
            write_atomically(description, b"{}")
    new = next((level for level in levels if not (root / level).exists()), dataset_id)
    _replace(partial / new, root / new)


@contextmanager
def publishing(path: Path, root: Path) -> Iterator[None]:
    """Inside, no other process moves a dataset of that root, and the one at `path` is where it belongs.

    It takes milliseconds, so others wait.
    """
    with _locked(root / ".lock"):
        _bring_back(path)
        yield


@contextmanager
def one_at_a_time(dataset_id: str, root: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process that asks so makes this dataset.

    Args:
        waits: called if another one does, before it is waited for.

    Raises:
        OSError: the root is read-only, or no folder.
    """
    name = hashlib.sha256(dataset_id.encode(errors="surrogatepass")).hexdigest()[:12]
    with _locked(root / f".making-{name}.lock", waits):
        yield


@contextmanager
def _locked(file: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that falls with the process, however it dies; its file is gone afterwards."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waits()
        lock.acquire()
    try:
        yield
    finally:
        # While it is held: who waits for a file that is gone tries again with a new one.
        with suppress(OSError):  # Windows keeps an open file, and filelock removes it there
            file.unlink()
        lock.release()


def restore(path: Path, root: Path) -> None:
    """Bring back the dataset at `path` if a process was killed between moving it away and putting the new one there."""
    if _is_away(path):
        with suppress(OSError), publishing(path, root):
            pass


def restore_all(root: Path) -> None:
    """`restore` of every dataset in the root."""
    for old in root.rglob(_away(root / "*").name):
        restore(old.with_name(old.name.removeprefix(".").removesuffix(".replaced")), root)


def check_writable(folder: Path) -> None:
    """Check that something can be written into a folder, or into the one above it that is there.

    Raises:
        InputError: it cannot.
    """
    folder = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    probe = folder / f".partial-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"datasets cannot be written to {folder}: {error.strerror or error}") from error


def check_free(root: Path, size: int) -> None:
    """Check that the disk of a folder has room for `size` bytes.

    Raises:
        InputError: it has not.
    """
    if (free := shutil.disk_usage(root).free) < size:
        raise InputError(
            f"the disk of {root} is full: {free / 1e6:,.1f} MB are left, and the dataset needs {size / 1e6:,.1f} MB"
        )


def _replace(new: Path, path: Path) -> None:
    """Move a folder to `path`; one that stood there is deleted.

    Where the system cannot exchange two folders at once, the old one waits under a hidden name beside its place until
    the new one is there; `restore` finds it.
    """
    old = _away(path)
    if path.exists() and not _exchanged(new, path):
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
    if not path.exists():
        try:
            os.replace(new, path)
        except BaseException:
            _bring_back(path)
            raise
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(new: Path, path: Path) -> bool:
    """Whether two folders have changed places, in one step that a kill cannot divide; False where that is unknown."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(_HERE, os.fsencode(new), _HERE, os.fsencode(path), _EXCHANGE) == 0


def _away(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _is_away(path: Path) -> bool:
    return not path.exists() and _away(path).exists()


def _bring_back(path: Path) -> None:
    if _is_away(path):
        os.replace(_away(path), path)


def _flush(folder: Path) -> None:
    """Have the folder's entries on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

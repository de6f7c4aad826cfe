"""Reading a file safely, and writing it all or nothing: a kill or a power failure leaves the old file or the new."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a file system says that cannot do it at all; the rest of it works.
_REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EBADF, errno.EROFS}


def read_file(path: Path) -> bytes | None:
    """The content of a regular file; None where there is nothing of that name.

    Raises:
        OSError: it is a folder, a pipe or a device, which could keep a reader waiting for ever, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, and a file is expected", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def write_atomically(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Write a file under a temporary name and rename it: readers see the old file or the new one, whole.

    It is on the disk before it is renamed, so a power failure leaves one of the two as well.

    Args:
        keep: where the old file stays, in the same folder; what lies there is replaced. At every moment the old file
            or the new one is at `path`.

    Raises:
        OSError: the disk is full or read-only; the old file stays and nothing is left behind.
    """
    with _renaming(path.with_name(partial_name(path.name, os.getpid())), path) as partial:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            _keep(path, keep)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a library that writes files itself; at the end of the block it is renamed to `path`.

    It lies in the folder of `path`, which must exist, and has its suffix, by which many libraries choose a format. No
    other process or thread gets the same one. If the block raises, the old file stays and nothing is left behind.
    """
    with _renaming(path.with_name(partial_name(path.stem, uuid.uuid4().hex) + path.suffix), path) as partial:
        yield partial
        flush(partial)


def flush(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk; nothing where there is none.

    Call it for a folder after names in it have changed: until then a power failure can bring the old ones back. Folders
    are left out on Windows, which cannot open them, and on file systems that refuse it.

    Raises:
        OSError: the disk is full or failing.
    """
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as error:
        if folder and error.errno in _REFUSED:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (folder and error.errno in _REFUSED):
            raise
    finally:
        os.close(descriptor)


def partial_name(name: str, process: int | str) -> str:
    """The temporary name under which a process writes the file `name`."""
    return f".{name}.{process}.partial"


@contextmanager
def _renaming(partial: Path, path: Path) -> Iterator[Path]:
    try:
        yield partial
        os.replace(partial, path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _keep(path: Path, kept: Path) -> None:
    """Give the file at `path` the second name `kept`; where the file system has no second names, copy it."""
    partial = kept.with_name(partial_name(kept.name, os.getpid()))
    partial.unlink(missing_ok=True)  # of a killed process: copying would write into the file that it names
    with _renaming(partial, kept):
        try:
            os.link(path, partial)
        except (OSError, NotImplementedError):
            shutil.copyfile(path, partial)
            flush(partial)

"""Writing a file all or nothing."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it: readers see the old file or the new one, whole.

    It is on the disk before it is renamed, so a power failure leaves one of the two as well.

    Raises:
        OSError: the disk is full or read-only; the old file stays and nothing is left behind.
    """
    with _renaming(path.with_name(partial_name(path.name, os.getpid())), path) as partial, open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a library that writes files itself; at the end of the block it is renamed to `path`.

    It lies in the folder of `path`, which must exist, and has its suffix, by which many libraries choose a format. No
    other process or thread gets the same one. If the block raises, the old file stays and nothing is left behind.
    """
    with _renaming(path.with_name(partial_name(path.stem, uuid.uuid4().hex) + path.suffix), path) as partial:
        yield partial


def partial_name(name: str, process: int | str) -> str:
    """The temporary name under which a process writes the file `name`."""
    return f".{name}.{process}.partial"


@contextmanager
def _renaming(partial: Path, path: Path) -> Iterator[Path]:
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

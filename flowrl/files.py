"""Writing a file all or nothing."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it: readers find the old one or the new one, whole.

    Raises:
        OSError: the disk is full or read-only; the old file stands and nothing is left behind.
    """
    partial = path.with_name(partial_name(path.name, os.getpid()))
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_name(name: str, process: int | str) -> str:
    """The temporary name under which a process writes the file `name`."""
    return f".{name}.{process}.partial"

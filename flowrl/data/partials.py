"""Temporary folders and files that say whose they are, so that what a killed process left behind can be removed."""

import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

DAY = 86_400
"""Seconds after which one is left over whoever made it, if nothing was written in it."""
_OWNER = re.compile(r"[.-]([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\b")


def partial_folder(root: Path) -> Path:
    """A new name in `root` for a folder to write a dataset in; it is not created."""
    return root / f".partial-{_owner()}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which it replaces at the end of the block; removed if the block raises."""
    partial = path.with_name(f".{path.stem}.{_owner()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sweep_folders(root: Path) -> None:
    """Remove the temporary folders in `root` that dead processes left."""
    for folder in _listed(root, ".partial-*"):
        if _left_over(folder):
            shutil.rmtree(folder, ignore_errors=True)


def sweep_beside(path: Path) -> None:
    """Remove the temporary files that dead processes left of `path`."""
    for partial in _listed(path.parent, f".{path.stem}.*.partial{path.suffix}"):
        if _left_over(partial):
            with suppress(OSError):
                partial.unlink()


def _owner() -> str:
    return f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@cache
def _machine() -> str:
    """Where a process id means one process: this machine, since it started, in this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def _left_over(path: Path) -> bool:
    owner = _OWNER.search(path.name)
    if owner is not None and owner[1] == _machine() and os.name == "posix":
        return not _alive(int(owner[2]))
    with suppress(OSError):
        return time.time() - _last_written(path) > DAY
    return False  # it is gone, or belongs to somebody else


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # on Windows this would end it
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _last_written(path: Path) -> float:
    return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))

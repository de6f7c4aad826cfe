"""A dataset's fingerprint, kept beside its data and compared whenever they are loaded.

It is written as flowrl writes a dataset, and as it first loads a foreign one. Damaged bytes, edited files and episodes
that Minari added are all noticed. It is no protection from somebody who means harm: anyone can write a new one.
"""

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import minari

from flowrl.data.array_cache import CACHE_FORMAT
from flowrl.data.metadata_file import read_metadata
from flowrl.data.partials import replacing, sweep_beside
from flowrl.data.stored_arrays import StoredArrays
from flowrl.errors import InputError, cause

NAME = "flowrl_fingerprint.json"
LARGEST = 2**20
FOR_READERS = {"description", "author", "author_email", "code_permalink", "dataset_size"}
"""Entries of the metadata that nothing is computed from: they may change."""


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of what training, evaluation and inspection read of a dataset."""

    arrays: str
    """`StoredArrays.fingerprint`, as in a run's configuration."""
    truncations: str
    metadata: dict[str, str]
    """Name of an entry → hash."""
    recorded: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    format: int = CACHE_FORMAT
    """How the arrays are made of the stored ones; those made in another way cannot be compared."""

    @classmethod
    def of(cls, arrays: "StoredArrays", metadata: dict[str, Any]) -> "Fingerprint":
        """That of a whole dataset.

        Args:
            metadata: as they stand in `metadata.json`.
        """
        entries = {name: _hash(json.dumps(metadata[name], sort_keys=True)) for name in metadata.keys() - FOR_READERS}
        return cls(arrays.fingerprint, _hash(arrays.truncations.tobytes()), entries)

    def fits(self, arrays: "StoredArrays") -> bool:
        """Whether a whole dataset's arrays are those that it was recorded of."""
        return (self.arrays, self.truncations) == (arrays.fingerprint, _hash(arrays.truncations.tobytes()))

    def changes(self, now: "Fingerprint") -> list[str]:
        """What is different now, in words."""
        changes = []
        if (self.arrays, self.truncations) != (now.arrays, now.truncations):
            changes.append("the data")
        names = self.metadata.keys() | now.metadata.keys()
        if changed := sorted(name for name in names if self.metadata.get(name) != now.metadata.get(name)):
            changes.append(f"the metadata ({', '.join(changed)})")
        return changes


def verify(dataset: minari.MinariDataset, arrays: "StoredArrays") -> None:
    """Compare a dataset with the fingerprint beside it, or write one where there is none and the folder can be written.

    A part of a dataset is not compared.

    Args:
        arrays: read from the dataset.

    Raises:
        InputError: the data or the metadata have changed since the fingerprint was recorded.
    """
    folder = Path(dataset.storage.data_path)
    metadata = read_metadata(folder)
    if len(dataset.episode_indices) != metadata["total_episodes"]:
        return
    now, known = Fingerprint.of(arrays, metadata), load(folder)
    if known is None:
        save(folder, now)
    elif changes := known.changes(now):
        raise InputError(
            f"dataset {dataset.id} has changed since its fingerprint was recorded ({known.recorded}):"
            f" {' and '.join(changes)} are not the same; restore it, or delete {folder / NAME} if the change was meant"
        )


def record(dataset: minari.MinariDataset, arrays: "StoredArrays") -> None:
    """Write the fingerprint of a dataset that was just written."""
    folder = Path(dataset.storage.data_path)
    save(folder, Fingerprint.of(arrays, read_metadata(folder)))


def load(folder: Path, *, quiet: bool = False) -> Fingerprint | None:
    """The fingerprint in a dataset's folder; None where there is none, or none that can be compared.

    A damaged one says nothing of the data: that is said on stderr, unless `quiet`.
    """
    path = folder / NAME
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        check = content.pop("check")
        if check != _check(content):
            raise ValueError("its checksum is another")
        return Fingerprint(**content) if content["format"] == CACHE_FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if not quiet:
            sentence = f"{path} is damaged ({cause(error)}): the data are not compared, but recorded anew"
            print(f"warning: {sentence}", file=sys.stderr)
        return None


def save(folder: Path, fingerprint: Fingerprint) -> None:
    """Write it all or nothing; a read-only folder or a full disk leaves none."""
    path, content = folder / NAME, asdict(fingerprint)
    text = json.dumps(content | {"check": _check(content)}, indent=1, sort_keys=True)
    sweep_beside(path)
    with suppress(OSError), replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _check(content: dict[str, Any]) -> str:
    return _hash(json.dumps(content, sort_keys=True))


def _hash(content: str | bytes) -> str:
    return hashlib.blake2b(content.encode() if isinstance(content, str) else content, digest_size=16).hexdigest()

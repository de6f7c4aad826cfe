"""The run folder: one training run's configuration, checkpoint and rows, owned by one process at a time.

A run folder holds `config.json`, `checkpoint.pt` (tensors and plain values only), `metrics.jsonl`, `evaluations.jsonl`
and TensorBoard's event files.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowrl.errors import InputError
from flowrl.files import partial_name, write_atomically
from flowrl.training.checkpoint import from_bytes, to_bytes
from flowrl.training.first_wave import is_first_wave_config, upgraded_config
from flowrl.training.rows import EVALUATIONS, METRICS, Row, append_rows, final_rows, read_rows

# What may differ between a run and its resumption: it changes where the numbers are made, not which.
_FREE_TO_CHANGE = {"device", "versions", "commit", "threads", "processes"}
# Replaced by the folder's owner alone.
_OWNED = ("config.json", "checkpoint.pt", METRICS, EVALUATIONS, "study.json")
# What follows from the data, which the fingerprint stands for.
_DERIVED = {"dataset_returns", "observation_size", "action_size"}


class RunFolder:
    """The files of one training run under `path`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder, making it if need be; the lock falls with the process, however it dies.

        Raises:
            InputError: another process owns it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"run folder {self.path} is in use by another process: wait for it or take another"
            ) from None
        try:
            for name in _OWNED:  # what a process left that was killed while it wrote
                for partial in self.path.glob(partial_name(name, "*")):
                    partial.unlink()
            yield
        finally:
            lock.release()

    def config(self) -> dict[str, Any] | None:
        """The run's configuration; None before the run began.

        Raises:
            InputError: the file is no JSON object.
        """
        return upgraded_config(self._stored_config())

    def _stored_config(self) -> dict[str, Any] | None:
        file = self.path / "config.json"
        if not file.exists():
            return None
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is damaged: {error}") from error
        if not isinstance(config, dict):
            raise InputError(f"{file} is damaged: it holds no JSON object")
        return config

    def binding_config(self) -> dict[str, Any] | None:
        """The configuration that whoever goes on must repeat; None before a checkpoint or a final evaluation.

        Raises:
            InputError: a file is damaged.
        """
        config = self.config()
        if (self.path / "checkpoint.pt").exists():
            return config or (self.load() or {}).get("config")
        played = any(row["kind"] == "final" for row in self.rows(EVALUATIONS))
        return config if played else None

    def begin(self, config: dict[str, Any]) -> None:
        """Record the configuration of a new run, or check that it is the one this run began with.

        Raises:
            InputError: the run began with another configuration; the message names what differs.
        """
        if (before := self.binding_config()) is None:
            self.rewind(0)  # rows of whatever was here before are not this run's
            write_atomically(self.path / "config.json", json.dumps(config, indent=2).encode())
            return
        if is_first_wave_config(self._stored_config()):
            raise InputError(
                f"run {self.path} was trained by an earlier flowrl: it can be evaluated, but not resumed; choose"
                " another folder"
            )
        now = json.loads(json.dumps(config))
        if (was := before.get("agent")) != (agent := now.get("agent")):
            raise InputError(f"run folder {self.path} holds a run of agent {was}: choose another folder for {agent}")
        differs = [
            f"{name} was {was!r} and is {value!r}"
            for place, old, new in _differences(before, now)
            if place.partition(".")[0] not in _FREE_TO_CHANGE | _DERIVED
            for name, was, value in (_opened(place, old, new) if place == "env_spec" else [(place, old, new)])
        ]
        if differs:
            raise InputError(
                f"run folder {self.path} began with another configuration ({'; '.join(differs)}):"
                " repeat the options it began with, or choose another folder"
            )
        if not (self.path / "config.json").exists():  # the checkpoint had it
            write_atomically(self.path / "config.json", json.dumps(config, indent=2).encode())

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint, all or nothing."""
        write_atomically(self.path / "checkpoint.pt", to_bytes(checkpoint))

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU; None before the first.

        Raises:
            InputError: the file is damaged.
        """
        file = self.path / "checkpoint.pt"
        return from_bytes(file.read_bytes(), str(file)) if file.exists() else None

    def append(self, name: str, rows: Iterable[Row]) -> None:
        """Append rows to the file `name`, see `append_rows`."""
        append_rows(self.path / name, rows)

    def rows(self, name: str) -> list[Row]:
        """The rows of the file `name`, see `read_rows`."""
        return read_rows(self.path / name)

    def final_rows(self, config: dict[str, Any]) -> list[Row]:
        """The rows of the evaluation that ended the training, see `rows.final_rows`.

        Raises:
            InputError: as `read_rows`; or the configuration is of another version.
        """
        try:
            return final_rows(self.rows(EVALUATIONS), config)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} has no usable evaluation and training settings: it was written by"
                " another version of flowrl"
            ) from error

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps and of a final evaluation: a resumed run writes them again."""
        for name in (METRICS, EVALUATIONS):
            kept = [row for row in self.rows(name) if row["step"] <= step and row.get("kind") != "final"]
            if (self.path / name).exists():
                write_atomically(self.path / name, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _opened(name: str, was: Any, value: Any) -> list[tuple[str, Any, Any]]:
    """What differs within two strings of JSON; the strings themselves, where they are not JSON."""
    parts = []
    with suppress(TypeError, ValueError):
        parts += _differences(json.loads(was), json.loads(value), name)
    return parts or [(name, was, value)]


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of every leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now

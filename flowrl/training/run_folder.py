"""The run folder: one training run's configuration, checkpoint and rows, owned by one process at a time.

A run folder holds `config.json`, `checkpoint.pt` and the one before it, `checkpoint.previous.pt` (tensors and plain
values only), `metrics.jsonl`, `evaluations.jsonl` and TensorBoard's event files.
"""

import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowrl.errors import InputError
from flowrl.files import flush, partial_name, read_file, write_atomically
from flowrl.training import distributed
from flowrl.training.checkpoint import from_bytes, is_whole, to_bytes
from flowrl.training.first_wave import is_first_wave_config, upgraded_config
from flowrl.training.rows import EVALUATIONS, METRICS, Row, append_rows, final_rows, read_rows
from flowrl.training.stored_config import binding_differences, check_kinds, identity
from flowrl.training.stored_json import read_object
from flowrl.training.tracking import warn

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
# Replaced by the folder's owner alone.
_OWNED = ("config.json", CHECKPOINT, PREVIOUS, METRICS, EVALUATIONS, "study.json")


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
            InputError: the file is no JSON object, or an entry is of the wrong kind.
            OSError: it cannot be read.
        """
        if (stored := self._stored_config()) is None:
            return None
        config = upgraded_config(stored)
        check_kinds(config, self.path / "config.json")
        return config

    def _stored_config(self) -> dict[str, Any] | None:
        return read_object(self.path / "config.json")

    def binding_config(self) -> dict[str, Any] | None:
        """The configuration that whoever goes on must repeat; None before a checkpoint or a final evaluation.

        Raises:
            InputError: a file is damaged.
        """
        config = self.config()
        if (self.path / CHECKPOINT).exists():
            return config or (self.load() or {}).get("config")
        played = any(row["kind"] == "final" for row in self.rows(EVALUATIONS))
        return config if played else None

    def begin(self, config: dict[str, Any]) -> None:
        """Record the configuration of a new run, or check that it is the one this run began with.

        Raises:
            InputError: the run began with another configuration; the message names what differs.
        """
        if (before := self.binding_config()) is None:
            if (self.path / PREVIOUS).exists():  # whoever lost the newer one does not want to begin anew
                raise InputError(
                    f"run folder {self.path} has lost its {CHECKPOINT}: rename {PREVIOUS} to {CHECKPOINT} to go on from"
                    " there, or remove it to train anew"
                )
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
        differs = binding_differences(before, now)
        if differs:
            raise InputError(
                f"run folder {self.path} began with another configuration ({'; '.join(differs)}):"
                " repeat the options it began with, or choose another folder"
            )
        if not (self.path / "config.json").exists():  # the checkpoint had it
            write_atomically(self.path / "config.json", json.dumps(config, indent=2).encode())

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint, all or nothing; the last one stays as the previous one, unless it is damaged.

        The rows up to now are on the disk before it.
        """
        for name in (METRICS, EVALUATIONS):
            flush(self.path / name)
        keep = self.path / PREVIOUS if self._newest_is_whole() else None
        write_atomically(self.path / CHECKPOINT, to_bytes(checkpoint), keep=keep)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU, or with a warning the one before if that is damaged; None before the first.

        Raises:
            InputError: both are damaged.
            OSError: it cannot be read.
        """
        newest, previous = self.path / CHECKPOINT, self.path / PREVIOUS
        try:
            content = read_file(newest)
            return None if content is None else from_bytes(content, str(newest))
        except OSError as error:
            if error.errno != errno.EIO:  # not of a failing disk
                raise
            damage = InputError(f"{newest} is damaged: {error.strerror}")
        except InputError as error:
            damage = error
        if (content := read_file(previous)) is None:
            raise damage
        try:
            checkpoint = from_bytes(content, str(previous))
        except InputError as error:
            raise InputError(f"{damage}, and so is {PREVIOUS}") from error
        if distributed.rank() == 0:
            warn(f"{damage}; {PREVIOUS} is taken instead, which is of step {checkpoint['step']:,}")
        return checkpoint

    def _newest_is_whole(self) -> bool:
        try:
            content = read_file(self.path / CHECKPOINT)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return content is not None and is_whole(content, CHECKPOINT)

    def append(self, name: str, rows: Iterable[Row]) -> None:
        """Append rows to the file `name`, see `append_rows`."""
        append_rows(self.path / name, rows)

    def rows(self, name: str) -> list[Row]:
        """The rows of the file `name`, see `read_rows`."""
        return read_rows(self.path / name)

    def named(self, rows: Iterable[Row]) -> list[Row]:
        """Rows of episodes with the name of this run in them: in another run's folder they count for nothing."""
        name = self._name()
        return [row if name is None else row | {"run": name} for row in rows]

    def own_rows(self) -> list[Row]:
        """The rows of episodes that this run's agent played, see `read_rows`; rows of earlier versions name no run."""
        name = self._name()
        return [row for row in self.rows(EVALUATIONS) if row.get("run", name) == name or name is None]

    def _name(self) -> str | None:
        config = upgraded_config(self._stored_config())
        return None if config is None else identity(config)

    def final_rows(self, config: dict[str, Any]) -> list[Row]:
        """The rows of the evaluation that ended the training, see `rows.final_rows`.

        Raises:
            InputError: as `read_rows`; or the configuration is of another version.
        """
        try:
            return final_rows(self.own_rows(), config)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} has no usable evaluation and training settings: it was written by"
                " another version of flowrl"
            ) from error

    def is_finished(self, config: dict[str, Any]) -> bool:
        """Whether nothing is left to train: there is a final evaluation, and the checkpoint is not damaged.

        A checkpoint that was removed is not missed: its episodes are known.

        Raises:
            InputError: as `final_rows`.
        """
        return bool(self.final_rows(config)) and (self._newest_is_whole() or not (self.path / CHECKPOINT).exists())

    def rewind(self, step: int, *, ended: bool = False) -> None:
        """Drop the rows of later steps, of a final evaluation and of other runs: a resumed run writes its own again.

        Args:
            ended: `step` is the last one, at which only the final evaluation is played.
        """
        rows = self.rows(METRICS)
        kept = [row for row in rows if row["step"] <= step and not (ended and row["step"] == step and _of_play(row))]
        self._replace(METRICS, rows, kept)
        rows, own = self.rows(EVALUATIONS), self.own_rows()
        if len(own) < len(rows):
            warn(f"{self.path / EVALUATIONS} holds rows of another run: they are dropped")
        self._replace(EVALUATIONS, rows, [row for row in own if row["step"] <= step and row["kind"] != "final"])

    def _replace(self, name: str, rows: list[Row], kept: list[Row]) -> None:
        if len(kept) < len(rows):
            write_atomically(self.path / name, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _of_play(row: Row) -> bool:
    return any(name.startswith("eval/") for name in row)

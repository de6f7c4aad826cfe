"""The run folder: one training run's configuration, checkpoint and rows, owned by one process at a time.

A run folder holds `config.json`, `checkpoint.pt` (tensors and plain values only), `metrics.jsonl`, `evaluations.jsonl`
and TensorBoard's event files.
"""

import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from flowrl.errors import InputError, cause
from flowrl.files import partial_name, write_atomically

# What may differ between a run and its resumption: it changes where the numbers are made, not which.
_FREE_TO_CHANGE = {"device", "versions", "threads", "processes"}
# Replaced by the folder's owner alone.
_OWNED = ("config.json", "checkpoint.pt", "metrics.jsonl", "evaluations.jsonl", "study.json")
# What a sequence agent did before it could be told otherwise: settings that older runs did not record.
_BEFORE = {
    "attention_options": [],
    "convolution": 0,
    "tokens": "return-observation-action",
    "carry_state": False,
    "acting_context": None,
}
# What a row of these files cannot do without.
_NUMBER = (int, float)
_NEEDED: dict[str, dict[str, Any]] = {
    "metrics.jsonl": {"step": int},
    "evaluations.jsonl": {
        **{"kind": str, "step": int, "env": str, "target": _NUMBER, "seed": int, "return": _NUMBER, "length": int},
        **{"score_d4rl": (*_NUMBER, type(None)), "score_measured": (*_NUMBER, type(None))},
        **{"device": str, "versions": dict},
    },
}
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
        file = self.path / "config.json"
        if not file.exists():
            return None
        try:
            config = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(f"{file} is damaged: {error}") from error
        if not isinstance(config, dict):
            raise InputError(f"{file} is damaged: it holds no JSON object")
        return _completed(config)

    def binding_config(self) -> dict[str, Any] | None:
        """The configuration that whoever goes on must repeat; None before a checkpoint or a final evaluation.

        Raises:
            InputError: a file is damaged.
        """
        config = self.config()
        if (self.path / "checkpoint.pt").exists():
            return config or (self.load() or {}).get("config")
        played = any(row["kind"] == "final" for row in self.rows("evaluations.jsonl"))
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
        now = json.loads(json.dumps(config))
        differs = [
            f"{name} was {was!r} and is {value!r}"
            for place, old, new in _differences(before, now)
            if place.partition(".")[0] not in _FREE_TO_CHANGE | _DERIVED
            for name, was, value in (_opened(place, old, new) if place == "env_spec" else [(place, old, new)])
        ]
        if differs:
            raise InputError(
                f"run folder {self.path} began with another configuration ({'; '.join(differs)}):"
                " repeat the options it was started with, or take another --run-dir (in a comparison another --out)"
            )

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint, all or nothing."""
        buffer = io.BytesIO()  # torch hides a full disk behind its own error when it writes the file itself
        torch.save(checkpoint, buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getbuffer())

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU; None before the first.

        Raises:
            InputError: the file is damaged.
        """
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        content = io.BytesIO(file.read_bytes())
        try:
            checkpoint = torch.load(content, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's message is advice on an argument of its own
            raise InputError(f"{file} is damaged or no checkpoint of flowrl") from error
        except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
            raise InputError(f"{file} is damaged or no checkpoint of flowrl: {cause(error)}") from error
        if not isinstance(checkpoint, dict) or not {"agent", "step", "config", "fingerprint"} <= checkpoint.keys():
            raise InputError(f"{file} is no checkpoint of flowrl")
        return checkpoint | {"config": _completed(checkpoint["config"])}

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows to the JSON-lines file `name`, in one write; a line cut short by a kill goes."""
        with open(self.path / name, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSON-lines file; none if there is no file. A last line cut short by a kill is left out.

        Raises:
            InputError: a line that is not the last is no JSON, or one is no row of such a file.
        """
        file = self.path / name
        if not file.exists():
            return []
        lines = file.read_bytes().splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                if number < len(lines):
                    raise _damaged(file, number, cause(error)) from error
                continue
            if not isinstance(row, dict):
                raise _damaged(file, number, "it is no JSON object")
            for field, kind in _NEEDED.get(name, {}).items():
                if not isinstance(row.get(field, ...), kind):
                    raise _damaged(
                        file, number, f"its {field} is {json.dumps(row[field]) if field in row else 'missing'}"
                    )
            rows.append(row)
        return rows

    def final_rows(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of the evaluation that ended the training of a run so configured; none unless it is whole.

        Whole: each target and environment seed once, played with the weights of the last step.

        Raises:
            InputError: as `rows`; or the configuration is of another version.
        """
        rows = [row for row in self.rows("evaluations.jsonl") if row["kind"] == "final"]
        try:
            evaluation, last = config["evaluation"], config["training"]["steps"]
            first = evaluation["episode_seed"]
            seeds = range(first, first + evaluation["episodes"])
            due = sorted((last, target, seed) for target in evaluation["targets"] for seed in seeds)
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path / 'config.json'} is of another version of flowrl: no {error}") from error
        return rows if sorted((row["step"], row["target"], row["seed"]) for row in rows) == due else []

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps and of a final evaluation: a resumed run writes them again."""
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            kept = [row for row in self.rows(name) if row["step"] <= step and row.get("kind") != "final"]
            if (self.path / name).exists():
                write_atomically(self.path / name, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _completed(config: Any) -> Any:
    """The configuration of a run, with what its version of flowrl did not record yet."""
    agent = config.get("agent_config") if isinstance(config, dict) else None
    if not isinstance(agent, dict) or "attention" not in agent:
        return config
    return config | {"agent_config": _BEFORE | agent}


def _opened(name: str, was: Any, value: Any) -> list[tuple[str, Any, Any]]:
    """What differs within two strings of JSON; the strings, where that cannot be told."""
    parts = []
    with suppress(TypeError, ValueError):
        parts += _differences(json.loads(was), json.loads(value), name)
    return parts or [(name, was, value)]


def _damaged(file: Path, number: int, why: str) -> InputError:
    again = " (a final evaluation without it is played again by scripts.train and scripts.compare)"
    return InputError(
        f"{file} is damaged at line {number} ({why}): remove that line"
        + (again if file.name == "evaluations.jsonl" else "")
    )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of every leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now

"""The rows of a run: JSON lines of metrics and of played episodes, and what each row must hold."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowrl.errors import InputError, cause

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"

Row = dict[str, Any]

_NUMBER = (int, float)
_NUMBER_OR_NONE = (*_NUMBER, type(None))
# The fields of a row, and their types. The target is null where the actor takes none.
_FIELDS: dict[str, dict[str, Any]] = {
    METRICS: {"step": int},
    EVALUATIONS: {
        **{"kind": str, "step": int, "env": str, "target": _NUMBER_OR_NONE, "seed": int},
        **{"return": _NUMBER, "length": int, "score_d4rl": _NUMBER_OR_NONE, "score_measured": _NUMBER_OR_NONE},
        **{"device": str, "versions": dict},
    },
}


def append_rows(file: Path, rows: Iterable[Row]) -> None:
    """Append rows to a file of JSON lines, in one write; a last line that a kill cut short is removed."""
    with open(file, "ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        if stream.read(1) not in (b"", b"\n"):
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def read_rows(file: Path) -> list[Row]:
    """The rows of a file of JSON lines; none if there is no file. A last line that a kill cut short is left out.

    Raises:
        InputError: another line is damaged.
    """
    if not file.exists():
        return []
    lines = file.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise _damaged(file, number, cause(error)) from error
            continue
        if not isinstance(row, dict):
            raise _damaged(file, number, "it is no JSON object")
        for field, kind in _FIELDS.get(file.name, {}).items():
            if not isinstance(row.get(field, ...), kind):
                value = json.dumps(row[field]) if field in row else "missing"
                raise _damaged(file, number, f"its {field} is {value}")
        rows.append(row)
    return rows


def final_rows(rows: list[Row], config: dict[str, Any]) -> list[Row]:
    """The rows of the evaluation that ended the training of a run with that configuration; none unless it is whole.

    Whole: each target and environment seed once (each seed once, if the actor takes no target), played with the weights
    of the last training step.

    Raises:
        KeyError, TypeError: the configuration is of another version.
    """
    evaluation, last = config["evaluation"], config["training"]["steps"]
    first = evaluation["episode_seed"]
    seeds = range(first, first + evaluation["episodes"])
    final = [row for row in rows if row["kind"] == "final"]
    targets = [None] if final and final[0]["target"] is None else sorted(evaluation["targets"])
    expected = [(last, target, seed) for target in targets for seed in seeds]
    played = [(row["step"], row["target"], row["seed"]) for row in final]
    return final if sorted(played, key=repr) == sorted(expected, key=repr) else []


def _damaged(file: Path, number: int, why: str) -> InputError:
    again = " (a final evaluation that lacks it is played again when the run is resumed)"
    return InputError(
        f"{file} is damaged at line {number} ({why}): remove that line" + (again if file.name == EVALUATIONS else "")
    )

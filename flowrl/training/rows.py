"""The rows of a run: JSON lines of metrics and of played episodes, and what each row must hold."""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flowrl.errors import InputError, cause
from flowrl.files import flush, read_file
from flowrl.training.stored_json import is_number, is_whole_number, parse_json

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"

Row = dict[str, Any]
_Kinds = dict[str, Callable[[Any], bool]]


def _is_number_or_none(value: Any) -> bool:
    return value is None or is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _is_speed(value: Any) -> bool:
    return _is_finite(value) and value > 0


# The fields of a row. The target is null where the actor takes none.
_FIELDS: dict[str, _Kinds] = {
    METRICS: {"step": is_whole_number},
    EVALUATIONS: {
        **{"kind": _is_text, "step": is_whole_number, "env": _is_text, "target": _is_number_or_none},
        **{"seed": is_whole_number, "return": is_number, "length": is_whole_number},
        **{"score_d4rl": _is_number_or_none, "score_measured": _is_number_or_none},
        **{"device": _is_text, "versions": _is_object},
    },
}
# Fields that rows of earlier versions lack, or that only some rows have.
_FIELDS_OF_SOME: dict[str, _Kinds] = {
    METRICS: {
        **{"steps_per_second": _is_speed, "cpu_seconds": _is_finite, "eval/seconds": _is_finite},
        **{"memory/peak_bytes": _is_finite, "memory/peak_gpu_bytes": _is_finite},
    },
    EVALUATIONS: {
        **{"env_kwargs": _is_object, "rollout": _is_text_or_none, "acting_context": _is_number_or_none},
        **{"terminated": lambda value: isinstance(value, bool), "run": _is_text},
    },
}


def append_rows(file: Path, rows: Iterable[Row]) -> None:
    """Append rows to a file of JSON lines, in one write; a last line that a kill cut short is removed."""
    with open(file, "ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        if stream.read(1) not in (b"", b"\n"):
            stream.seek(0)
            content = stream.read()
            if _is_cut_short(last := content[content.rfind(b"\n") + 1 :]):
                stream.truncate(len(content) - len(last))
            else:
                stream.write(b"\n")
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    if file.name == EVALUATIONS:  # rare, and dear: a power failure does not take them back
        flush(file)


def read_rows(file: Path) -> list[Row]:
    """The rows of a file of JSON lines; none if there is no file. A last line that a kill cut short is left out.

    Raises:
        InputError: another line is damaged.
        OSError: the file cannot be read.
    """
    *lines, last = (read_file(file) or b"").split(b"\n")
    if not _is_cut_short(last):
        lines.append(last)
    return [_row(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _is_cut_short(last: bytes) -> bool:
    """Whether a line without an end is only a part of a row."""
    try:
        parse_json(last)
    except ValueError:
        return True
    return False


def _row(file: Path, number: int, line: bytes) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise _damaged(file, number, cause(error)) from error
    if not isinstance(row, dict):
        raise _damaged(file, number, "it is no JSON object")
    needed, others = _FIELDS.get(file.name, {}), _FIELDS_OF_SOME.get(file.name, {})
    for field, fits in (needed | others).items():
        if field in row and not fits(row[field]):
            raise _damaged(file, number, f"its {field} is {cut_short(json.dumps(row[field]))}")
        if field in needed and field not in row:
            raise _damaged(file, number, f"its {field} is missing")
    if file.name == METRICS and not all(map(_is_number_or_none, row.values())):
        name = next(name for name, value in row.items() if not _is_number_or_none(value))
        raise _damaged(file, number, f"its {cut_short(name)} is {cut_short(json.dumps(row[name]))}")
    return row


def cut_short(text: str) -> str:
    """A text as far as a message can hold it."""
    return text if len(text) <= 80 else text[:77] + "..."


def final_rows(rows: list[Row], config: dict[str, Any]) -> list[Row]:
    """The rows of the evaluation that ended the training of a run with that configuration; none unless it is whole.

    Whole: each target and environment seed once (each seed once, if the actor takes no target), played with the weights
    of the last training step.

    Raises:
        KeyError, TypeError: the configuration is of another version.
    """
    evaluation, last = config["evaluation"], config["training"]["steps"]
    first, episodes = evaluation["episode_seed"], evaluation["episodes"]
    final = [row for row in rows if row["kind"] == "final"]
    targets = [None] if final and final[0]["target"] is None else sorted(evaluation["targets"])
    if len(final) != len(targets) * episodes:
        return []
    expected = [(last, target, seed) for target in targets for seed in range(first, first + episodes)]
    played = [(row["step"], row["target"], row["seed"]) for row in final]
    return final if sorted(played, key=repr) == sorted(expected, key=repr) else []


def _damaged(file: Path, number: int, why: str) -> InputError:
    again = " (a final evaluation that lacks it is played again when the run is resumed)"
    return InputError(
        f"{file} is damaged at line {number} ({why}): remove that line" + (again if file.name == EVALUATIONS else "")
    )

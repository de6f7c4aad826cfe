"""JSON that a run folder holds, which a disk, an editor or another program may have changed."""

import json
from pathlib import Path
from typing import Any

from flowrl.errors import InputError, cause
from flowrl.files import read_file

_DEEPEST = 50  # levels of nesting
_LARGEST = 64  # bits of a whole number: a seed has as many


def parse_json(content: bytes | str) -> Any:
    """The value in a JSON text, with or without a byte order mark.

    Raises:
        ValueError: it is no JSON, or holds what none of ours does: deep nesting, whole numbers beyond 64 bits, half a
            character.
    """
    try:
        value = json.loads(content, parse_int=_whole_number)
    except RecursionError:
        value = ...
    if value is ... or not _is_shallow(value, _DEEPEST):
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    escape = content.find("\\u") if isinstance(content, str) else content.find(b"\\u")
    if escape >= 0 or not content.isascii():
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text, and cannot be printed
    return value


def read_object(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file.

    Raises:
        InputError: the file is damaged.
        OSError: it cannot be read.
    """
    if (content := read_file(file)) is None:
        return None
    try:
        value = parse_json(content)
    except ValueError as error:
        raise InputError(f"{file} is damaged: {cause(error)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} is damaged: it holds no JSON object")
    return value


def is_whole_number(value: Any) -> bool:
    """Whether it is an int; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, infinite ones and NaN among them; true and false are none."""
    return is_whole_number(value) or isinstance(value, float)


def _whole_number(digits: str) -> int:
    if len(digits) > _LARGEST or (number := int(digits)).bit_length() > _LARGEST:
        raise ValueError(f"a whole number in it has more than {_LARGEST} bits")
    return number


def _is_shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in value)

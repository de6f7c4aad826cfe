"""A run's `config.json` as it is read back: of the right kinds, and what makes two of them the same run."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowrl.errors import InputError
from flowrl.training.stored_json import is_number, is_whole_number, parse_json

# What may differ between a run and its resumption: it changes where the numbers are made, not which.
_FREE_TO_CHANGE = {"device", "versions", "commit", "threads", "processes"}
# What follows from the data, which the fingerprint stands for.
_DERIVED = {"dataset_returns", "recorded", "observation_size", "action_size"}
# What makes the weights of a run: its checkpoint and its rows belong to it where these are the same. Of the dataset it
# is the fingerprint; a name may change.
_TRAINED = ("agent", "agent_config", "training", "seed", "selection", "fingerprint")


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _are_finite(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_finite, value))


def _are_percentiles(value: Any) -> bool:
    return _are_finite(value) and len(value) == 101


def _are_columns(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_whole_number, value))


_Kind = tuple[Callable[[Any], bool], str]
_WHOLE_NUMBER: _Kind = (is_whole_number, "a whole number")
_NUMBER: _Kind = (_is_finite, "a number")
_NUMBERS: _Kind = (_are_finite, "a list of numbers")
_NAME: _Kind = (lambda value: isinstance(value, str), "a name")
_OBJECT: _Kind = (lambda value: isinstance(value, dict), "an object")

# Of which kind an entry must be, where it is there.
_KINDS: dict[tuple[str, ...], _Kind] = {
    ("agent",): _NAME,
    ("agent_config",): _OBJECT,
    ("training", "steps"): _WHOLE_NUMBER,
    ("evaluation", "targets"): _NUMBERS,
    ("evaluation", "episodes"): _WHOLE_NUMBER,
    ("evaluation", "episode_seed"): _WHOLE_NUMBER,
    ("seed",): _WHOLE_NUMBER,
    ("dataset",): _NAME,
    ("selection",): _OBJECT,
    ("fingerprint",): (lambda value: isinstance(value, str), "a text"),
    ("dataset_returns", "percentiles"): (_are_percentiles, "101 numbers"),
    ("dataset_returns", "mean"): _NUMBER,
    ("dataset_returns", "mean_by_step"): _NUMBER,
    ("dataset_returns", "episodes"): _WHOLE_NUMBER,
    ("dataset_returns", "steps"): _WHOLE_NUMBER,
    ("observation_size",): _WHOLE_NUMBER,
    ("observation_columns",): (_are_columns, "a list of whole numbers"),
    ("action_size",): _WHOLE_NUMBER,
    ("discrete_start",): _WHOLE_NUMBER,
    ("env_spec",): (lambda value: isinstance(value, str), "an environment's specification"),
    ("observation_offset",): _NUMBERS,
    ("whole_actions",): _NAME,
    ("recorded",): _OBJECT,
    ("versions",): _OBJECT,
}


def entry(config: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The entry at a path of names; None where there is none."""
    value: Any = config
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def check_kinds(config: dict[str, Any], file: Path) -> None:
    """Raise InputError where an entry of a configuration from `file` is of the wrong kind."""
    for path, (fits, words) in _KINDS.items():
        value = entry(config, path)
        if value is not None and not fits(value):
            raise InputError(
                f"{file} is damaged: its {'.'.join(path)} must be {words}; restore the file, or train the run again"
            )
    _check_offset(config, file)


def _check_offset(config: dict[str, Any], file: Path) -> None:
    offset, size = config.get("observation_offset"), config.get("observation_size")
    if offset is not None and size is not None and len(offset) != size:
        raise InputError(
            f"{file} is damaged: its observation_offset has {len(offset)} numbers, and observations have {size};"
            " restore the file, or train the run again"
        )


def identity(config: dict[str, Any]) -> str:
    """A short digest of what makes a run's weights, by which its rows name it."""
    trained = {name: config.get(name) for name in _TRAINED}
    return hashlib.blake2b(json.dumps(trained, sort_keys=True).encode(), digest_size=8).hexdigest()


def other_run(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What shows that two configurations train other weights, as 'seed is 1, not 0'; None where nothing does."""
    for name in _TRAINED:
        for place, was, is_ in differences(before.get(name), now.get(name), name):
            shown = [f"{place} is {was}, not {is_}"]
            if name == "fingerprint" and before.get("dataset") != now.get("dataset"):
                shown.insert(0, f"dataset is {before.get('dataset')}, not {now.get('dataset')}")
            return ", and its ".join(shown)
    return None


def binding_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What forbids to go on with a run under another configuration, as 'seed was 0 and is 1'."""
    return [
        f"{name} was {was!r} and is {value!r}"
        for place, old, new in differences(before, now)
        if place.partition(".")[0] not in _FREE_TO_CHANGE | _DERIVED
        for name, was, value in (_opened(place, old, new) if place == "env_spec" else [(place, old, new)])
    ]


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of every leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now


def _opened(name: str, was: Any, value: Any) -> list[tuple[str, Any, Any]]:
    """What differs within two strings of JSON; the strings themselves, where they are not JSON."""
    parts = []
    with suppress(TypeError, ValueError):
        parts += differences(parse_json(was), parse_json(value), name)
    return parts or [(name, was, value)]

"""Values given from Python, checked against the types of the options that they are for."""

import operator
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from flowrl.errors import InputError

_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


def value_for(name: str, hint: Any, given: Any) -> Any:
    """`given` as a value of the type `hint`; values of types that are not checked here are returned as they are.

    A tuple of words takes any sequence, also of numbers, a single word, and a mapping as NAME=VALUE words.

    Raises:
        InputError: it is of another type; the message names the option, the value and what is allowed.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return value_for(name, part, given)
            except InputError:
                continue
    elif origin is Literal:
        if given in parts:
            return given
    elif origin is tuple and parts[1:] == (...,):
        return tuple(value_for(name, parts[0], part) for part in _parts(given, parts[0]))
    elif hint is types.NoneType:
        if given is None:
            return None
    elif hint not in _NAMES:
        return given
    else:
        try:
            return _plain(hint, given)
        except (TypeError, ValueError):
            pass
    raise InputError(f"{name} is {given!r}: it must be {_described(hint)}")


def _parts(given: Any, kind: Any) -> list[Any]:
    if isinstance(given, Mapping):
        return [f"{name}={value!r}" for name, value in given.items()]
    parts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    return [str(part) if kind is str else part for part in parts]


def _plain(kind: type, given: Any) -> Any:
    if kind is bool or isinstance(given, bool):
        if kind is bool and isinstance(given, bool):
            return given
        raise TypeError
    if kind is int:
        return operator.index(given)
    if kind is float:
        if isinstance(given, str):
            raise TypeError
        return float(given)
    if kind is Path:
        return Path(given)
    if not isinstance(given, str):
        raise TypeError
    return given


def _described(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(part) for part in parts)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    return "None" if hint is types.NoneType else _NAMES.get(hint, str(hint))

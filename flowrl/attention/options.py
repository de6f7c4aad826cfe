"""The options of an attention in words, NAME=VALUE, as configurations and command lines have them."""

import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flowrl.attention.multihead import CausalAttention


def read_options(rule: type[CausalAttention], words: Iterable[str]) -> dict[str, Any]:
    """The keyword arguments that "NAME=VALUE", or "NAME" for one that is true or false, stand for.

    Args:
        rule: whose constructor takes them: those after its `*`.

    Raises:
        ValueError: there is no such option, or the value is not of its type.
    """
    hints = get_type_hints(rule.__init__)
    known = _options(rule)
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in known:
            allowed = f"known are {', '.join(sorted(known))}" if known else "it has none"
            raise ValueError(f"{rule.__name__} has no option {name!r}: {allowed}")
        if name in options:
            raise ValueError(f"option {name} of {rule.__name__} is given twice")
        if name not in hints:
            raise ValueError(f"option {name} of {rule.__name__} has no type: its constructor must give it one")
        options[name] = _read(hints[name], value if equals else "true", f"option {name} of {rule.__name__}")
    return options


def write_options(rule: type[CausalAttention], options: Mapping[str, Any]) -> tuple[str, ...]:
    """The words for options, in the constructor's order and without what is its default."""
    given = [(name, options[name]) for name, default in _options(rule).items() if options.get(name, default) != default]
    return tuple(name if value is True else f"{name}={str(value).lower()}" for name, value in given)


def _options(rule: type[CausalAttention]) -> dict[str, Any]:
    """The defaults of the options by name."""
    return {name: p.default for name, p in inspect.signature(rule).parameters.items() if p.kind is p.KEYWORD_ONLY}


def _read(kind: Any, value: str, what: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):  # of a type and None, which is the default
        (kind,) = (k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is Literal:
        allowed = {str(choice): choice for choice in get_args(kind)}
    elif kind is bool:
        allowed = {"true": True, "false": False}
    else:
        try:
            read = kind(value)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ValueError(f"{what} is {value!r}: it must be {number}") from None
        if kind is int and not 0 <= read < 2**31:
            raise ValueError(f"{what} is {value}: it must be at least 0 and below 2^31")
        return read
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}: known are {', '.join(allowed)}")
    return allowed[value]

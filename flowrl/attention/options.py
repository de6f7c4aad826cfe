"""The options of an attention in words, NAME=VALUE, as configurations and command lines have them."""

import inspect
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flowrl.attention.multihead import CausalAttention


def read_options(rule: type[CausalAttention], words: Iterable[str]) -> dict[str, Any]:
    """The keyword arguments that "NAME=VALUE", or "NAME" for one that is true or false, stand for.

    Args:
        rule: whose constructor takes them: those after its `*`.

    Raises:
        ValueError: there is no such option, or the value is not of its type.
    """
    known = {name for name, p in inspect.signature(rule).parameters.items() if p.kind is p.KEYWORD_ONLY}
    hints = get_type_hints(rule.__init__)
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in known:
            allowed = f"known are {', '.join(sorted(known))}" if known else "it has none"
            raise ValueError(f"{rule.__name__} has no option {name!r}: {allowed}")
        if name in options:
            raise ValueError(f"option {name} of {rule.__name__} is given twice")
        options[name] = _read(hints[name], value if equals else "true", f"option {name} of {rule.__name__}")
    return options


def _read(kind: Any, value: str, what: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):  # of a type and None, which is the default
        (kind,) = (k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is Literal:
        allowed = {str(choice): choice for choice in get_args(kind)}
    elif kind is bool:
        allowed = {"true": True, "false": False}
    else:
        try:
            return kind(value)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ValueError(f"{what} is {value!r}: it must be {number}") from None
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}: known are {', '.join(allowed)}")
    return allowed[value]

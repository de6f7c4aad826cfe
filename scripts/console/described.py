"""How `--help` shows a (nested) dataclass: a field is an option, a nested one a group of them."""

import ast
import inspect
import textwrap
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

TITLES = {"config": "agent", "playing": "play"}
"""Field of a nested dataclass → the title of its group, where that is another word."""


def registry() -> ConstructorRegistry:
    """tyro's constructors, with ours for dataclasses."""
    made = ConstructorRegistry()
    made.struct_rule(_dataclass)
    return made


def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """tyro breaks a docstring where it is indented, and shows `(default: )` and `{None}|INT`."""
    if not is_dataclass(info.type):
        return None
    hints = get_type_hints(info.type, include_extras=True)
    described = (
        StructFieldSpec(
            field.name, _shown(field.name, hints[field.name], default), default, helptext=_helps(info.type, field.name)
        )
        for field in fields(info.type)
        for default in [_default(field, info.default)]
    )
    return StructConstructorSpec(info.type, tuple(described))


def _default(field: Field[Any], given: Any) -> Any:
    if is_dataclass(given):
        return getattr(given, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return tyro.MISSING_NONPROP if field.default is MISSING else field.default


def _shown(name: str, hint: Any, default: Any) -> Any:
    if is_dataclass(default):
        return Annotated[type(default), tyro.conf.arg(name=TITLES.get(name, name), prefix_name=False)]
    return Annotated[hint, tyro.conf.arg(metavar=_metavar(hint), help_behavior_hint=_default_hint)]


def _default_hint(label: str) -> str:
    return "" if label in ("", "None") else f"(default: {label})"


def _metavar(hint: Any) -> str | None:
    """Of a type or None: the type's; None for others, which tyro writes well."""
    if get_origin(hint) not in (Union, types.UnionType) or types.NoneType not in get_args(hint):
        return None
    kind, *others = (each for each in get_args(hint) if each is not types.NoneType)
    if others:
        return None
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return kind.__name__.upper() if kind in (str, int, float, Path) else None


def _helps(cls: type, name: str) -> str | None:
    """The docstring below a field, as one line."""
    return next((docs[name] for base in cls.__mro__ if name in (docs := _field_docs(base))), None)


@cache
def _field_docs(cls: type) -> Mapping[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # a class that is in no file
        return {}
    if not isinstance(definition, ast.ClassDef):
        return {}
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }

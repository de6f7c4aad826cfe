"""Code that a text names, as in `module:Class`: whose it is and where it lies, found out without running any of it."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Literal, NamedTuple

from flowrl.errors import cause

__all__ = ["Location", "Owner", "binding", "locate"]

Owner = Literal["Python", "gymnasium", "flowrl", "plug-in", "library", "own"]

_INSTALLED = {"site-packages", "dist-packages"}  # the folders that packages are installed into
_PLUGS_INTO = {"gymnasium", "flowrl"}


class Location(NamedTuple):
    """Where a module lies."""

    owner: Owner
    """A plug-in is an installed package that requires Gymnasium or flowrl, a library any other installed one, and own
    what is found elsewhere on Python's search path."""
    file: Path | None
    """None where it has no file, as a module that was made in memory."""
    packages: tuple[Path, ...]
    """The folders of the outermost package that it is in; none for a file of its own."""


def locate(module: str) -> Location:
    """Where a module would be imported from.

    Args:
        module: its dotted name.

    Raises:
        ModuleNotFoundError: there is none.
    """
    top, *inner = module.split(".")
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return Location("Python", None, ())
    spec, name = _found(top, None), top
    packages = tuple(Path(folder).resolve() for folder in _folders(top, spec))
    for part in inner:
        folders, name = _folders(name, spec), f"{name}.{part}"
        spec = _found(name, folders)
    origin = getattr(sys.modules.get(name), "__file__", None) or (spec.origin if spec and spec.has_location else None)
    file = None if origin is None else Path(origin).resolve()
    return Location(_owner(top, file, packages), file, packages)


def _found(name: str, folders: Iterable[str] | None) -> ModuleSpec | None:
    """What Python's import system knows of a module; None of a module in memory, of which it knows nothing.

    Args:
        folders: of the package that it is in.
    """
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    # Of an inner module importlib's `find_spec` would import the package that it is in, and the finder of paths would
    # look for that package among those loaded; by its last part alone it is found in these folders.
    last = name.rpartition(".")[2]
    spec = importlib.util.find_spec(name) if folders is None else PathFinder.find_spec(last, list(folders))
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return spec


def _folders(name: str, spec: ModuleSpec | None) -> list[str]:
    """Where a package's modules are looked for; empty for a module that is no package."""
    loaded = getattr(sys.modules.get(name), "__path__", None)
    return list(loaded or (spec.submodule_search_locations if spec else None) or ())


@cache
def _owner(top: str, file: Path | None, packages: tuple[Path, ...]) -> Owner:
    if top in ("gymnasium", "flowrl"):
        return top
    if file is None:
        return "own"
    installed = bool({part.lower() for part in file.parts} & _INSTALLED)
    if not installed and file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve()):
        return "Python"
    # `pip install --target FOLDER` notes beside a package that it was installed.
    if installed or any((packages[0] if packages else file).parent.glob("*.dist-info")):
        return "plug-in" if any(map(_plugs_in, _distributions().get(top, ()))) else "library"
    return "own"


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _plugs_in(distribution: str) -> bool:
    """Whether it requires Gymnasium or flowrl always, not as an extra."""
    wanted = (text for text in importlib.metadata.requires(distribution) or () if "extra ==" not in text)
    names = (re.match(r"[\w.-]+", text) for text in wanted)
    return any(name is not None and name[0].lower() in _PLUGS_INTO for name in names)


def binding(file: Path, name: str) -> Literal["function", "other"] | None:
    """What the top level of a module gives a name to: a `def`, something else (a class, an import), or None.

    Raises:
        ImportError: the file is no readable Python.
    """
    try:
        tree = ast.parse(file.read_bytes())
        kinds = {kind for bound, kind in _bindings(tree.body) if bound in (name, "*")}
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ImportError(f"{file} cannot be read as Python: {cause(error)}") from error
    return "other" if "other" in kinds else "function" if kinds else None


def _bindings(statements: Iterable[ast.AST]) -> Iterator[tuple[str, Literal["function", "other"]]]:
    """Every name that statements bind, also those in their branches."""
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, "function"
        elif isinstance(node, ast.ClassDef):
            yield node.name, "other"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], "other"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, "other"
        else:
            yield from _bindings(ast.iter_child_nodes(node))

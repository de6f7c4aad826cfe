"""Whether code that a dataset or a run folder names may be run: environments, their wrappers, and agents.

A specification of an environment is text in a file, and `gymnasium.make` calls whatever it names, with whatever
arguments: `os:system` as well as a class. So a stored name is run only if its code was here before the data came:

- the entry point of an id that is registered with Gymnasium;
- a class that extends `gymnasium.Env`, of Gymnasium, flowrl, an installed package that requires Gymnasium, or the
  user's own modules on Python's search path. Modules of Python itself, of other packages, and those that lie with the
  data are never imported for it, and nothing is called before it is known to be such a class;
- a wrapper likewise, of Gymnasium, flowrl or the user's own modules, unless it writes files;
- an agent `module:Name` of such a module.

What the user names (env, an agent on the command line) is the user's own word and is not checked.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RecordVideo

from flowrl.errors import InputError, cause
from flowrl.evaluation.named_code import Location, binding, locate

__all__ = ["NotTrusted", "check_agent", "check_spec", "trusting", "vouch"]

_NAME = re.compile(r"([^\W\d][\w-]*(?:\.[\w-]+)*):([^\W\d]\w*)")
_SHOWN = 100  # characters of an entry point in a message
_UNLESS = "it is not run unless you trust where it comes from (trust)"


class NotTrusted(InputError):
    """A stored file names code that is not run unless the user allows it."""


@dataclass(frozen=True)
class _Rule:
    everything: bool = False
    stored: tuple[Path, ...] = ()
    """Folders that came with the data."""
    vouched: list[str] | None = None
    """Entry points of the user's own word; None outside of any `trusting`."""


_STRICT = _Rule()
_rule: ContextVar[_Rule] = ContextVar("what may be run", default=_STRICT)


@contextmanager
def trusting(trust: bool, *stored: Path | str) -> Iterator[None]:
    """Inside, all code that stored files name is run if `trust` says so, or did so around this.

    Args:
        stored: the folders of the datasets and runs at hand: code in them is not the user's own.
    """
    outer = _rule.get()
    folders = (*outer.stored, *(Path(folder).resolve() for folder in stored))
    token = _rule.set(_Rule(trust or outer.everything, folders, list(outer.vouched or ())))
    try:
        yield
    finally:
        _rule.reset(token)


def vouch(spec: EnvSpec) -> None:
    """Take a specification for the user's own word within the present `trusting`."""
    if (vouched := _rule.get().vouched) is not None:
        vouched.extend(entry for entry, _ in _entries(spec) if isinstance(entry, str))


def check_spec(spec: EnvSpec) -> None:
    """Check that making an environment runs no code but such as may be run, see this module.

    Raises:
        NotTrusted: it would run other code.
        ImportError: a module that it names is not here or cannot be imported.
    """
    rule = _rule.get()
    if rule.everything:
        return
    if ":" in spec.id:
        raise NotTrusted(f"environment {_shown(spec.id)} names a module in its id: {_UNLESS}")
    for entry, kind in _entries(spec):
        if entry is None or callable(entry):  # made in this process: no file can hold it
            continue
        if entry in (rule.vouched or ()) or _is_registered(entry, kind):
            continue
        if (why := _objection(entry, kind)) is not None:
            what = "a wrapper" if kind is gym.Wrapper else "its entry point"
            raise NotTrusted(f"environment {_shown(spec.id)} has {_shown(entry)} as {what}, {why}: {_UNLESS}")


def check_agent(name: str) -> None:
    """Check that loading the agent `module:Name` of a run folder imports no module but such as may be run.

    Raises:
        NotTrusted: it would.
        InputError: there is no such module.
    """
    if ":" not in name or _rule.get().everything:
        return
    try:
        parts = _NAME.fullmatch(name)
        why = "which is not of the form module:Name" if parts is None else _agents_objection(*parts.groups())
    except ImportError as error:
        raise InputError(f"agent {_shown(name)} cannot be imported: {cause(error)}") from error
    if why is not None:
        raise NotTrusted(f"the run names {_shown(name)} as its agent, {why}: {_UNLESS}")


def _entries(spec: EnvSpec) -> list[tuple[Any, type]]:
    """All that a specification names, and what each must be a class of."""
    wrappers = [(wrapper.entry_point, gym.Wrapper) for wrapper in spec.additional_wrappers]
    return [(spec.entry_point, gym.Env), (spec.vector_entry_point, VectorEnv), *wrappers]


def _is_registered(entry: Any, kind: type) -> bool:
    """Whether Gymnasium knows it, of any id."""
    specs = gym.registry.values()
    known = (other for spec in specs for other, other_kind in _entries(spec) if other_kind is kind)
    return any(entry == (_name_of(other) if callable(other) else other) for other in known)


def _name_of(made: Any) -> str:
    """A run keeps the name of a class that was registered as the class itself."""
    return f"{getattr(made, '__module__', '')}:{getattr(made, '__qualname__', '')}"


def _objection(entry: Any, kind: type) -> str | None:
    """Why a stored entry point may not be run; None where it may. Raises ImportError as `check_spec`."""
    if not (isinstance(entry, str) and (parts := _NAME.fullmatch(entry))):
        return "which is not of the form module:Class"
    module, name = parts.groups()
    place = locate(module)
    if (why := _owners_objection(module, place)) is not None:
        return why
    if kind is gym.Wrapper and place.owner == "plug-in":
        return "which is a wrapper of neither Gymnasium nor your own modules"
    if kind is VectorEnv:  # it is never made here
        return None
    if place.owner == "own" and (why := _own_objection(module, name, place)) is not None:
        return why
    value = _imported(module, name)
    if _is_registered(entry, kind):  # by the package that it is in
        return None
    if not (isinstance(value, type) and issubclass(value, kind)):
        return f"which is no class that extends gymnasium.{kind.__name__}"
    if kind is gym.Env and issubclass(value, gym.Wrapper):
        return "which is a wrapper"
    return "which writes files" if issubclass(value, RecordVideo) else None


def _agents_objection(module: str, name: str) -> str | None:
    place = locate(module)
    if place.owner == "library" and module in sys.modules:  # the user's own word has imported it
        return None
    if (why := _owners_objection(module, place)) is not None or place.owner != "own":
        return why
    return _own_objection(module, name, place)


def _owners_objection(module: str, place: Location) -> str | None:
    """Why no module of that owner or in that place is imported."""
    if module.endswith(".__main__"):
        return "which is a program"
    if place.owner == "Python":
        return "which belongs to Python itself"
    if place.owner == "library":
        return f"which belongs to {module.partition('.')[0]}, a package that is no plug-in"
    if place.owner != "own" or place.file is None:
        return None
    stored = _rule.get().stored
    inside = any(place.file.is_relative_to(folder) for folder in (*stored, _minari_root()))
    # A package around the data came with them, as from an archive that was unpacked here.
    around = any(folder.is_relative_to(package) for folder in stored for package in place.packages)
    return f"whose code lies with the data ({place.file})" if inside or around else None


def _minari_root() -> Path:
    """As Minari has it, which would make the folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").resolve()


def _own_objection(module: str, name: str, place: Location) -> str | None:
    """Why a module of the user's own is not imported for this name: importing a script would run it."""
    if module in sys.modules or place.file is None:
        return None
    if (bound := binding(place.file, name)) is None:
        raise ImportError(f"{place.file} has no {name}")
    return "which is a function" if bound == "function" else None


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        raise
    except Exception as error:  # a module's own code may raise anything
        raise ImportError(f"{module}:{name} cannot be imported: {cause(error)}") from error


def _shown(text: Any) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."

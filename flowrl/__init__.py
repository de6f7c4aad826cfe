"""Offline reinforcement learning with causal Flow-Attention."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrl.version import __version__

# Where a checkout has no links (Windows), agents, envs and scripts are beside this folder.
if not (Path(__file__).parent / "agents").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

import flowrl.envs  # noqa: F401  (registers our own environments with Gymnasium)

if TYPE_CHECKING:
    from flowrl.api import compare, evaluate, load_policy, train

_FUNCTIONS = ("compare", "evaluate", "load_policy", "train")
__all__ = ["__version__", "compare", "evaluate", "load_policy", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `flowrl.api`, imported when they are first used: they bring torch and all agents."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("flowrl.api"), name)
    raise AttributeError(f"module 'flowrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

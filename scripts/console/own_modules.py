"""A user's own module `envs`, `agents` or `scripts` is found where a checkout of flowrl has folders of these names.

flowrl itself imports flowrl.envs and so on, never the bare names. With `python -m scripts.train` the checkout stands
first on the search path all the same, and in front of the module that a dataset or an option names (`envs.own:Mine`).
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("agents", "envs", "scripts")


class OwnModules:
    """A finder of these names that leaves out checkouts of flowrl; where nothing else has one, Python's own go on."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name not in NAMES or path is not None:
            return None
        found = PathFinder.find_spec(name, [place for place in sys.path if not _is_checkout(place)], target)
        if found is not None:
            return found
        for finder in sys.meta_path:  # such as that of an editable installation
            if finder not in (OwnModules, PathFinder) and (found := finder.find_spec(name, None, target)) is not None:
                return found
        return None


def prefer_own_modules() -> None:
    """From now on a user's own modules come before the checkout's folders; calling it again changes nothing."""
    if OwnModules in sys.meta_path:
        return
    sys.meta_path.insert(0, OwnModules)
    for name in NAMES:  # `python -m scripts.train` has imported the checkout's `scripts`
        module = sys.modules.get(name)
        if module is not None and _of_checkout(module) and OwnModules.find_spec(name) is not None:
            del sys.modules[name]


def _is_checkout(place: str) -> bool:
    root = Path(place)  # the empty place is the working directory
    return (root / "flowrl" / "version.py").is_file() and (root / "envs" / "tiny.py").is_file()


def _of_checkout(module: ModuleType) -> bool:
    return any(_is_checkout(str(Path(place).parent)) for place in getattr(module, "__path__", ()))

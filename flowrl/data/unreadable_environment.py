"""Datasets whose stored environment cannot be read: they are opened as if they named none, and say why."""

from pathlib import Path
from typing import Any, ClassVar

import minari
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

from flowrl.data.stored_spec import make_specs_readable, without_old_fields
from flowrl.errors import InputError, kind_and_cause

__all__ = ["environment_problem", "open_without_environment", "read_spec"]

_STORED = ("env_spec", "eval_env_spec")


def read_spec(text: Any) -> EnvSpec:
    """The specification that a JSON text holds, also where another version of Gymnasium wrote it.

    Raises:
        InputError: it cannot be read, in the words of the error alone.
    """
    try:
        spec = EnvSpec.from_json(without_old_fields(text))
    except Exception as error:  # JSON of any shape meets a dataclass
        raise InputError(kind_and_cause(error.__cause__ or error)) from error
    if not isinstance(spec.kwargs, dict):
        raise InputError(f"its kwargs are {spec.kwargs!r}")
    return spec


def open_without_environment(path: Path) -> minari.MinariDataset | None:
    """Open a dataset whose environment cannot be read; None where every environment that it names can be.

    Raises:
        Exception: whatever Minari raises where more is wrong.
    """
    stored = MinariStorage.read_raw_metadata(path)
    problems = {}
    for name in _STORED:
        try:
            if stored.get(name) is not None:
                read_spec(stored[name])
        except InputError as error:
            problems[name] = str(error)
    if not problems:
        return None
    storage = MinariStorage.read(path)
    kind = type(type(storage).__name__, (_WithoutEnvironment, type(storage)), {"problems": problems})
    return minari.MinariDataset(
        make_specs_readable(
            kind(
                storage.data_path, storage.observation_space, storage.action_space, jpeg_encoding=storage.jpeg_encoding
            )
        )
    )


def environment_problem(dataset: minari.MinariDataset) -> str | None:
    """Why an environment that the dataset names cannot be read; None where there is no such."""
    return next(iter(getattr(dataset.storage, "problems", {}).values()), None)


class _WithoutEnvironment(MinariStorage):
    """Keeps from Minari what it cannot read."""

    problems: ClassVar[dict[str, str]] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        return {name: value for name, value in super().metadata.items() if name not in self.problems}

"""The environments that a dataset's metadata name, made readable for this Gymnasium, or left out with the reason.

Minari reads both specifications as it opens a dataset, and cannot open it where one cannot be read. Another version of
Gymnasium may have written fields that this one gave up; these are taken out. An environment that cannot be read for
another reason is kept from Minari, so that the data can be used in an environment that the user chooses.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import minari
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

from flowrl.errors import InputError, kind_and_cause

__all__ = ["environment_problem", "open_stored", "read_spec"]

_STORED = ("env_spec", "eval_env_spec")
_GONE = {"autoreset", "apply_api_compatibility"} - {field.name for field in fields(EnvSpec)}


def open_stored(path: Path) -> minari.MinariDataset:
    """Open the dataset in a folder; one whose environment cannot be read as if it named none.

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
    storage = MinariStorage.read(path)
    kind = type(storage)
    storage.__class__ = type(kind.__name__, (_ReadableSpecs, kind), {"problems": problems})
    return minari.MinariDataset(storage)


def environment_problem(dataset: minari.MinariDataset) -> str | None:
    """Why an environment that the dataset names cannot be read; None where there is no such."""
    return next(iter(getattr(dataset.storage, "problems", {}).values()), None)


def read_spec(text: Any) -> EnvSpec:
    """The specification that a JSON text holds, also where another version of Gymnasium wrote it.

    Raises:
        InputError: it cannot be read, in the words of the error alone.
    """
    try:
        spec = EnvSpec.from_json(_without_old_fields(text))
    except Exception as error:  # JSON of any shape meets a dataclass
        raise InputError(kind_and_cause(error.__cause__ or error)) from error
    if not isinstance(spec.kwargs, dict):
        raise InputError(f"its kwargs are {spec.kwargs!r}")
    return spec


class _ReadableSpecs(MinariStorage):
    """Shows Minari the specifications that it can read, in a form that it can."""

    problems: ClassVar[dict[str, str]] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the dataset."""
        known = {name: value for name, value in super().metadata.items() if name not in self.problems}
        texts = {name: known[name] for name in _STORED if isinstance(known.get(name), str)}
        return known | {name: _without_old_fields(text) for name, text in texts.items()}


def _without_old_fields(text: str) -> str:
    """A specification as JSON; as it is where it is no JSON object, which Minari then says.

    Minari takes the fields of `_GONE` out where they are false, and cannot open the dataset where they are not.
    """
    try:
        spec = json.loads(text)
    except ValueError:
        return text
    if not isinstance(spec, dict) or not spec.keys() & _GONE:
        return text
    return json.dumps({name: value for name, value in spec.items() if name not in _GONE})

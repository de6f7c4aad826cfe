"""Environment specifications as other versions of Gymnasium stored them, made readable for this one."""

import json
from dataclasses import fields
from typing import Any

from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

_GONE = {"autoreset", "apply_api_compatibility"} - {field.name for field in fields(EnvSpec)}


def make_specs_readable(storage: MinariStorage) -> MinariStorage:
    """The storage of a dataset, whose specifications have no field that Gymnasium gave up.

    Minari takes `autoreset` and `apply_api_compatibility` out where they are false, and cannot open the dataset where
    they are not.
    """
    kind = type(storage)

    class Readable(kind):
        """The same, with other metadata."""

        @property
        def metadata(self) -> dict[str, Any]:
            """Metadata of the dataset."""
            known = super().metadata
            texts = {name: known[name] for name in ("env_spec", "eval_env_spec") if isinstance(known.get(name), str)}
            return known | {name: without_old_fields(text) for name, text in texts.items()}

    storage.__class__ = Readable
    return storage


def without_old_fields(text: str) -> str:
    """A specification as JSON; as it is where it is no JSON object, which Minari then says."""
    try:
        spec = json.loads(text)
    except ValueError:
        return text
    if not isinstance(spec, dict) or not spec.keys() & _GONE:
        return text
    return json.dumps({name: value for name, value in spec.items() if name not in _GONE})

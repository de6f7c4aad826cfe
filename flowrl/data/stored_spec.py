"""Environment specifications as other versions of Gymnasium stored them, made readable for this one."""

import json
from dataclasses import fields
from typing import Any

from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage

_KNOWN = {field.name for field in fields(EnvSpec) if field.init}


def make_specs_readable(storage: MinariStorage) -> MinariStorage:
    """The storage of a dataset, whose specifications have no field that this Gymnasium does not know.

    Older ones had `autoreset` and `apply_api_compatibility`, which Minari takes out where they are false; with another
    value it cannot open the dataset.
    """
    kind = type(storage)

    class Readable(kind):
        """The same, with other metadata."""

        @property
        def metadata(self) -> dict[str, Any]:
            """Metadata of the dataset."""
            known = super().metadata
            texts = {name: known[name] for name in ("env_spec", "eval_env_spec") if isinstance(known.get(name), str)}
            return known | {name: without_unknown(text) for name, text in texts.items()}

    storage.__class__ = Readable
    return storage


def without_unknown(text: str) -> str:
    """A specification as JSON; as it is where it is no JSON object, which Minari then says."""
    try:
        spec = json.loads(text)
    except ValueError:
        return text
    if not isinstance(spec, dict) or spec.keys() <= _KNOWN:
        return text
    return json.dumps({name: value for name, value in spec.items() if name in _KNOWN})

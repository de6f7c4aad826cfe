"""Everything that an inspection says about a dataset, and the same as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import minari

from flowrl.data.stored_environments import environment_problem
from flowrl.inspection.alignment import Alignment
from flowrl.inspection.references import References
from flowrl.inspection.statistics import Statistics
from flowrl.inspection.steering import Steering
from flowrl.inspection.stitching import Stitching

__all__ = ["Inspection", "as_json", "metadata"]


@dataclass(frozen=True)
class Inspection:
    """Everything that is known about one dataset; what could not be read or judged is None."""

    id: str
    fingerprint: str | None
    metadata: dict[str, str]
    references: References
    refused: list[str]
    """What training would refuse."""
    warnings: list[str]
    notes: list[str]
    """What training does as the dataset's maker meant it."""
    statistics: Statistics | None
    alignment: Alignment | None
    steering: Steering | None
    stitching: Stitching | None = None


def metadata(dataset: minari.MinariDataset) -> dict[str, str]:
    """What a dataset says of itself, as text; what it does not say is left out."""
    stored = dataset.storage.metadata
    env, judging = dataset.env_spec, dataset._eval_env_spec  # Minari has no public name for it
    problem = environment_problem(dataset)
    entries = {
        "environment": env.id if env is not None else problem and f"an environment that cannot be read ({problem})",
        "horizon": None if env is None else env.max_episode_steps,
        "environment arguments": None if env is None or not env.kwargs else env.kwargs,
        "evaluation environment": None if judging is None or judging == env else judging.id,
        "algorithm": stored.get("algorithm_name"),
        "description": stored.get("description"),
        "requirements": stored.get("requirements"),
        "author": stored.get("author"),
        "author's address": stored.get("author_email"),
        "code": stored.get("code_permalink"),
        "minari": stored.get("minari_version"),
        "observation space": dataset.observation_space,
        "action space": dataset.action_space,
        "folder": dataset.storage.data_path,
        "size": None if stored.get("dataset_size") is None else f"{stored['dataset_size']} MB",
    }
    return {name: _text(value) for name, value in entries.items() if value not in (None, "", [], set())}


def _text(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | tuple | set | frozenset) else str(value)


def as_json(inspection: Inspection) -> str:
    """Every number as strict JSON; what is not finite is null."""
    return json.dumps(_plain(asdict(inspection)), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""The returns of a random and of an expert policy that scores are normalised by: D4RL's, flowrl's own, a dataset's."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from flowrl.data.d4rl import Reference, environment_reference

__all__ = ["REFERENCES", "DatasetReference", "ReferenceScores", "reference_scores", "usable_reference"]

REFERENCES = Path(__file__).parent / "references.json"
"""The flowrl references of MuJoCo and PointMaze, a row per environment, as `flowrl.envs.references` measures them."""


@dataclass(frozen=True)
class DatasetReference(Reference):
    """The one that a dataset's maker stored with it."""

    env: str | None
    """The environment that it belongs to; None where the dataset names none: then whichever is played."""

    def record(self) -> dict[str, Any]:
        """As JSON, for a run's `config.json`."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Any) -> Self | None:
        """What `record` gave; None of None, which runs without one and those of earlier versions have.

        Raises:
            ValueError: it is something else.
        """
        if record is None:
            return None
        if not isinstance(record, dict) or record.keys() != {"random", "expert", "env"}:
            raise ValueError(f"a dataset's reference scores are {record!r}: they must be random, expert and env")
        checked = _checked(record["random"], record["expert"])
        return cls(checked.random, checked.expert, record["env"])


@dataclass(frozen=True)
class ReferenceScores:
    """The references of an environment id, never to be mixed; None where there is none."""

    env_id: str
    d4rl: Reference | None
    """D4RL's published one, the same for every version of an environment (D4RL measured it on versions before -v4)."""
    flowrl: Reference | None
    """Our own measurement, of exactly this id."""
    dataset: DatasetReference | None = None
    """The dataset's, where there is no other."""


FLOWRL = {
    # Means over 10,000 episodes each of uniform actions (95 % interval 5.141 to 5.253) and of the optimal policy
    # (14.414 to 14.432).
    "flowrl/Reach-v0": Reference(5.197, 14.423),
    # Exact, for every length; flowrl.envs.corridor has the proof.
    "flowrl/Corridor-v0": Reference(0.5, 1.0),
    # The mean over 10,000 episodes of uniform actions (95 % interval 0.003 to 0.005), and the exact optimum.
    "flowrl/Detour-v0": Reference(0.004, 1.0),
}
"""The flowrl references of our own environments, whose optimum is known."""


def reference_scores(env_id: str, of_dataset: DatasetReference | None = None) -> ReferenceScores:
    """The references of an environment id; an unknown one has none but the dataset's, if that belongs to it."""
    d4rl, measured = environment_reference(env_id), FLOWRL.get(env_id) or _measured().get(env_id)
    fits = d4rl is None and measured is None and of_dataset is not None and of_dataset.env in (None, env_id)
    return ReferenceScores(env_id, d4rl=d4rl, flowrl=measured, dataset=of_dataset if fits else None)


def usable_reference(stored: Sequence[tuple[Any, Any]]) -> tuple[Reference | None, list[str]]:
    """The reference that datasets store, and a sentence for what cannot be used.

    Args:
        stored: (random, expert) of each dataset that has any, as they are stored.

    Returns:
        None where there is none, none is usable, or the datasets of a mixture disagree.
    """
    usable, cautions = [], []
    for random, expert in stored:
        try:
            usable.append(_checked(random, expert))
        except ValueError as error:
            cautions.append(str(error))
    if len(each := list(dict.fromkeys(usable))) > 1:
        pairs = " and ".join(f"{one.random:g}, {one.expert:g}" for one in each)
        cautions.append(f"the mixed datasets store different reference scores ({pairs}): none are used")
    return (each[0] if len(each) == 1 else None), list(dict.fromkeys(cautions))


def _checked(random: Any, expert: Any) -> Reference:
    """Raises ValueError where scores cannot be normalised by them."""
    usable = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (random, expert))
    if usable:
        try:
            span = float(expert) - float(random)
            usable = span > 0 and math.isfinite(span) and math.isfinite(100.0 / span)
        except OverflowError:  # a whole number beyond all floats
            usable = False
    if not usable:
        raise ValueError(
            f"the reference scores stored with the dataset are not used: random {random!r} and expert {expert!r} must"
            " be finite numbers, the expert's above the random one's"
        )
    return Reference(float(random), float(expert))


@cache
def _measured() -> dict[str, Reference]:
    table = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return {env_id: Reference(row["random"]["mean"], row["expert"]["mean"]) for env_id, row in table.items()}

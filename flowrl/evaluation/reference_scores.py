"""The returns of a random and of an expert policy that scores are normalised by: D4RL's and flowrl's own."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flowrl.data.d4rl import Reference, environment_reference

__all__ = ["REFERENCES", "ReferenceScores", "reference_scores"]

REFERENCES = Path(__file__).parent / "references.json"
"""The flowrl references of MuJoCo and PointMaze, a row per environment, as `flowrl.envs.references` measures them."""


@dataclass(frozen=True)
class ReferenceScores:
    """The two references of an environment id, never to be mixed; None where there is none."""

    env_id: str
    d4rl: Reference | None
    """D4RL's published one, the same for every version of an environment (D4RL measured it on versions before -v4)."""
    flowrl: Reference | None
    """Our own measurement, of exactly this id."""


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


def reference_scores(env_id: str) -> ReferenceScores:
    """The references of an environment id; an unknown one has none."""
    return ReferenceScores(
        env_id, d4rl=environment_reference(env_id), flowrl=FLOWRL.get(env_id) or _measured().get(env_id)
    )


@cache
def _measured() -> dict[str, Reference]:
    table = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return {env_id: Reference(row["random"]["mean"], row["expert"]["mean"]) for env_id, row in table.items()}

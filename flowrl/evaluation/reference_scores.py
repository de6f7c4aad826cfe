"""The returns of a random and of an expert policy that scores are normalised by: D4RL's and flowrl's own."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["REFERENCES", "Reference", "ReferenceScores", "d4rl_environment", "d4rl_reference", "reference_scores"]

REFERENCES = Path(__file__).parent / "references.json"
"""The flowrl references of MuJoCo environments, a row per environment id, as `flowrl.envs.references` measures them."""


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy: 0 and 100 on the normalised scale."""

    random: float
    expert: float


@dataclass(frozen=True)
class ReferenceScores:
    """The two references of an environment id, never to be mixed; None where there is none."""

    env_id: str
    d4rl: Reference | None
    """D4RL's published one, the same for every version of an environment (D4RL measured it on versions before -v4)."""
    flowrl: Reference | None
    """Our own measurement, of exactly this id."""


D4RL = {
    "hopper": Reference(-20.272305, 3234.3),
    "halfcheetah": Reference(-280.178953, 12135.0),
    "walker2d": Reference(1.629008, 4592.3),
    "ant": Reference(-325.6, 3879.7),
    "antmaze": Reference(0.0, 1.0),
    "kitchen": Reference(0.0, 4.0),
    "pen": Reference(96.262799, 3076.8331017826877),
    "door": Reference(-56.512833, 2880.5693087298737),
    "hammer": Reference(-274.856578, 12794.134825156867),
    "relocate": Reference(-6.425911, 4233.877797728884),
    "maze2d-umaze-v1": Reference(23.85, 161.86),
    "maze2d-medium-v1": Reference(13.13, 277.39),
    "maze2d-large-v1": Reference(6.7, 273.99),
}
"""By D4RL's dataset name, or by its first word where all datasets of it share one (Fu et al., 2020; d4rl/infos.py)."""

D4RL_ENVIRONMENTS = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}
"""Those that Gymnasium has, without the version."""

_D4RL_NAME = re.compile(r"([a-z0-9]+)-[a-z0-9-]*[a-z0-9]-v[0-9]+")  # hopper-medium-replay-v2


FLOWRL = {
    # Means over 10,000 episodes each of uniform actions (95 % interval 5.141 to 5.253) and of the optimal policy
    # (14.414 to 14.432).
    "flowrl/Reach-v0": Reference(5.197, 14.423),
    # Exact, for every length; flowrl.envs.corridor has the proof.
    "flowrl/Corridor-v0": Reference(0.5, 1.0),
}
"""The flowrl references of our own environments, whose optimum is known."""


def reference_scores(env_id: str) -> ReferenceScores:
    """The references of an environment id; an unknown one has none."""
    name, _, version = env_id.rpartition("-v")
    tasks = {environment: task for task, environment in D4RL_ENVIRONMENTS.items()}
    in_d4rl = version in ("2", "3", "4", "5") and name in tasks
    return ReferenceScores(
        env_id,
        d4rl=D4RL[tasks[name]] if in_d4rl else None,
        flowrl=FLOWRL.get(env_id) or _measured().get(env_id),
    )


def d4rl_reference(name: str) -> Reference | None:
    """D4RL's reference for one of its dataset names, as hopper-medium-v2; None where it is not known."""
    match = _D4RL_NAME.fullmatch(name)
    return None if match is None else D4RL.get(name, D4RL.get(match[1]))


def d4rl_environment(name: str) -> str | None:
    """The environment that D4RL's dataset of that name belongs to, hopper-medium-v2: Hopper-v4; None for one that
    Gymnasium does not have."""
    match = _D4RL_NAME.fullmatch(name)
    return f"{D4RL_ENVIRONMENTS[match[1]]}-v4" if match and match[1] in D4RL_ENVIRONMENTS else None


@cache
def _measured() -> dict[str, Reference]:
    table = json.loads(REFERENCES.read_text(encoding="utf-8"))
    return {env_id: Reference(row["random"]["mean"], row["expert"]["mean"]) for env_id, row in table.items()}

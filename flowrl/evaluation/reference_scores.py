"""What is known about an environment: its horizon, and the returns that scores are normalised by."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym

__all__ = ["REFERENCES", "EnvFacts", "Measured", "Reference", "d4rl_environment", "d4rl_reference", "facts"]

REFERENCES = Path(__file__).parent / "references.json"
"""What `scripts.measure_references` measured, a row per environment id."""


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy: 0 and 100 on the normalised scale."""

    random: float
    expert: float


@dataclass(frozen=True)
class Measured(Reference):
    """A reference of our own, with what it rests on."""

    random_interval: tuple[float, float]
    """95 % interval of the mean of uniformly random actions (normal approximation); no width where it is exact."""
    expert_interval: tuple[float, float]
    """Likewise, of the expert."""
    random_episodes: int
    """By which the random mean was measured; 0 where it is exact."""
    expert_episodes: int
    """Likewise, the expert's."""
    expert_policy: str
    """What the expert is."""
    versions: str
    """Of what the figures depend on; empty where they are exact."""
    command: str
    """What measured them, or where they are proved."""


@dataclass(frozen=True)
class EnvFacts:
    """Facts about one environment id; what is not known is None."""

    env_id: str
    horizon: int | None
    """Steps after which an episode is truncated."""
    d4rl: Reference | None
    """D4RL's published one, the same for every version of an environment (D4RL measured it on versions before -v4)."""
    measured: Measured | None
    """Our own, for exactly this id."""


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


SMALL = {
    "flowrl/Reach-v0": Measured(
        random=5.197,
        expert=14.423,
        random_interval=(5.141, 5.253),
        expert_interval=(14.414, 14.432),
        random_episodes=10_000,
        expert_episodes=10_000,
        expert_policy="ReachPolicy(1.0), the optimum",
        versions="gymnasium 1.4.0, numpy 2.4",
        command="Player(make_env('flowrl/Reach-v0')).episode(policy, 1, i) for i in range(10_000): uniform actions, "
        "ReachPolicy(1.0)",
    ),
    "flowrl/Corridor-v0": Measured(
        random=0.5,
        expert=1.0,
        random_interval=(0.5, 0.5),
        expert_interval=(1.0, 1.0),
        random_episodes=0,
        expert_episodes=0,
        expert_policy="CorridorPolicy(right=True), the optimum",
        versions="",
        command="exact, for every length; envs/corridor.py has the proof",
    ),
}
"""Of our own small tasks, whose optimum is known."""


def facts(env_id: str) -> EnvFacts:
    """The facts about an environment id; an unknown one has None for whatever is not known."""
    spec = gym.registry.get(env_id)
    name, _, version = env_id.rpartition("-v")
    known_version = version in ("2", "3", "4", "5")
    tasks = {environment: task for task, environment in D4RL_ENVIRONMENTS.items()}
    return EnvFacts(
        env_id=env_id,
        horizon=None if spec is None else spec.max_episode_steps,
        d4rl=D4RL[tasks[name]] if known_version and name in tasks else None,
        measured=_measured(env_id),
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


def _measured(env_id: str) -> Measured | None:
    if env_id in SMALL:
        return SMALL[env_id]
    row = _references().get(env_id)
    if row is None:
        return None
    random, expert = row["random"], row["expert"]
    return Measured(
        random=random["mean"],
        expert=expert["mean"],
        random_interval=(random["interval"][0], random["interval"][1]),
        expert_interval=(expert["interval"][0], expert["interval"][1]),
        random_episodes=random["episodes"],
        expert_episodes=expert["episodes"],
        expert_policy=expert["policy"],
        versions=", ".join(f"{name} {version}" for name, version in row["versions"].items()),
        command=row["command"],
    )


@cache
def _references() -> dict[str, Any]:
    return json.loads(REFERENCES.read_text(encoding="utf-8"))

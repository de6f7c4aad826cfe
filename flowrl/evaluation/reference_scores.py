"""What is known about an environment: its horizon, and the returns that scores are normalised by."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym

from flowrl.data.d4rl import Reference, environment_reference

__all__ = ["REFERENCES", "EnvFacts", "Measured", "facts"]

REFERENCES = Path(__file__).parent / "references.json"
"""What `scripts.measure_references` measured, a row per environment id."""


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
    return EnvFacts(
        env_id=env_id,
        horizon=None if spec is None else spec.max_episode_steps,
        d4rl=environment_reference(env_id),
        measured=_measured(env_id),
    )


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

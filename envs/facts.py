"""What is known about an environment: its horizon, and the returns that scores are normalised by."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym

from envs.behavior import policy_records

__all__ = ["EnvFacts", "Measured", "Reference", "facts"]


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random and of an expert policy: 0 and 100 on the normalised scale."""

    random: float
    expert: float


@dataclass(frozen=True)
class Measured(Reference):
    """A reference of our own, with what it rests on."""

    random_interval: tuple[float, float]
    """95 % interval of the mean (normal approximation)."""
    expert_interval: tuple[float, float]
    """Likewise."""
    episodes: int
    """Of each of the two policies."""
    versions: str
    """Of what the figures depend on."""
    command: str
    """What measured them."""


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
    "Hopper": Reference(-20.272305, 3234.3),
    "HalfCheetah": Reference(-280.178953, 12135.0),
    "Walker2d": Reference(1.629008, 4592.3),
    "Ant": Reference(-325.6, 3879.7),
}
"""By the name before the version (Fu et al., 2020; d4rl/infos.py)."""


REACH = Measured(
    random=5.197,
    expert=14.423,
    random_interval=(5.141, 5.253),
    expert_interval=(14.414, 14.432),
    episodes=10_000,
    versions="gymnasium 1.4.0, numpy 2.4",
    command="Player(make_env('flowrl/Reach-v0')).episode(policy, 1, i) for i in range(10_000): uniform actions, "
    "ReachPolicy(1.0)",
)


def facts(env_id: str) -> EnvFacts:
    """The facts about an environment id; an unknown one has None for whatever is not known."""
    spec = gym.registry.get(env_id)
    name, _, version = env_id.rpartition("-v")
    known_version = version in ("2", "3", "4", "5")
    return EnvFacts(
        env_id=env_id,
        horizon=None if spec is None else spec.max_episode_steps,
        d4rl=D4RL.get(name) if known_version else None,
        measured=_measured(env_id),
    )


@cache
def _measured(env_id: str) -> Measured | None:
    """From the record of the behaviour policies: the untrained one is the random policy, the best the expert."""
    if env_id == "flowrl/Reach-v0":
        return REACH
    for index in policy_records():
        if index["env_id"] == env_id:
            rows = {row["steps"]: row for row in index["snapshots"]}
            random, expert = rows[index["stages"]["random"]], rows[index["stages"]["expert"]]
            return Measured(
                random=random["sampled_mean"],
                expert=expert["sampled_mean"],
                random_interval=_interval(random),
                expert_interval=_interval(expert),
                episodes=expert["episodes"],
                versions=", ".join(f"{name} {version}" for name, version in index["versions"].items()),
                command=index["command"],
            )
    return None


def _interval(row: dict[str, Any]) -> tuple[float, float]:
    half = 1.96 * row["sampled_std"] / math.sqrt(row["episodes"])
    return round(row["sampled_mean"] - half, 1), round(row["sampled_mean"] + half, 1)

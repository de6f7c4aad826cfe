"""Our own datasets: which policies play in which environment, and for how many steps."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.envs.behavior import POLICIES, BehaviorPolicy, policy_records, read_policy, snapshot_path
from flowrl.envs.corridor import CorridorPolicy, corridor_spec
from flowrl.envs.tiny import ReachPolicy
from flowrl.errors import InputError

__all__ = ["CORRIDOR_LENGTHS", "Mixture", "dataset_ids", "mixture"]

CORRIDOR_LENGTHS = (10, 20, 50, 100, 200, 300, 500, 1_000)
CORRIDOR_EPISODES = 400
REACH_STEPS = 2_000
MUJOCO_STEPS = 200_000
REACH_LEVELS = {
    "poor": ("policies that leave or dawdle, in equal shares of steps", (-1.0, -0.5, 0.0)),
    "mixed": ("policies from leaving to the best, in equal shares of steps", (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0)),
    "good": ("policies that arrive, half of the steps each", (0.75, 1.0)),
}
"""Level → what it is, and how fast its policies go."""


@dataclass(frozen=True)
class Mixture:
    """An environment and the policies that share a dataset's steps equally, in this order."""

    env: EnvSpec
    """With everything that the environment is made from, such as a length."""
    policies: tuple[BehaviorPolicy, ...]
    algorithm: str
    """How the policies were made, for the dataset's metadata."""
    description: str
    """What the dataset is, likewise."""
    steps: int
    """The dataset's default number of steps."""


def dataset_ids() -> list[str]:
    """The ids of the datasets that `mixture` knows."""
    return [f"flowrl/{name}/{level}-v0" for name, levels in _levels().items() for level in levels]


def mixture(dataset_id: str) -> Mixture:
    """The mixture that a dataset id stands for.

    Raises:
        InputError: unknown id; the message lists the known ones.
    """
    known = dataset_ids()
    if dataset_id not in known:
        near = difflib.get_close_matches(dataset_id, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        listed = ", ".join(f"flowrl/{name}/{{{','.join(levels)}}}-v0" for name, levels in _levels().items())
        raise InputError(f"unknown dataset {dataset_id!r}{hint}; known are {listed}")
    _, name, level = dataset_id.removesuffix("-v0").split("/")
    if name == "reach":
        return _reach(level)
    if name == "corridor":
        return _corridor(int(level.removeprefix("length-")))
    return _mujoco(name, level)


def _levels() -> dict[str, list[str]]:
    """Environment → the levels of its datasets."""
    mujoco = {name: list(_mujoco_levels(record)) for name, record in policy_records().items()}
    return mujoco | {"reach": list(REACH_LEVELS), "corridor": [f"length-{length}" for length in CORRIDOR_LENGTHS]}


def _reach(level: str) -> Mixture:
    about, speeds = REACH_LEVELS[level]
    policies = tuple(ReachPolicy(speed, noise=0.5) for speed in speeds)
    how = f"scripted, at {', '.join(map(str, speeds))} times the optimal speed, noise 0.5"
    return Mixture(gym.spec("flowrl/Reach-v0"), policies, how, f"Reach: {about}.", REACH_STEPS)


def _corridor(length: int) -> Mixture:
    how = "scripted: the cue is remembered; actions before the turn are uniformly random"
    about = "a policy that turns where the cue pointed, and one that turns the other way, half each"
    description = f"Corridor of {length:,} steps: {about}."
    policies = CorridorPolicy(right=True), CorridorPolicy(right=False)
    return Mixture(corridor_spec(length), policies, how, description, CORRIDOR_EPISODES * length)


def _mujoco(name: str, level: str) -> Mixture:
    record = policy_records()[name]
    about, snapshots = _mujoco_levels(record)[level]
    policies = tuple(read_policy(snapshot_path(POLICIES / name, steps)) for steps in snapshots)
    how = f"{record['algorithm']}, sampled; snapshots after {', '.join(f'{steps:,}' for steps in snapshots)} steps"
    return Mixture(gym.spec(record["env_id"]), policies, how, f"{record['env_id']}: {about}.", MUJOCO_STEPS)


def _mujoco_levels(record: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Level → what it is, and the training steps of its snapshots, for one of `policy_records`."""
    stage, kept = record["stages"], [row["steps"] for row in record["snapshots"]]
    calm = f"with {record['recipe']['expert_noise']:g} times the standard deviation it explored with"
    return {
        "random": ("the untrained policy", [stage["random"]]),
        "medium": ("a policy stopped at about half of the best return", [stage["medium"]]),
        "medium-replay": (
            "every kept snapshot from the untrained to the medium policy, played again in equal shares of steps"
            " (not a replay buffer)",
            [steps for steps in kept if steps <= stage["medium"]],
        ),
        "medium-expert": (
            f"the medium and the expert policy, half of the steps each; the expert {calm}",
            [stage["medium"], stage["expert"]],
        ),
        "expert": (f"the best policy, {calm}", [stage["expert"]]),
    }

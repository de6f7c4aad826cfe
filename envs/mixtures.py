"""Our own datasets: which policies play in which environment, and for how many steps."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.envs.behavior import POLICIES, BehaviorPolicy, policy_records, read_policy, snapshot_path
from flowrl.envs.corridor import CorridorPolicy, corridor_spec
from flowrl.envs.detour import HORIZON as DETOUR_HORIZON
from flowrl.envs.detour import STRETCH_STEPS, detour_controller, detour_played
from flowrl.envs.pointmaze import pointmaze_controller, pointmaze_played
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
DETOUR_STEPS = 10_000
DETOUR_REACH = 2  # cells
DETOUR_LEVELS = {
    "stretches": ("short stretches between random places", STRETCH_STEPS, (DETOUR_REACH,)),
    "whole": (
        "short stretches between random places, and ways from random places to the goal, half of the steps each",
        DETOUR_HORIZON,
        (DETOUR_REACH, None),
    ),
}
"""Level → what it is, steps of an episode at most, and how far its policies go at most (None: to the goal)."""
POINTMAZE_LEVELS = {
    "umaze": ("flowrl/PointMazeUMaze-v0", 200_000),
    "umaze-dense": ("flowrl/PointMazeUMazeDense-v0", 200_000),
    "medium": ("flowrl/PointMazeMedium-v0", 400_000),
    "medium-dense": ("flowrl/PointMazeMediumDense-v0", 400_000),
}
"""Level → its environment and its default number of steps."""
POINTMAZE_STRETCHES = {"umaze": (2, 80), "medium": (3, 120)}
"""Maze → how many cells an episode goes at most, and how many steps it takes."""


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
    played: EnvSpec | None = None
    """What the data are played in, where they start elsewhere or end sooner than an evaluation; None: `env`."""
    packages: tuple[str, ...] = ("gymnasium", "mujoco", "numpy")
    """Whose versions are recorded."""


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
    if name == "detour":
        return _detour(level)
    if name == "pointmaze":
        return _pointmaze(level)
    return _mujoco(name, level)


def _levels() -> dict[str, list[str]]:
    """Environment → the levels of its datasets."""
    mujoco = {name: list(_mujoco_levels(record)) for name, record in policy_records().items()}
    corridor = [f"length-{length}" for length in CORRIDOR_LENGTHS]
    own = {"reach": list(REACH_LEVELS), "corridor": corridor, "detour": list(DETOUR_LEVELS)}
    return mujoco | own | {"pointmaze": list(POINTMAZE_LEVELS)}


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


def _detour(level: str) -> Mixture:
    about, steps, reaches = DETOUR_LEVELS[level]
    policies = tuple(detour_controller(noise=0.5, reach=reach) for reach in reaches)
    how = "scripted: a waypoint controller, noise 0.5"
    env = gym.spec("flowrl/Detour-v0")
    return Mixture(env, policies, how, f"Detour: {about}.", DETOUR_STEPS, played=detour_played(steps))


def _pointmaze(level: str) -> Mixture:
    env_id, steps = POINTMAZE_LEVELS[level]
    env = gym.spec(env_id)
    maze = env.kwargs["maze"]
    reach, length = POINTMAZE_STRETCHES[maze]
    return Mixture(
        env,
        (pointmaze_controller(maze, noise=0.5, reach=reach),),
        "scripted: a waypoint controller, noise 0.5",
        f"PointMaze {maze}, {env.kwargs['reward']} reward: short stretches between random places.",
        steps,
        played=pointmaze_played(env_id, length),
        packages=("gymnasium", "gymnasium-robotics", "mujoco", "numpy"),
    )


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

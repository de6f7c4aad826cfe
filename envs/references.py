"""Measuring the flowrl references: the returns of uniformly random actions and of the shipped expert."""

import datetime
import hashlib
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from flowrl.envs.behavior import (
    POLICIES,
    BehaviorPolicy,
    UniformPolicy,
    policy_record,
    policy_records,
    read_policy,
    snapshot_path,
)
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.pointmaze import pointmaze_controller
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import REFERENCES
from flowrl.evaluation.trial import try_environment
from flowrl.files import write_atomically

__all__ = ["SCRIPTED", "SEED", "digest", "measure", "measure_references", "summary"]

SCRIPTED = {
    f"pointmaze-{maze}{suffix}": (f"flowrl/PointMaze{name}{suffix.title().replace('-', '')}-v0", maze)
    for maze, name in (("umaze", "UMaze"), ("medium", "Medium"))
    for suffix in ("", "-dense")
}
"""Name → environment id and maze, where the expert is the waypoint controller, all the way to the goal."""
SEED = 2_000_003  # not the one by which the expert was chosen
REPORT_EVERY = 10.0  # seconds


def measure_references(
    names: Sequence[str] = (),
    *,
    episodes_random: int = 1_000,
    episodes_expert: int = 200,
    seed: int = SEED,
    out: Path = REFERENCES,
    report: Callable[[str], None] = print,
) -> None:
    """Measure the references of environments with an expert of ours and write the table, all of it or nothing.

    Args:
        names: environments, as their folders of policies or `SCRIPTED` name them; the rows of the others are kept. If
            empty: all, and no other row is kept.
        episodes_random: of uniformly random actions.
        episodes_expert: of the expert, its actions sampled.
        seed: episode i depends on this seed and i alone.
        report: called with a line of progress.

    Raises:
        InputError: unknown environment, a number out of range, or a table that cannot be read.
    """
    env_ids = {name: _env_id(name) for name in names or (*policy_records(), *SCRIPTED)}
    for name, value, least in [
        ("episodes_random", episodes_random, 2),
        ("episodes_expert", episodes_expert, 2),
        ("seed", seed, 0),
    ]:
        if value < least:
            raise InputError(f"{name} is {value}: it must be at least {least}")
    for env_id in env_ids.values():  # one that cannot be played is found before hours of measuring
        try_environment(env_id, episodes=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = _read(out) if names else {}
    for name, env_id in env_ids.items():
        table[env_id] = measure(name, episodes_random, episodes_expert, seed, report)
    write_atomically(out, (json.dumps(dict(sorted(table.items())), indent=1) + "\n").encode())


def measure(
    name: str, episodes_random: int, episodes_expert: int, seed: int, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """The row of one environment, as its folder of policies or `SCRIPTED` names it."""
    env_id = _env_id(name)
    env = make_env(env_id)
    assert isinstance(env.action_space, gym.spaces.Box)
    expert, about = _expert(name)
    player, uniform = EpisodePlayer(env), UniformPolicy(env.action_space.low, env.action_space.high)

    def returns(policy: BehaviorPolicy, episodes: int, who: str) -> np.ndarray:
        return _returns(player, policy, episodes, seed, f"{env_id} {who}", report)

    packages = ["gymnasium", "mujoco", "numpy", *(["gymnasium-robotics"] if name in SCRIPTED else [])]
    row = {
        "random": {"policy": "uniformly random actions"} | summary(returns(uniform, episodes_random, "random")),
        "expert": about | summary(returns(expert, episodes_expert, "expert")),
        "interval": "95 %, of the mean, normal approximation",
        "seed": seed,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
    }
    env.close()
    return row


def _env_id(name: str) -> str:
    return SCRIPTED[name][0] if name in SCRIPTED else policy_record(name)["env_id"]


def _expert(name: str) -> tuple[BehaviorPolicy, dict[str, str]]:
    """The expert, and what the table says of it."""
    if name in SCRIPTED:
        return pointmaze_controller(SCRIPTED[name][1]), {"policy": "flowrl.envs.pointmaze:pointmaze_controller"}
    path = snapshot_path(POLICIES / name, policy_record(name)["stages"]["expert"])
    about = {"policy": f"{path.relative_to(POLICIES.parent.parent).as_posix()}, sampled", "sha256": digest(path)}
    return read_policy(path), about


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Of the returns (n,) of n ≥ 2 episodes: n, mean, standard deviation, 95 % interval of the mean (normal)."""
    mean, std = float(returns.mean()), float(returns.std(ddof=1))
    half = 1.96 * std / math.sqrt(len(returns))
    return {
        "episodes": len(returns),
        "mean": round(mean, 3),
        "std": round(std, 3),
        "interval": [round(mean - half, 3), round(mean + half, 3)],
        "first_returns": [round(float(value), 3) for value in returns[:3]],  # a quick check of the rest
    }


def digest(path: Path) -> str:
    """The SHA-256 of a snapshot, to see whether it is still the one that was measured."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _returns(
    player: EpisodePlayer, policy: BehaviorPolicy, episodes: int, seed: int, what: str, report: Callable[[str], None]
) -> np.ndarray:
    began = reported = time.monotonic()
    returns = np.empty(episodes)
    for index in range(episodes):
        returns[index] = player.episode(policy, seed, index).rewards.sum()
        now = time.monotonic()
        if now - reported >= REPORT_EVERY:
            reported, left = now, (now - began) / (index + 1) * (episodes - index - 1)
            report(f"{what}: {index + 1:,} of {episodes:,} episodes  {left:.0f} s left")
    half = 1.96 * returns.std(ddof=1) / math.sqrt(episodes)
    seconds = time.monotonic() - began
    report(f"{what}: {returns.mean():,.1f} ± {half:,.1f} over {episodes:,} episodes in {seconds:.0f} s")
    return returns


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise InputError(f"{path} is not a table of references: remove it, or measure all environments")
    return table

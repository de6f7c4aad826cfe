"""Measure our own reference scores: what uniformly random actions and the shipped expert return, per environment.

    python -m scripts.measure_references

Writes envs/references.json, by which "own score" is normalised. D4RL's references are its own and are not touched.
"""

import datetime
import hashlib
import importlib.metadata
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from flowrl.envs.behavior import POLICIES, Player, Policy, UniformPolicy, policy_records, read_policy, snapshot_path
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.files import write_atomically
from flowrl.scripts.cli import parse, run

PROGRESS_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Args:
    """Measure what uniformly random actions and the shipped expert return, for every environment with policies."""

    envs: tuple[str, ...] = ()
    """Which environments, as their folders in envs/policies are named; the rows of the others are kept. If not given:
    all, and no other row is kept."""
    episodes_random: int = 1_000
    """Episodes of uniformly random actions."""
    episodes_expert: int = 200
    """Episodes of the expert, its actions sampled."""
    seed: int = 2_000_003
    """Episode i depends on this seed and i alone. By default another than the one that the expert was chosen by."""
    out: Path = Path("envs/references.json")
    """The table."""


def main(args: Args) -> None:
    """Measure and write the table, all of it or nothing.

    Raises:
        InputError: unknown environment, a number out of range, or a table that cannot be read.
    """
    records = {record["name"]: record for record in policy_records()}
    if unknown := [name for name in args.envs if name not in records]:
        raise InputError(f"no behaviour policies for {unknown[0]!r}; known are {', '.join(records)}")
    if min(args.episodes_random, args.episodes_expert) < 2 or args.seed < 0:
        raise InputError(
            "--episodes-random and --episodes-expert must be at least 2 and --seed at least 0,"
            f" not {args.episodes_random}, {args.episodes_expert} and {args.seed}"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table = _read(args.out) if args.envs else {}
    for name in args.envs or records:
        table[records[name]["env_id"]] = measure(records[name], args.episodes_random, args.episodes_expert, args.seed)
    write_atomically(args.out, (json.dumps(dict(sorted(table.items())), indent=1) + "\n").encode())
    print(f"written to {args.out}")


def measure(record: Mapping[str, Any], episodes_random: int, episodes_expert: int, seed: int) -> dict[str, Any]:
    """A row of the table, for an entry of `policy_records`."""
    env = make_env(record["env_id"])
    assert isinstance(env.action_space, gym.spaces.Box)
    expert = snapshot_path(POLICIES / record["name"], record["stages"]["expert"])
    where = expert.relative_to(POLICIES.parent.parent).as_posix()
    player, uniform = Player(env), UniformPolicy(env.action_space.low, env.action_space.high)
    row = {
        "random": {"policy": "uniformly random actions"}
        | summary(_returns(player, uniform, episodes_random, seed, f"{record['env_id']} random")),
        "expert": {"policy": f"{where}, sampled", "sha256": digest(expert)}
        | summary(_returns(player, read_policy(expert), episodes_expert, seed, f"{record['env_id']} expert")),
        "interval": "95 %, of the mean, normal approximation",
        "seed": seed,
        "versions": {name: importlib.metadata.version(name) for name in ("gymnasium", "mujoco", "numpy")},
        "date": datetime.date.today().isoformat(),
        "command": f"python -m scripts.measure_references --envs {record['name']} --episodes-random {episodes_random}"
        f" --episodes-expert {episodes_expert} --seed {seed}",
    }
    env.close()
    return row


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Of the returns (n,) of n ≥ 2 episodes: n, mean, standard deviation, 95 % interval of the mean (normal)."""
    mean, std = float(returns.mean()), float(returns.std(ddof=1))
    half = 1.96 * std / math.sqrt(len(returns))
    return {
        "episodes": len(returns),
        "mean": round(mean, 3),
        "std": round(std, 3),
        "interval": [round(mean - half, 3), round(mean + half, 3)],
        "first_returns": [round(float(value), 3) for value in returns[:3]],  # to check the rest by
    }


def digest(path: Path) -> str:
    """Says whether a snapshot is still the one that was measured."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _returns(player: Player, policy: Policy, episodes: int, seed: int, what: str) -> np.ndarray:
    began = said = time.monotonic()
    returns = np.empty(episodes)
    for index in range(episodes):
        returns[index] = player.episode(policy, seed, index).rewards.sum()
        now = time.monotonic()
        if now - said >= PROGRESS_EVERY:
            said, left = now, (now - began) / (index + 1) * (episodes - index - 1)
            print(f"{what}: {index + 1:,} of {episodes:,} episodes  {left:.0f} s left", flush=True)
    half = 1.96 * returns.std(ddof=1) / math.sqrt(episodes)
    seconds = time.monotonic() - began
    print(f"{what}: {returns.mean():,.1f} ± {half:,.1f} over {episodes:,} episodes in {seconds:.0f} s", flush=True)
    return returns


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise InputError(f"{path} is no table of references: remove it, or leave out --envs")
    return table


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

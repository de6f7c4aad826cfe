"""Make one of our own Minari datasets by playing the behaviour policies that this repository ships.

    python -m scripts.collect flowrl/hopper/medium-replay-v0

The same command makes the same arrays, to the byte, on one kind of machine with the same versions.
"""

import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro

import flowrl
from envs import facts, make_env
from envs.behavior import Rollout, mixture, rollout_episodes
from flowrl.errors import InputError
from flowrl.minari_store import Episode, dataset_path, write_dataset
from scripts.cli import parse, run

PROGRESS_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class Args:
    """Make one of our own Minari datasets: flowrl/hopper/{random,medium,medium-replay,medium-expert,expert}-v0,
    flowrl/reach/{poor,mixed,good}-v0, a tiny task for tests and first tries, or
    flowrl/corridor/length-{10,20,50,100,200,500,1000}-v0, a task that only memory solves."""

    dataset_id: Annotated[str, tyro.conf.Positional]
    """Which dataset."""
    steps: int | None = None
    """How many steps, in equal shares for each of its policies; the last episode of each is played to its end.
    If not given: 200,000 for MuJoCo, 2,000 for Reach, those of 400 episodes for Corridor."""
    seed: int = 0
    """Episode i depends on this seed and i alone."""
    force: bool = False
    """Replace the dataset if it exists."""
    if_missing: bool = False
    """Do nothing if the dataset exists."""


def main(args: Args) -> None:
    """Play the episodes, write them as a Minari dataset, and say what is in it.

    Raises:
        InputError: unknown dataset, a number out of range, or the dataset exists.
    """
    try:
        recipe = mixture(args.dataset_id)
    except ValueError as error:
        raise InputError(str(error)) from error
    steps = recipe.steps if args.steps is None else args.steps
    if steps < 1 or args.seed < 0:
        raise InputError(f"--steps must be at least 1 and --seed at least 0, not {steps} and {args.seed}")
    path = dataset_path(args.dataset_id)
    if path.exists() and not args.force:
        if args.if_missing:
            print(f"dataset {args.dataset_id} exists already at {path}")
            return
        raise InputError(f"dataset {args.dataset_id} exists already at {path}: --force replaces it")

    env = make_env(recipe.env)
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    began = time.monotonic()
    rollouts = list(_reporting(rollout_episodes(env, recipe.policies, steps, args.seed), steps))
    seconds = time.monotonic() - began
    env.close()
    print(f"writing {len(rollouts):,} episodes", flush=True)
    command = f"python -m scripts.collect {args.dataset_id} --steps {steps} --seed {args.seed}"
    versions = [f"{package}=={importlib.metadata.version(package)}" for package in ("gymnasium", "mujoco", "numpy")]
    reference = facts(recipe.env.id).measured
    write_dataset(
        args.dataset_id,
        [Episode(*rollout) for rollout in rollouts],
        env_spec=recipe.env,
        observation_space=env.observation_space,
        action_space=env.action_space,
        algorithm=recipe.algorithm,
        description=f"{recipe.description} Made by `{command}` with {', '.join(versions)}.",
        reference_scores=None if reference is None else (reference.random, reference.expert),
        requirements=versions,
        author="flowrl",
        code_permalink=f"scripts/collect.py of flowrl {flowrl.__version__}",
        force=args.force,
    )
    returns = np.array([rollout.rewards.sum() for rollout in rollouts])
    played = sum(len(rollout.rewards) for rollout in rollouts)
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    quantiles = "  ".join(f"{share:.0%} {np.quantile(returns, share):,.1f}" for share in shares)
    speed = f"{seconds:.1f} s ({played / seconds:,.0f} steps/s)"
    print(f"{args.dataset_id}: {len(rollouts):,} episodes, {played:,} steps in {speed}")
    print(f"returns: mean {returns.mean():,.1f}  quantiles {quantiles}")
    print(f"written to {path}")
    print(f"next: python -m scripts.train flow --dataset {args.dataset_id}")


def _reporting(rollouts: Iterator[Rollout], steps: int) -> Iterator[Rollout]:
    """Pass the rollouts on, with a line on progress every two seconds."""
    began = said = time.monotonic()
    played = 0
    for rollout in rollouts:
        played += len(rollout.rewards)
        yield rollout
        now = time.monotonic()
        if now - said >= PROGRESS_EVERY:
            said, speed = now, played / (now - began)
            left = max(steps - played, 0) / speed
            print(
                f"{min(played, steps):,} of {steps:,} steps  {speed:,.0f} steps/s  {left:.0f} s left",
                flush=True,
            )


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

"""Make a Minari dataset by playing policies: one of our own, by the policies that this repository ships, or yours.

    python -m scripts.collect flowrl/hopper/medium-replay-v0
    python -m scripts.collect me/ant/mixed-v0 --env Ant-v5 --policy ppo:ant.zip random --steps 100000

The same command makes the same arrays, to the byte, on one kind of machine with the same versions.
"""

import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

import flowrl
from flowrl.data.minari_store import COLLECTED_NAMESPACE, DatasetDescription, Episode, dataset_path, write_dataset
from flowrl.envs.behavior import Mixture, Rollout, dataset_ids, mixture, rollout_episodes
from flowrl.envs.own_policies import own_policy
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import facts
from flowrl.scripts.cli import parse, run

OWN_STEPS = 200_000


@dataclass(frozen=True)
class Args:
    """Make one of our own Minari datasets: flowrl/{hopper,walker2d,halfcheetah}/{random,medium,medium-replay,
    medium-expert,expert}-v0, flowrl/reach/{poor,mixed,good}-v0, a tiny task for tests and first tries, or
    flowrl/corridor/length-{10,20,50,100,200,300,500,1000}-v0, a task that only memory solves. With --env and --policy:
    one of your own, under any other name."""

    dataset_id: Annotated[str, tyro.conf.Positional]
    """Which dataset."""
    env: str | None = None
    """Your own: the environment, any Gymnasium id with Box spaces and a time limit."""
    policy: tuple[str, ...] = ()
    """Your own: the policies, which share the steps equally: `ppo:model.zip` (a model of Stable-Baselines3, sampled;
    the name of its algorithm stands before it; loading one runs code in it), `module:name` (a Python callable,
    name(observation, generator) gives an action), or `random`."""
    normalizer: Path | None = None
    """What VecNormalize saved beside the models of Stable-Baselines3, if anything; loading it runs code in it."""
    steps: int | None = None
    """How many steps, in equal shares for each of the policies; the last episode of each is played to its end. If not
    given: 200,000 for MuJoCo and for your own, 2,000 for Reach, those of 400 episodes for Corridor."""
    seed: int = 0
    """Episode i depends on this seed, on i and on its policy alone."""
    jobs: int = 1
    """Processes that play; 0 for as many as there are CPU cores. The episodes are the same for any number (of your own
    callables: if they keep no state)."""
    force: bool = False
    """Replace the dataset if it exists."""
    if_missing: bool = False
    """Do nothing if the dataset exists."""


def main(args: Args) -> None:
    """Play the episodes, write them as a Minari dataset, and say what is in it.

    Raises:
        InputError: unknown dataset, environment or policy, a number out of range, or the dataset exists.
    """
    recipe = _recipe(args)
    path = dataset_path(args.dataset_id)
    steps = recipe.steps if args.steps is None else args.steps
    if steps < 1 or args.seed < 0 or args.jobs < 0:
        raise InputError(
            f"--steps must be at least 1, --seed and --jobs at least 0, not {steps}, {args.seed} and {args.jobs}"
        )
    if path.exists() and not args.force:
        if args.if_missing:
            print(f"dataset {args.dataset_id} exists already at {path}")
            return
        raise InputError(f"dataset {args.dataset_id} exists already at {path}: --force replaces it")

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    began = time.monotonic()
    try:
        rollouts = list(
            _showing(rollout_episodes(recipe.env, recipe.policies, steps, args.seed, args.jobs or cores), steps)
        )
    except ValueError as error:  # an environment or a policy that cannot be played
        raise InputError(str(error)) from error
    except BrokenProcessPool:
        raise InputError("a process that played was killed: nothing is written, start again") from None
    seconds = time.monotonic() - began
    print(f"writing {len(rollouts):,} episodes", flush=True)
    versions = [f"{package}=={importlib.metadata.version(package)}" for package in ("gymnasium", "mujoco", "numpy")]
    reference = facts(recipe.env.id).measured
    env = make_env(recipe.env)
    env.close()
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    write_dataset(
        args.dataset_id,
        [Episode(*rollout) for rollout in rollouts],
        DatasetDescription(
            env_spec=recipe.env,
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm=recipe.algorithm,
            description=f"{recipe.description} Made by `{_command(args, steps)}` with {', '.join(versions)}.",
            reference_scores=None if reference is None else (reference.random, reference.expert),
            requirements=versions,
            author=None if args.policy else "flowrl",
            code_permalink=f"scripts/collect.py of flowrl {flowrl.__version__}",
            metadata=_metadata(args.seed, recipe.env.id),
        ),
        force=args.force,
    )
    returns = np.array([rollout.rewards.sum() for rollout in rollouts])
    count = sum(len(rollout.rewards) for rollout in rollouts)
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    quantiles = "  ".join(f"{share:.0%} {np.quantile(returns, share):,.1f}" for share in shares)
    speed = f"{seconds:.1f} s ({count / seconds:,.0f} steps/s)"
    print(f"{args.dataset_id}: {len(rollouts):,} episodes, {count:,} steps in {speed}")
    print(f"returns: mean {returns.mean():,.1f}  quantiles {quantiles}")
    print(f"written to {path}")
    print(f"next: python -m scripts.train flow --dataset {args.dataset_id}")


def _recipe(args: Args) -> Mixture:
    """What is played: one of our own mixtures, or the user's environment and policies."""
    if args.env is None and not args.policy:
        if args.normalizer is not None:
            raise InputError("--normalizer goes with --policy, which is not given")
        try:
            return mixture(args.dataset_id)
        except ValueError as error:
            raise InputError(f"{error}; for one of your own give --env and --policy") from error
    if args.env is None or not args.policy:
        raise InputError("a dataset of your own needs both --env and --policy")
    if args.dataset_id.startswith(COLLECTED_NAMESPACE) or args.dataset_id in dataset_ids():
        raise InputError(f"{args.dataset_id}: names in {COLLECTED_NAMESPACE} are flowrl's own: choose another")
    if args.normalizer is not None and not any(text.endswith(".zip") for text in args.policy):
        raise InputError(f"--normalizer {args.normalizer}: no --policy is a model of Stable-Baselines3 (a .zip file)")
    try:
        env = make_env(args.env)
        env.close()
        for what, space in [("observation", env.unwrapped.observation_space), ("action", env.action_space)]:
            if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
                raise InputError(f"the {what} space of {args.env} is {space}: flat Box spaces can be collected from")
        policies = tuple(own_policy(text, env, args.normalizer) for text in args.policy)
    except ValueError as error:
        raise InputError(str(error)) from error
    assert env.spec is not None
    how = ", ".join(args.policy)
    about = f"{args.env}, played by {how}" + (" in equal shares of steps." if len(policies) > 1 else ".")
    return Mixture(env.spec, policies, how, about, OWN_STEPS)


def _command(args: Args, steps: int) -> str:
    own = ["--env", str(args.env), "--policy", *args.policy] if args.policy else []
    own += [] if args.normalizer is None else ["--normalizer", str(args.normalizer)]
    words = [args.dataset_id, *own, "--steps", str(steps), "--seed", str(args.seed)]
    return f"python -m scripts.collect {shlex.join(words)}"


def _metadata(seed: int, env_id: str) -> dict[str, float | int]:
    """What Minari has no field for: the seed of the whole, and D4RL's reference beside our own."""
    d4rl = facts(env_id).d4rl
    reference = {} if d4rl is None else {"d4rl_ref_min_score": d4rl.random, "d4rl_ref_max_score": d4rl.expert}
    return {"collection_seed": seed} | reference


def _showing(rollouts: Iterator[Rollout], steps: int) -> Iterator[Rollout]:
    """Pass the rollouts on under a progress bar; where nobody watches, a line every ten seconds."""
    each = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=steps, unit=" steps", unit_scale=True, mininterval=each, dynamic_ncols=True) as bar:
        for rollout in rollouts:
            bar.update(min(len(rollout.rewards), steps - bar.n))
            yield rollout


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

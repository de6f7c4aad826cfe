"""Collect a Minari dataset: one of ours, played by the policies that flowrl ships, or one of yours.

    flowrl collect flowrl/hopper/medium-replay-v0
    flowrl collect me/ant/mixed-v0 --env Ant-v5 --policy ppo:ant.zip random --steps 100000

The same command collects the same arrays, to the byte, on one kind of machine with the same versions.
"""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flowrl.data.minari_store import dataset_path, local_ids, one_at_a_time
from flowrl.envs.collecting import CollectedDataset, collect
from flowrl.errors import InputError
from flowrl.evaluation.agreement import cautions_of
from flowrl.scripts.cli import parse, run, typed
from flowrl.training.tracking import warn

QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)


@dataclass(frozen=True)
class Args:
    """Collect a Minari dataset: one of ours, or with --env and --policy one of yours."""

    dataset_id: Annotated[str, tyro.conf.Positional]
    """Which dataset. Ours are flowrl/{hopper,walker2d,halfcheetah}/{random,medium,medium-replay,medium-expert,
    expert}-v0, flowrl/reach/{poor,mixed,good}-v0 (a tiny task for first tries), flowrl/corridor/length-N-v0 (a task
    that only memory solves), flowrl/detour/{stretches,whole}-v0 and flowrl/pointmaze/{umaze,medium}[-dense]-v0 (tasks
    that need stitching; the latter need the extra maze); `list datasets` lists them all. Yours may have any other
    name."""
    env: str | None = None
    """Yours: the environment, any Gymnasium id with flat observations, flat or Discrete actions and a time limit."""
    policy: tuple[str, ...] = ()
    """Yours: the policies, which share the steps equally: `ppo:model.zip` (a model of Stable-Baselines3, sampled; the
    name of its algorithm comes first; loading one runs code in it), `module:name` (a Python callable: name(observation,
    generator) returns an action), or `random`."""
    normalizer: Path | None = None
    """The file that VecNormalize saved beside the models of Stable-Baselines3, if any; loading it runs code in it."""
    steps: int | None = None
    """How many steps, in equal shares for each of the policies; the last episode of each is played to its end. If not
    given: 200,000 for MuJoCo and for yours, 2,000 for Reach, 400 episodes for Corridor, 10,000 for Detour, 200,000 or
    400,000 for PointMaze."""
    seed: int = 0
    """Episode i depends on this seed, on i and on its policy alone."""
    jobs: int = 1
    """Processes that play; 0 for one per CPU core. The episodes are the same for any number (of your own callables: if
    they keep no state)."""
    force: bool = False
    """Replace the dataset if it exists."""
    if_missing: bool = False
    """Do nothing if the dataset exists."""


def main(args: Args) -> None:
    """Collect the dataset and print what it holds.

    Raises:
        InputError: as `flowrl.envs.collecting.collect`.
    """
    if _is_there(args):
        return
    with one_at_a_time(args.dataset_id, lambda: _say_waiting(args.dataset_id)):
        if _is_there(args):  # another process has collected it meanwhile
            return
        collected = collect(
            args.dataset_id,
            env=args.env,
            policies=args.policy,
            normalizer=args.normalizer,
            steps=args.steps,
            seed=args.seed,
            jobs=args.jobs,
            force=args.force,
            command=_command(args),
            progress=True,
        )
    _print(collected)
    warn(*cautions_of(collected.dataset_id))


def _is_there(args: Args) -> bool:
    """Whether nothing is to be done, which is said.

    Raises:
        InputError: the dataset exists, and neither option that is about that was given.
    """
    there = []
    with suppress(OSError):  # there is no such root: the next step says why
        there = local_ids()
    if args.force or args.dataset_id not in there:
        return False
    where = f"dataset {args.dataset_id} exists already at {dataset_path(args.dataset_id)}"
    if not args.if_missing:
        raise InputError(f"{where}: --force replaces it")
    print(where)
    return True


def _say_waiting(dataset_id: str) -> None:
    print(f"another process collects {dataset_id}: waiting for it", flush=True)


def _print(collected: CollectedDataset) -> None:
    returns, steps = collected.returns, collected.steps
    speed = f"{collected.seconds:.1f} s ({steps / collected.seconds:,.0f} steps/s)"
    quantiles = "  ".join(f"{share:.0%} {np.quantile(returns, share):,.1f}" for share in QUANTILES)
    print(f"{collected.dataset_id}: {len(returns):,} episodes, {steps:,} steps in {speed}")
    print(f"returns: mean {returns.mean():,.1f}  quantiles {quantiles}")
    print(f"written to {collected.path}")
    print(f"next: {typed('train')} flow --dataset {collected.dataset_id}")


def _command(args: Args) -> str:
    """The command line that collects the same dataset again."""
    words = [args.dataset_id]
    words += [] if args.env is None else ["--env", args.env, "--policy", *args.policy]
    words += [] if args.normalizer is None else ["--normalizer", str(args.normalizer)]
    words += [] if args.steps is None else ["--steps", str(args.steps)]
    return f"{typed('collect')} {shlex.join([*words, '--seed', str(args.seed)])}"


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

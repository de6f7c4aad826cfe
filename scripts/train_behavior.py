"""Train the policies that `collect` plays, and keep snapshots of them from the first step on.

    flowrl train-behavior hopper

Needs the extra `flowrl[behavior]` (Stable-Baselines3). This script made the snapshots in `envs/policies/`; with the
same seed, versions and kind of machine it makes them again, if it is not interrupted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from flowrl.envs.behavior import POLICIES
from flowrl.envs.training import train_behavior
from flowrl.scripts.cli import parse, run, typed


@dataclass(frozen=True)
class Args:
    """Train the behavior policies of one environment and measure every snapshot."""

    env: Annotated[str, tyro.conf.Positional]
    """Which recipe: hopper, walker2d or halfcheetah."""
    steps: int | None = None
    """Stop after so many training steps, rounded up to whole chunks of the recipe; the recipe's number if not given."""
    seed: int | None = None
    """Seed of the training; the recipe's if not given."""
    episodes: int = 100
    """Episodes by which each snapshot is measured."""
    out: Path | None = None
    """Folder that receives a folder per environment with the snapshots and their returns, at the very end. If not
    given: envs/policies, or the run folder where --steps or --seed are not the recipe's."""
    run_dir: Path | None = None
    """Saved state, snapshots and learning curve; runs/behavior/ENV if not given. A killed training resumes from it."""


def main(args: Args) -> None:
    """Train (or resume), measure each snapshot, publish all of them, and print where they are.

    Raises:
        InputError: as `flowrl.envs.training.train_behavior`.
    """
    folder = train_behavior(
        args.env,
        steps=args.steps,
        seed=args.seed,
        episodes=args.episodes,
        out=args.out,
        run_dir=args.run_dir,
        report=partial(print, flush=True),
    )
    record = json.loads((folder / "snapshots.json").read_text(encoding="utf-8"))
    print(f"wrote {len(record['snapshots'])} snapshots to {folder}; stages {record['stages']}")
    if folder.parent == POLICIES:
        print(f"next: {typed('measure-references')}, then collect anew")


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

"""Measure the flowrl references: the returns of uniformly random actions and of the shipped expert, per environment.

    flowrl measure-references

Writes the table by which scores with flowrl references are normalised. D4RL's references are not measured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowrl.envs.references import SEED, measure_references
from flowrl.evaluation.reference_scores import REFERENCES
from flowrl.scripts.cli import parse, run


@dataclass(frozen=True)
class Args:
    """Measure the returns of uniformly random actions and of the expert, per environment that has one."""

    envs: tuple[str, ...] = ()
    """Which environments, as their folders in envs/policies are named, or pointmaze-umaze, pointmaze-medium,
    pointmaze-umaze-dense or pointmaze-medium-dense; the rows of the others are kept. If not given: all, and no other
    row is kept."""
    episodes_random: int = 1_000
    """Episodes of uniformly random actions."""
    episodes_expert: int = 200
    """Episodes of the expert, its actions sampled."""
    seed: int = SEED
    """Episode i depends on this seed and i alone. The default is not the seed by which the expert was chosen."""
    out: Path | None = None
    """The table; flowrl/evaluation/references.json if not given."""


def main(args: Args) -> None:
    """Measure, and write the table.

    Raises:
        InputError: as `flowrl.envs.references.measure_references`.
    """
    out = args.out or REFERENCES
    measure_references(
        args.envs,
        episodes_random=args.episodes_random,
        episodes_expert=args.episodes_expert,
        seed=args.seed,
        out=out,
        report=partial(print, flush=True),
    )
    print(f"written to {out}")


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

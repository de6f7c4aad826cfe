"""Play episodes with trained agents: a row for each, a table, and with several runs a comparison.

flowrl evaluate runs/hopper/flow-seed0 --episodes 100 --targets p50 best 2500
flowrl evaluate runs/hopper/flow-seed* runs/hopper/dt-seed* --out runs/hopper/report
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flowrl.api.evaluating import evaluate_runs
from flowrl.api.playable_runs import PlayOptions
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.scripts.cli import command, parse, run


@dataclass(frozen=True)
class Args:
    """Play episodes with trained agents: a row for each, a table, and with several runs a comparison."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, all of one dataset; their last checkpoints are played. A run is called as its folder is, without
    -seedN."""
    evaluation: EvaluationConfig = EvaluationConfig()
    playing: PlayOptions = PlayOptions()


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    args = parse(Args, argv)
    evaluate_runs(args.run_dirs, args.evaluation, args.playing, command())


if __name__ == "__main__":
    run(start)

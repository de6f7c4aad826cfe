"""Say what is in a dataset: one screen, one self-contained page, and every number as JSON.

    flowrl inspect flowrl/hopper/medium-replay-v0

In a checkout run it as a module: as a file, `inspect.py` would take the place of the standard library's `inspect`.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flowrl.data.d4rl import resolve
from flowrl.data.minari_store import open_dataset
from flowrl.data.selection import folder_name
from flowrl.errors import InputError
from flowrl.inspection import Inspection, inspect_dataset, screen, write_inspection
from flowrl.scripts.cli import parse, run

QUIET = 3.0  # seconds before progress is printed


@dataclass(frozen=True)
class Args:
    """Say what is in a dataset, whether it is sound, and whether returns can steer what is trained on it."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Minari id, a dataset's folder, or the D4RL name of a dataset whose file is in $D4RL_DATASET_DIR."""
    out: Path | None = None
    """Folder for index.html, returns.png and summary.json; by default runs/inspect/ID-WITH-DASHES."""
    env: str | None = None
    """Environment to check the transitions against; by default the one that the dataset names."""
    transitions: int = 100
    """How many stored transitions to check against the simulator; 0 leaves the simulator out."""
    seed: int = 0
    """Draws the transitions and steps that are checked."""
    trust: bool = False
    """Run whatever code the dataset names as its environment, also what neither Gymnasium nor your own modules have."""


def main(args: Args) -> Inspection:
    """Inspect a dataset, print the screen and write the files.

    Raises:
        InputError: there is no such dataset or environment, or an option is out of range.
    """
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is a file: it must be a folder, or not exist yet")
    began = time.monotonic()

    def say(step: str) -> None:
        if time.monotonic() - began > QUIET:
            print(f"{step} ({time.monotonic() - began:.0f} s)", flush=True)

    dataset = open_dataset(resolve(args.dataset))
    inspection = inspect_dataset(
        dataset, env=args.env, transitions=args.transitions, seed=args.seed, trust=args.trust, say=say
    )
    print(screen(inspection))
    folder = folder_name(dataset.id).lstrip(".") or "dataset"  # the data say what their id is
    for path in write_inspection(inspection, args.out or Path("runs/inspect") / folder):
        print(f"written to {path}")
    return inspection


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line; exit code 1 where training would refuse the dataset."""
    if main(parse(Args, argv)).refused:
        sys.exit(1)


if __name__ == "__main__":
    run(start)

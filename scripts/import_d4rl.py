"""Import a D4RL HDF5 file as a Minari dataset.

    flowrl import-d4rl hopper_medium-v2.hdf5

makes `d4rl/hopper/medium-v2`, which every other command takes. Nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from flowrl.data.d4rl import import_d4rl
from flowrl.evaluation.agreement import cautions_of
from flowrl.scripts.cli import parse, run, typed
from flowrl.training.tracking import warn


@dataclass(frozen=True)
class Args:
    """Import a D4RL HDF5 file as a Minari dataset, with D4RL's reference scores."""

    file: Annotated[str, tyro.conf.Positional]
    """The file, or D4RL's name of a dataset, as hopper-medium-v2, whose file is in $D4RL_DATASET_DIR (if that is not
    set: ~/.d4rl/datasets)."""
    dataset_id: str | None = None
    """Id of the Minari dataset. If not given: from the file's name, d4rl/hopper/medium-v2 for hopper_medium-v2.hdf5."""
    env: str | None = None
    """Environment to evaluate on, or "none". If not given: from the file's name, Hopper-v4 for Hopper, none where
    Gymnasium has none."""
    horizon: int | None = None
    """Steps after which an episode is cut in a file that has no timeouts (D4RL's v0). If not given: 1,000 for Hopper,
    HalfCheetah, Walker2d and Ant; for others such a file is refused."""
    allow_misaligned: bool = False
    """Import a file even if its flags are not where its episodes end."""
    force: bool = False
    """Replace the dataset if it exists."""


def main(args: Args) -> None:
    """Read the file, write it as a Minari dataset, and say what is in it.

    Raises:
        InputError: no such file or environment, an unusable file, an unknown name without an id, or the dataset exists.
    """
    print(f"reading {args.file}", flush=True)
    imported = import_d4rl(
        args.file,
        args.dataset_id,
        env=args.env,
        horizon=args.horizon,
        allow_misaligned=args.allow_misaligned,
        force=args.force,
    )
    print("\n".join(imported.summary()))
    if imported.file.mismatches:
        warn(f"{imported.source}: some flags are not where the episodes end")
    warn(*cautions_of(imported.dataset_id))
    print(f"next: {typed('train')} flow --dataset {imported.dataset_id}")


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

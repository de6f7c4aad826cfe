"""Import a D4RL HDF5 file as a Minari dataset.

    python -m scripts.import_d4rl hopper_medium-v2.hdf5

makes `d4rl/hopper/medium-v2`, which every other script takes. Nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.envs.registration import EnvSpec

from flowrl.data.d4rl import HORIZON, d4rl_name, find_file, import_file, minari_id
from flowrl.data.minari_store import COLLECTED_NAMESPACE, dataset_path
from flowrl.errors import InputError, cause
from flowrl.evaluation.reference_scores import Reference, d4rl_environment, d4rl_reference, reference_scores
from flowrl.scripts.cli import parse, run, warn


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
    """Import a file even if its flags do not stand where its episodes end."""
    force: bool = False
    """Replace the dataset if it exists."""


def main(args: Args) -> None:
    """Read the file, write it as a Minari dataset, and say what is in it.

    Raises:
        InputError: no such file or environment, an unusable file, an unknown name without an id, or the dataset exists.
    """
    path = Path(args.file)
    if not path.is_file():
        if d4rl_name(args.file) != args.file:
            raise InputError(f"{args.file!r} is neither a file nor a D4RL name, as hopper-medium-v2 is")
        path = find_file(args.file)
    name = d4rl_name(path.name)
    if name is None and args.dataset_id is not None:
        name = d4rl_name(args.dataset_id.removeprefix("d4rl/").replace("/", "-"))
    if args.dataset_id is None and name is None:
        raise InputError(
            f"{path.name} is no name of D4RL's, as hopper_medium-v2.hdf5 is: --dataset-id says what to call the dataset"
        )
    dataset_id = args.dataset_id or minari_id(str(name))
    if dataset_id.startswith(COLLECTED_NAMESPACE):
        raise InputError(f"{dataset_id}: names in {COLLECTED_NAMESPACE} are flowrl's own: choose another")
    locomotion = name is not None and d4rl_environment(name) is not None
    spec = _spec(name, args.env)
    reference = _reference(name, spec)
    print(f"reading {path}", flush=True)
    recording = import_file(
        path,
        dataset_id,
        env_spec=spec,
        reference_scores=None if reference is None else (reference.random, reference.expert),
        horizon=HORIZON if args.horizon is None and locomotion else args.horizon,
        allow_misaligned=args.allow_misaligned,
        force=args.force,
    )
    returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in recording.episodes])
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    quantiles = "  ".join(f"{share:.0%} {np.quantile(returns, share):,.1f}" for share in shares)
    print(f"{dataset_id}: {len(returns):,} episodes, {recording.steps:,} steps, {_environment(spec)}")
    print(f"returns: mean {returns.mean():,.1f}  quantiles {quantiles}")
    for note in recording.notes():
        print(note)
    if recording.mismatches:
        warn(f"{path}: some flags do not stand where the episodes end")
    if reference is None:
        print("reference scores: none are known")
    else:
        print(f"reference scores (D4RL's): random {reference.random:,.1f}, expert {reference.expert:,.1f}")
    print(f"written to {dataset_path(dataset_id)}")
    print(f"next: python -m scripts.train flow --dataset {dataset_id}")


def _spec(name: str | None, env: str | None) -> EnvSpec | None:
    env_id = env or (None if name is None else d4rl_environment(name))
    if env_id is None or env_id == "none":
        return None
    try:
        return gym.spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise InputError(f"unknown environment {env_id!r}: {cause(error)}") from error


def _reference(name: str | None, spec: EnvSpec | None) -> Reference | None:
    if name is not None:
        return d4rl_reference(name)
    return None if spec is None else reference_scores(spec.id).d4rl


def _environment(spec: EnvSpec | None) -> str:
    return "no environment" if spec is None else f"environment {spec.id}"


def resolve(dataset: str) -> str:
    """What `--dataset` means: D4RL's name of a dataset becomes its Minari id, imported on first use; all else stays.

    Raises:
        InputError: it is a D4RL name whose file is neither imported nor to be found, or which cannot be imported.
    """
    if d4rl_name(dataset) != dataset or Path(dataset).is_dir() or dataset_path(dataset).exists():
        return dataset
    dataset_id = minari_id(dataset)
    if dataset_path(dataset_id).exists():
        return dataset_id
    try:
        main(Args(dataset))
    except InputError:
        if not dataset_path(dataset_id).exists():  # another process may have imported it meanwhile
            raise
    return dataset_id


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

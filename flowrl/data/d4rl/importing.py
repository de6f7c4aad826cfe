"""D4RL's datasets by name or by file: where the file is, what its name implies, and its import into Minari."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.data.d4rl.names import (
    Reference,
    d4rl_environment,
    d4rl_name,
    d4rl_reference,
    environment_reference,
    file_stems,
    minari_id,
)
from flowrl.data.d4rl.reading import HORIZON, D4RLFile
from flowrl.data.d4rl.writing import import_file
from flowrl.data.environment_spec import environment_spec
from flowrl.data.minari_store import COLLECTED_NAMESPACE, dataset_path
from flowrl.errors import InputError

SOURCE = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True)
class Imported:
    """A D4RL file that is now a Minari dataset."""

    source: Path
    dataset_id: str
    env_spec: EnvSpec | None
    reference: Reference | None
    """D4RL's, where it is known."""
    file: D4RLFile

    def summary(self) -> list[str]:
        """What is in the dataset, a line each."""
        returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in self.file.episodes])
        shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
        quantiles = "  ".join(f"{share:.0%} {np.quantile(returns, share):,.1f}" for share in shares)
        environment = "no environment" if self.env_spec is None else f"environment {self.env_spec.id}"
        reference = "none are known"
        if self.reference is not None:
            reference = f"random {self.reference.random:,.1f}, expert {self.reference.expert:,.1f}"
        return [
            f"{self.dataset_id}: {len(returns):,} episodes, {self.file.steps:,} steps, {environment}",
            f"returns: mean {returns.mean():,.1f}  quantiles {quantiles}",
            *self.file.notes(),
            f"D4RL reference scores: {reference}",
            f"written to {dataset_path(self.dataset_id)}",
        ]


def import_d4rl(
    source: str,
    dataset_id: str | None = None,
    *,
    env: str | None = None,
    horizon: int | None = None,
    allow_misaligned: bool = False,
    force: bool = False,
) -> Imported:
    """Import a D4RL HDF5 file as a Minari dataset, with D4RL's reference scores.

    Args:
        source: the file, or D4RL's name of a dataset whose file `find_file` knows, as hopper-medium-v2.
        dataset_id: of the Minari dataset; None takes it from the file's name, d4rl/hopper/medium-v2 for
            hopper_medium-v2.hdf5.
        env: id of the environment to evaluate on, or "none"; None takes it from the file's name, Hopper-v4 for Hopper,
            and none where Gymnasium has none.
        horizon: steps after which an episode is cut in a file without timeouts; None is 1,000 for Hopper, HalfCheetah,
            Walker2d and Ant, and refuses such a file of another task.
        allow_misaligned: as `read_file`.
        force: replace a dataset of that id.

    Raises:
        InputError: no such file or environment, an unusable file, an unknown name without an id, or the dataset exists.
    """
    path = Path(source)
    if not path.is_file():
        if d4rl_name(source) != source:
            raise InputError(f"{source!r} is neither a file nor a D4RL name, as hopper-medium-v2 is")
        path = find_file(source)
    name = d4rl_name(path.name)
    if name is None and dataset_id is not None:
        name = d4rl_name(dataset_id.removeprefix("d4rl/").replace("/", "-"))
    if dataset_id is None:
        if name is None:
            raise InputError(f"{path.name} is no D4RL name, as hopper_medium-v2.hdf5 is: a dataset id is needed")
        dataset_id = minari_id(name)
    if dataset_id.startswith(COLLECTED_NAMESPACE):
        raise InputError(f"{dataset_id}: ids in {COLLECTED_NAMESPACE} are reserved for flowrl: choose another")
    d4rl_env = None if name is None else d4rl_environment(name)
    env_id = env or d4rl_env
    spec = None if env_id is None or env_id == "none" else environment_spec(env_id)
    reference = None if spec is None else environment_reference(spec.id)
    if name is not None:
        reference = d4rl_reference(name)
    file = import_file(
        path,
        dataset_id,
        env_spec=spec,
        reference_scores=None if reference is None else (reference.random, reference.expert),
        horizon=HORIZON if horizon is None and d4rl_env is not None else horizon,
        allow_misaligned=allow_misaligned,
        force=force,
    )
    return Imported(path, dataset_id, spec, reference, file)


def resolve(dataset: str) -> str:
    """The Minari id of D4RL's dataset of that name, imported on first use; any other text stays as it is.

    Raises:
        InputError: it is a D4RL name whose dataset is not imported and whose file is missing or cannot be imported.
    """
    if d4rl_name(dataset) != dataset or Path(dataset).is_dir() or dataset_path(dataset).exists():
        return dataset
    dataset_id = minari_id(dataset)
    if dataset_path(dataset_id).exists():
        return dataset_id
    print(f"importing D4RL's {dataset} as {dataset_id}", flush=True)
    try:
        print("\n".join(import_d4rl(dataset).summary()), flush=True)
    except InputError:
        if not dataset_path(dataset_id).exists():  # another process may have imported it meanwhile
            raise
    return dataset_id


def find_file(name: str) -> Path:
    """The HDF5 file of D4RL's dataset of that name, in `$D4RL_DATASET_DIR` or else in `~/.d4rl/datasets`.

    Raises:
        InputError: no D4RL name; no such file.
    """
    minari_id(name)
    folder = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
    stems = file_stems(name)
    for stem in stems:
        if (folder / f"{stem}.hdf5").is_file():
            return folder / f"{stem}.hdf5"
    raise InputError(
        f"no file of {name} is in {folder}, neither as {' nor as '.join(f'{stem}.hdf5' for stem in stems)}: download it"
        f" from D4RL ({SOURCE}) into that folder, or set D4RL_DATASET_DIR to the folder that has it"
    )

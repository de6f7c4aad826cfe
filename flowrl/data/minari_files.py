"""The two files of a Minari dataset: what Minari itself writes, but whole on the disk or an error that says why.

HDF5's own library is never let near the disk: where that is full it raises errors of many kinds, tries again when the
file is closed, and may end the process by a segmentation fault. So the file is made in memory and written plainly.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from flowrl.files import write_atomically

ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


@dataclass(frozen=True)
class Episode:
    """One episode of T steps with its T+1 observations, in raw units."""

    observations: NDArray[Any]  # (T+1, observation size)
    actions: NDArray[Any]  # (T, action size), or (T,) of whole numbers
    rewards: NDArray[Any]  # (T,)
    terminations: NDArray[np.bool_]  # (T,)
    truncations: NDArray[np.bool_]  # (T,)
    seed: int | None = None


@dataclass(frozen=True)
class DatasetDescription:
    """What a Minari dataset says about its episodes."""

    observation_space: gym.Space
    action_space: gym.Space
    algorithm: str
    """The behaviour policy, in a few words."""
    description: str
    """What the data are, in a sentence or more."""
    env_spec: EnvSpec | None = None
    """The environment to evaluate in."""
    reference_scores: tuple[float, float] | None = None
    """Mean return of a random and of an expert policy, kept as `ref_min_score` and `ref_max_score`."""
    requirements: Sequence[str] = ()
    """Requirements of pip that reproduce the data."""
    author: str | None = None
    code_permalink: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the dataset's metadata, plain values."""


def write_files(folder: Path, dataset_id: str, episodes: Sequence[Episode], about: DatasetDescription) -> None:
    """Write `metadata.json` and `main_data.hdf5` into a new folder.

    Raises:
        OSError: the disk is full or read-only; what is written so far stays.
    """
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, about.observation_space, about.action_space, about.env_spec, data_format="hdf5")
    write_atomically(folder / "main_data.hdf5", _hdf5(episodes))
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            **_entries(about),
            "minari_version": minari.__version__,
            "total_steps": sum(len(episode.rewards) for episode in episodes),
            "total_episodes": len(episodes),
            "dataset_size": _megabytes(folder),
            **about.metadata,
        }
    )
    with open(folder / "metadata.json", "rb+") as file:
        os.fsync(file.fileno())
    minari.MinariDataset(folder)  # what Minari cannot open is not published


def _entries(about: DatasetDescription) -> dict[str, Any]:
    """What Minari's metadata have a field for; what is not known is left out."""
    entries: dict[str, Any] = {"requirements": list(about.requirements)}
    known = {"code_permalink": about.code_permalink, "algorithm_name": about.algorithm}
    known |= {"author": about.author and {about.author}, "description": about.description}
    known |= {"eval_env_spec": about.env_spec and about.env_spec.to_json()}
    entries |= {name: value for name, value in known.items() if value is not None}
    if about.reference_scores is not None:
        entries |= dict(zip(("ref_min_score", "ref_max_score"), about.reference_scores, strict=True))
    return entries


def _megabytes(folder: Path) -> float:
    """The size of a folder's files; Minari's own function fails on a relative path."""
    return round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1)


def _hdf5(episodes: Sequence[Episode]) -> memoryview:
    """The bytes of the HDF5 file, laid out as Minari's are, so that Minari can append to it."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=True) as file:
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "total_steps": len(episode.rewards)})
            if episode.seed is not None:
                group.attrs["seed"] = episode.seed
            for name in ARRAYS:
                array = getattr(episode, name)
                group.create_dataset(name, data=array, chunks=True, maxshape=(None, *array.shape[1:]))
    return memory.getbuffer()

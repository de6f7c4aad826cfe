"""Datasets: random episodes of Hopper's shapes, and how fast they are loaded."""

import os
import tempfile
from functools import partial
from pathlib import Path
from unittest.mock import patch

import gymnasium as gym
import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, Episode, write_dataset
from flowrl.scripts.benchmarks.timing import Row, alternate, compared

OBSERVATION_SIZE, ACTION_SIZE, LENGTH = 11, 3, 1_000
ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


def random_episodes(count: int) -> list[Episode]:
    """Episodes of 1,000 random steps, in the precisions of Minari's Hopper datasets."""
    generator = np.random.default_rng(0)
    return [
        Episode(
            observations=generator.standard_normal((LENGTH + 1, OBSERVATION_SIZE)),
            actions=generator.uniform(-1, 1, (LENGTH, ACTION_SIZE)).astype(np.float32),
            rewards=generator.random(LENGTH),
            terminations=np.zeros(LENGTH, bool),
            truncations=np.arange(LENGTH) == LENGTH - 1,
        )
        for _ in range(count)
    ]


def random_dataset(episodes: int) -> TrajectoryDataset:
    """The same, loaded."""
    parts = random_episodes(episodes)
    return TrajectoryDataset.from_arrays(
        [part.observations for part in parts],
        [part.actions for part in parts],
        [part.rewards for part in parts],
        [False] * episodes,
        id="random/hopper/medium-v0",  # so that agents take the papers' settings of this task
        action_low=-1.0,
        action_high=1.0,
    )


def loading(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """A Minari dataset on disk, in the page cache, into tensors; the first time without flowrl's cache beside it."""
    episodes = 20 if quick else 1_000
    with tempfile.TemporaryDirectory() as root:
        with patch.dict(os.environ, MINARI_DATASETS_PATH=root):
            about = DatasetDescription(
                observation_space=gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64),
                action_space=gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32),
                algorithm="random",
                description="random numbers in Hopper's shapes",
                env_spec=gym.spec("Hopper-v5"),
            )
            path = write_dataset("bench/random-v0", random_episodes(episodes), about)

        def first_load() -> None:
            (path / "data" / CACHE_NAME).unlink(missing_ok=True)
            TrajectoryDataset.from_minari(str(path)).to(device)

        calls = {
            "h5py": partial(read_arrays, path),
            "first load": first_load,
            "later load": lambda: TrajectoryDataset.from_minari(str(path)).to(device),
        }
        return compared(f"{episodes:,} episodes of {LENGTH:,} steps", alternate(calls, repetitions))


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Every array of every episode by h5py's plain interface, then end to end."""
    parts: dict[str, list[NDArray]] = {name: [] for name in ARRAYS}
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        for index in range(len(file)):
            for name in ARRAYS:
                dataset = file[f"episode_{index}/{name}"]
                assert isinstance(dataset, h5py.Dataset)
                parts[name].append(dataset[()])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}

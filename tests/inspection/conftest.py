"""Three episodes that can be counted by hand, their statistics, and datasets to inspect."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowrl.data.minari_store import DatasetDescription, Episode, write_dataset
from flowrl.data.spaces import Column
from flowrl.data.stored_arrays import StoredArrays
from flowrl.inspection.features import Layout
from flowrl.inspection.statistics import Statistics, summarise
from flowrl.scripts import collect

HOPPER = "flowrl/hopper/medium-v0"


def three_episodes() -> StoredArrays:
    """Three episodes of 2, 1 and 3 steps; returns 3, −1 and 6."""
    return StoredArrays(
        np.array([[0, 7], [1, 7], [2, 7], [3, 7], [4, 7], [5, 7], [6, 7], [7, 7], [8, 7]], np.float32),
        np.array([[-1], [1], [0], [1], [1], [0.5]], np.float32),
        np.array([1, 2, -1, 3, 2, 1], np.float32),
        np.array([False, True, False, False, False, False]),
        np.array([False, False, True, False, False, False]),
        np.array([2, 1, 3]),
    )


def numbered_layout(arrays: StoredArrays, action_low=None, action_high=None) -> Layout:
    """Columns with numbers for names."""
    observations = [Column(f"observation[{number}]") for number in range(arrays.observations.shape[1])]
    actions = [Column(f"action[{number}]") for number in range(arrays.actions.shape[1])]
    return Layout(observations, actions, action_low, action_high)


@pytest.fixture(name="numbered_layout")
def numbered_layout_fixture() -> Callable[..., Layout]:
    """`numbered_layout` of this file."""
    return numbered_layout


@pytest.fixture
def tiny() -> StoredArrays:
    """Three episodes of 2, 1 and 3 steps; returns 3, −1 and 6."""
    return three_episodes()


@pytest.fixture
def tiny_statistics() -> Callable[..., Statistics]:
    """Summarises arrays of three episodes, these if none are given, with action bounds −1 and 1."""

    def summarised(arrays: StoredArrays | None = None, references=None, **bounds) -> Statistics:
        arrays = arrays or three_episodes()
        bounds = {"action_low": np.array([-1.0]), "action_high": np.array([1.0])} | bounds
        return summarise(arrays, (4, 5, 9), numbered_layout(arrays, **bounds), references or {})

    return summarised


@pytest.fixture(scope="session")
def hopper_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of some 600 steps of `flowrl/hopper/medium-v0`."""
    root: Path = tmp_path_factory.mktemp("hopper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect.main(collect.Args(HOPPER, steps=600))
    return str(root / HOPPER)


@pytest.fixture
def changed(minari_root: Path) -> Callable[..., str]:
    """Writes a dataset again with `change(observations, actions, rewards)` of every episode, without its seeds."""

    def write(dataset, change, **keywords) -> str:
        episodes = []
        for e in dataset.iterate_episodes():
            observations, actions, rewards = change(e.observations, e.actions, e.rewards)
            terminations, truncations = e.terminations[-len(rewards) :], e.truncations[-len(rewards) :]
            episodes.append(Episode(observations, actions, rewards, terminations, truncations))
        spaces = {"observation_space": dataset.observation_space, "action_space": dataset.action_space}
        about = {"algorithm": "none", "description": "changed", "env_spec": dataset.env_spec, **spaces}
        write_dataset("test/changed-v0", episodes, DatasetDescription(**(about | keywords)))
        return "test/changed-v0"

    return write

"""Data of Hopper's shapes without a simulator."""

import gymnasium as gym
import numpy as np

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import Episode
from flowrl.data.stored_arrays import StoredArrays
from flowrl.scripts.benchmarks.setting import ACTION_SIZE, OBSERVATION_SIZE

LENGTH = 1_000  # steps of an episode, the limit of the MuJoCo tasks

OBSERVATIONS = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64)
ACTIONS = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)


def dataset(episodes: int) -> TrajectoryDataset:
    """Random episodes of `LENGTH` steps, in memory."""
    generator = np.random.default_rng(0)
    steps = episodes * LENGTH
    cut = np.zeros(steps, bool)
    cut[LENGTH - 1 :: LENGTH] = True
    arrays = StoredArrays(
        observations=generator.standard_normal((steps + episodes, OBSERVATION_SIZE), np.float32),
        actions=generator.uniform(-1, 1, (steps, ACTION_SIZE)).astype(np.float32),
        rewards=generator.random(steps, np.float32),
        terminations=np.zeros(steps, bool),
        truncations=cut,
        lengths=np.full(episodes, LENGTH, np.int64),
    )
    return TrajectoryDataset.from_stored_arrays("synthetic", arrays, action_low=ACTIONS.low, action_high=ACTIONS.high)


def stored_episodes(episodes: int) -> list[Episode]:
    """The same in the precisions that Minari's Hopper datasets are stored in."""
    generator = np.random.default_rng(0)
    last = np.arange(LENGTH) == LENGTH - 1
    return [
        Episode(
            observations=generator.standard_normal((LENGTH + 1, OBSERVATION_SIZE)),
            actions=generator.uniform(-1, 1, (LENGTH, ACTION_SIZE)).astype(np.float32),
            rewards=generator.random(LENGTH),
            terminations=np.zeros(LENGTH, bool),
            truncations=last,
            seed=number,
        )
        for number in range(episodes)
    ]

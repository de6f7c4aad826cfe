"""PointMaze: a fixed goal in the observation, rewards as defined, and data without a way from start to goal."""

import builtins

import gymnasium as gym
import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.collecting import collect
from flowrl.envs.mixtures import dataset_ids, mixture
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.pointmaze import MAZES, PointMaze, pointmaze_controller
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.inspection import inspect_dataset

IDS = [dataset_id for dataset_id in dataset_ids() if dataset_id.startswith("flowrl/pointmaze/")]


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("gymnasium_robotics"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="extra `maze`.*pip install gymnasium-robotics"):
        make_env("flowrl/PointMazeUMaze-v0")


@pytest.mark.parametrize("wrong", [{"maze": "large"}, {"reward": "none"}, {"start": "here"}])
def test_an_unknown_argument_is_refused(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        PointMaze(**wrong)


@pytest.mark.parametrize("dataset_id", IDS)
def test_no_episode_goes_from_start_to_goal_and_rewards_are_as_defined(dataset_id):
    pytest.importorskip("gymnasium_robotics")
    collect(dataset_id, steps=4_000)
    dataset = TrajectoryDataset.from_minari(dataset_id)
    spec = mixture(dataset_id).env
    assert (dataset.env_spec.id, dataset.env_spec.kwargs) == (spec.id, spec.kwargs), "evaluation starts at the start"
    maze = MAZES[spec.kwargs["maze"]]
    goal = maze.centre(maze.goal)
    np.testing.assert_allclose(dataset.observations[:, 4:], np.broadcast_to(goal, (dataset.steps, 2)))
    reached = np.empty((dataset.steps, 2))
    for episode, (start, length) in enumerate(zip(dataset.starts.tolist(), dataset.lengths.tolist(), strict=True)):
        positions = dataset.observations[start : start + length, :2].numpy()
        reached[start : start + length - 1] = positions[1:]
        reached[start + length - 1] = dataset.final_observations[episode, :2]
        cells = {maze.cell(x, y) for x, y in positions}
        assert not {maze.start, maze.goal} <= cells
    distance = np.linalg.norm(reached - goal, axis=1)
    expected = np.exp(-distance) if spec.kwargs["reward"] == "dense" else distance <= 0.45
    np.testing.assert_allclose(dataset.rewards, expected, atol=1e-5)
    assert not dataset.terminated.any()


def test_the_controller_goes_all_the_way_and_returns_the_reference():
    pytest.importorskip("gymnasium_robotics")
    for maze, name in (("umaze", "UMaze"), ("medium", "Medium")):
        for suffix in ("", "Dense"):
            env_id = f"flowrl/PointMaze{name}{suffix}-v0"
            player = EpisodePlayer(make_env(env_id))
            returns = [player.episode(pointmaze_controller(maze), 1, index).rewards.sum() for index in range(5)]
            reference = reference_scores(env_id).flowrl
            assert np.mean(returns) == pytest.approx(reference.expert, rel=0.05)
            assert reference.random < 0.25 * reference.expert


def test_its_transitions_are_what_the_simulator_does_and_its_best_needs_stitching():
    pytest.importorskip("gymnasium_robotics")
    collect("flowrl/pointmaze/umaze-v0", steps=16_000)
    inspection = inspect_dataset("flowrl/pointmaze/umaze-v0")
    assert inspection.alignment.verdict == "aligned", inspection.alignment.sentence
    assert inspection.stitching.verdict == "yes", inspection.stitching
    assert inspection.stitching.alone == 0


def test_the_same_seed_collects_the_same_data_in_the_registered_environment():
    pytest.importorskip("gymnasium_robotics")
    fingerprints = []
    for seed in (3, 3, 4):
        collect("flowrl/pointmaze/umaze-v0", steps=200, seed=seed, force=True)
        fingerprints.append(TrajectoryDataset.from_minari("flowrl/pointmaze/umaze-v0").fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert gym.spec("flowrl/PointMazeUMaze-v0").kwargs == {"maze": "umaze", "reward": "sparse"}

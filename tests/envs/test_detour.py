"""Detour's rules, its optimum by dynamic programming, and that its data hold no way from the start to the goal."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.behavior import UniformPolicy
from flowrl.envs.collecting import collect
from flowrl.envs.detour import HORIZON, STEP, Detour, detour_controller
from flowrl.envs.maze_map import HOOK
from flowrl.envs.playing import EpisodePlayer
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import reference_scores

STRETCHES, WHOLE = "flowrl/detour/stretches-v0", "flowrl/detour/whole-v0"


def test_the_rules_by_hand():
    env = Detour()
    observation, _ = env.reset(options={"start": HOOK.centre((1, 4))})
    np.testing.assert_allclose(observation, HOOK.centre((1, 4)))
    # Up is a wall, so the move along y is not made; left by a tenth of a step.
    observation, *rest, _ = env.step(np.array([-0.1, 1.0], np.float32))
    np.testing.assert_allclose(observation, HOOK.centre((1, 4)) - [0.1 * STEP, 0.0], atol=1e-6)
    assert rest == [0.0, False, False]
    # Actions are clipped to the bounds: the middle of the goal's cell would be too near for −2.
    observation, *rest, _ = env.step(np.array([-2.0, 0.0], np.float32))
    np.testing.assert_allclose(observation, HOOK.centre((1, 4)) - [1.1 * STEP, 0.0], atol=1e-6)
    assert rest == [1.0, True, False]


def test_gymnasiums_checker_passes():
    check_env(gym.make("flowrl/Detour-v0").unwrapped, skip_render_check=True)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start is 'here'"):
        Detour(start="here")


def steps_to_the_goal(start):
    """The fewest steps with actions of −1, 0 and 1 on each axis: every reachable point, breadth first."""
    env, points, seen = Detour(), [tuple(start)], {tuple(start)}
    actions = [np.array(action, np.float32) for action in product((-1, 0, 1), repeat=2)]
    for step in range(1, HORIZON + 1):
        following = []
        for point, action in product(points, actions):
            env.reset(options={"start": point})
            observation, _, terminated, *_ = env.step(action)
            if terminated:
                return step
            if (reached := tuple(observation)) not in seen:
                seen.add(reached)
                following.append(reached)
        points = following
    return None


def test_the_optimum_is_one_and_the_controller_attains_it_in_nearly_the_fewest_steps():
    fewest = steps_to_the_goal(HOOK.centre(HOOK.start))
    assert fewest is not None
    player = EpisodePlayer(make_env("flowrl/Detour-v0"))
    for index in range(50):
        episode = player.episode(detour_controller(), 1, index)
        assert episode.rewards.sum() == 1.0
        assert fewest - 2 <= len(episode.rewards) <= fewest + 5


def test_the_references_are_what_the_policies_get():
    reference = reference_scores("flowrl/Detour-v0").flowrl
    player = EpisodePlayer(make_env("flowrl/Detour-v0"))
    uniform = UniformPolicy(-np.ones(2), np.ones(2))
    returns = [player.episode(uniform, 1, index).rewards.sum() for index in range(500)]
    assert np.mean(returns) == pytest.approx(reference.random, abs=0.02)
    assert reference.expert == 1.0


def passes(episode_observations, cell):
    return any(HOOK.cell(x, y) == cell for x, y in episode_observations)


def episodes(dataset_id):
    """(steps + 1, 2) observations of each episode."""
    dataset = TrajectoryDataset.from_minari(dataset_id)
    for start, length, final in zip(dataset.starts, dataset.lengths, dataset.final_observations, strict=True):
        yield np.concatenate([dataset.observations[start : start + length].numpy(), final[None].numpy()])


def test_no_stretch_goes_from_the_start_to_the_goal_but_whole_ways_do():
    for dataset_id, some in ((STRETCHES, False), (WHOLE, True)):
        collect(dataset_id, steps=3_000, seed=1)
        both = [passes(each, HOOK.start) and passes(each, HOOK.goal) for each in episodes(dataset_id)]
        assert any(both) == some
    # Every cell is visited, so that there is something to stitch.
    assert {HOOK.cell(x, y) for each in episodes(STRETCHES) for x, y in each} == set(HOOK.free())


def test_rewards_are_those_of_the_evaluation_and_the_stored_environment_is_it():
    collect(STRETCHES, steps=1_000)
    dataset = TrajectoryDataset.from_minari(STRETCHES)
    assert dataset.env_spec == gym.spec("flowrl/Detour-v0")
    arrived = np.array([HOOK.cell(*point) == HOOK.goal for point in dataset.final_observations.tolist()])
    np.testing.assert_array_equal(dataset.returns.numpy(), arrived)
    np.testing.assert_array_equal(dataset.terminated.numpy(), arrived)
    assert arrived.any()


def test_the_same_seed_collects_the_same_data():
    fingerprints = []
    for seed in (3, 3, 4):
        collect(STRETCHES, steps=300, seed=seed, force=True)
        fingerprints.append(TrajectoryDataset.from_minari(STRETCHES).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]

"""An episode depends on its seed, its number and its policy alone, in one process and in several."""

from functools import cache

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.mixtures import mixture
from flowrl.envs.own_policies import CallablePolicy
from flowrl.envs.playing import EpisodePlayer, play_episodes
from flowrl.envs.tiny import Reach, ReachPolicy
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env

BOUNDS = np.array([-2.0, -1.0], np.float32), np.array([3.0, 2.0], np.float32)


def assert_equal(one, other):
    for name, array in vars(one).items():
        np.testing.assert_array_equal(array, getattr(other, name))


def test_an_episode_depends_on_its_seed_and_number_alone():
    player, policy = EpisodePlayer(make_env("flowrl/Reach-v0")), ReachPolicy(0.3, noise=1.0)
    forwards = [player.episode(policy, 5, index) for index in range(4)]
    backwards = [player.episode(policy, 5, index) for index in reversed(range(4))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert_equal(one, other)
    assert len({episode.seed for episode in forwards}) == 4
    assert player.episode(policy, 6, 0).seed != forwards[0].seed


def test_episodes_are_whole_aligned_and_in_equal_shares():
    policies = [ReachPolicy(speed) for speed in (-1.0, 0.0, 1.0)]
    episodes = list(play_episodes("flowrl/Reach-v0", policies, steps=100, seed=0))
    for episode in episodes:
        length = len(episode.rewards)
        assert episode.observations.shape == (length + 1, 3)
        assert episode.actions.shape == (length, 2)
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (length - 1) + [True]
    assert [len(e.rewards) for e in episodes if e.truncations[-1]] == [
        16,
        16,
        16,
    ]  # standing still: its share is 34 steps
    assert sum(len(e.rewards) for e in episodes) <= 100 + 2 + 3 * 15


@cache
def collected(dataset_id):
    recipe = mixture(dataset_id)
    return list(play_episodes(recipe.env, recipe.policies, steps=800, seed=1))


@pytest.mark.parametrize("which", [0, "middle", -1])
@pytest.mark.parametrize("dataset_id", ["flowrl/reach/mixed-v0", "flowrl/hopper/medium-replay-v0"])
def test_replaying_the_stored_actions_gives_the_stored_episode(dataset_id, which):
    episodes = collected(dataset_id)
    episode = episodes[len(episodes) // 2 if which == "middle" else which]
    fresh = gym.make(mixture(dataset_id).env)
    observation, _ = fresh.reset(seed=episode.seed)
    np.testing.assert_array_equal(observation, episode.observations[0])
    for time, action in enumerate(episode.actions):
        observation, reward, terminated, truncated, _ = fresh.step(action)
        np.testing.assert_array_equal(observation, episode.observations[time + 1])
        assert reward == episode.rewards[time]
        assert terminated == episode.terminations[time]
        assert truncated == episode.truncations[time]
    assert episode.observations.base is None, "an episode must not be a view of a buffer that is used again"


def test_any_number_of_jobs_plays_the_same_episodes():
    policies = [ReachPolicy(speed, noise=0.5) for speed in (-1.0, 0.3, 1.0)]
    alone, beside = (list(play_episodes("flowrl/Reach-v0", policies, steps=150, seed=3, jobs=jobs)) for jobs in (1, 2))
    assert len(alone) > 15
    for one, other in zip(alone, beside, strict=True):
        assert_equal(one, other)


def test_a_policy_that_fails_in_another_process_fails_here():
    with pytest.raises(InputError, match="policy math:sin failed: TypeError"):
        list(play_episodes("flowrl/Reach-v0", [CallablePolicy("math", "sin", *BOUNDS)], steps=10, seed=0, jobs=2))


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="at least one step, one policy and one job, not 0, 1 and 1"):
        play_episodes("flowrl/Reach-v0", [ReachPolicy(1.0)], steps=0, seed=0)
    with pytest.raises(InputError, match="not 5, 1 and 0"):
        play_episodes("flowrl/Reach-v0", [ReachPolicy(1.0)], steps=5, seed=0, jobs=0)
    with pytest.raises(InputError, match="no time limit"):
        EpisodePlayer(Reach())
    with pytest.raises(InputError, match="a Box and a Box or Discrete are supported"):
        EpisodePlayer(gym.make("FrozenLake-v1"))

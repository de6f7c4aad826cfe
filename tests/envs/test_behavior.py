"""The numpy policy is the network it came from, and an episode is determined by its seed and number alone."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.behavior import (
    POLICIES,
    BehaviorPolicy,
    Player,
    dataset_ids,
    mixture,
    read_policy,
    rollout_episodes,
    shipped_policy,
)
from flowrl.envs.own_policies import CallablePolicy
from flowrl.envs.tiny import Reach, ReachPolicy
from flowrl.evaluation.environments import make_env

BOUNDS = np.array([-2.0, -1.0], np.float32), np.array([3.0, 2.0], np.float32)


def random_policy(rng, observation_size=5, width=7, action_size=3):
    sizes = [observation_size, width, width, action_size]
    return BehaviorPolicy(
        weights=tuple(rng.normal(size=(out, into)) for into, out in pairwise(sizes)),
        biases=tuple(rng.normal(size=out) for out in sizes[1:]),
        log_std=rng.normal(size=action_size),
        observation_mean=rng.normal(size=observation_size),
        observation_std=rng.uniform(0.5, 2, observation_size),
        observation_clip=1.5,
        low=np.array([-0.4, -2.0, 0.1]),
        high=np.array([0.3, 1.0, 1.5]),
    )


def by_hand(policy, observation, noise):
    """The same action with loops over plain floats."""
    hidden = []
    for value, mean, std in zip(observation, policy.observation_mean, policy.observation_std, strict=True):
        hidden.append(min(max((value - mean) / std, -policy.observation_clip), policy.observation_clip))
    for layer, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        hidden = [sum(w * h for w, h in zip(row, hidden, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        if layer < len(policy.weights) - 1:
            hidden = [math.tanh(h) for h in hidden]
    sampled = [h + math.exp(s) * n for h, s, n in zip(hidden, policy.log_std, noise, strict=True)]
    return [min(max(a, low), high) for a, low, high in zip(sampled, policy.low, policy.high, strict=True)]


def test_the_action_equals_an_oracle_of_loops():
    rng = np.random.default_rng(0)
    for seed in range(20):
        policy = random_policy(rng)
        observation = rng.normal(size=5) * 3
        noise = np.random.default_rng(seed).standard_normal(3)
        action = policy.act(observation, np.random.default_rng(seed))
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, by_hand(policy, observation, noise), rtol=1e-6)
        np.testing.assert_allclose(policy.act(observation), by_hand(policy, observation, np.zeros(3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        ([1.1, 0.1, -0.4, 0.0, 0.8, 1.2, -1.3, -0.3, -1.8, 0.0, 0.0], [0.012347, 0.077214, 0.526977]),
        ([1.5, 0.0, -0.2, -0.5, -0.8, 3.3, 1.4, 1.9, 0.2, 4.2, 0.5], [0.437868, -0.664878, -0.843686]),
        ([1.4, 0.0, -0.3, -0.4, -0.8, 3.0, 1.1, 1.4, 0.9, 2.2, 0.6], [0.064437, 0.382197, -0.732965]),
        ([30.0] * 11, [-1.0, -1.0, -1.0]),
    ],
)
def test_the_shipped_expert_acts_as_stable_baselines_did(observation, action):
    # From model.predict(normalizer.normalize_obs(observation), deterministic=True) where it was trained.
    np.testing.assert_allclose(shipped_policy("hopper", "573440").act(np.array(observation)), action, atol=5e-6)


def test_a_batch_equals_its_rows():
    policy = random_policy(np.random.default_rng(1))
    observations = np.random.default_rng(2).normal(size=(11, 5))
    np.testing.assert_allclose(policy.mean(observations), [policy.mean(row) for row in observations], rtol=1e-12)


def test_the_weights_survive_the_file(tmp_path: Path):
    policy = random_policy(np.random.default_rng(3))
    arrays = {f"weight_{i}": weight for i, weight in enumerate(policy.weights)}
    arrays |= {f"bias_{i}": bias for i, bias in enumerate(policy.biases)}
    for name in ("log_std", "observation_mean", "observation_std", "observation_clip", "low", "high"):
        arrays[name] = getattr(policy, name)
    np.savez(tmp_path / "policy.npz", **arrays)
    read = read_policy(tmp_path / "policy.npz")
    observation = np.random.default_rng(4).normal(size=5)
    np.testing.assert_array_equal(read.act(observation), policy.act(observation))


def test_every_shipped_policy_loads_without_pickle_and_is_small():
    stages = ["random", "early", "medium", "expert"]
    assert all(shipped_policy("hopper", stage).low.tolist() == [-1, -1, -1] for stage in stages)
    files = sorted((POLICIES / "hopper").glob("*.npz"))
    assert 10 <= len(files) <= 16
    for file in files:
        assert file.stat().st_size < 64_000
        assert np.isfinite(shipped_policy("hopper", str(int(file.stem))).mean(np.zeros(11))).all()


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"no behaviour policies for 'hooper'; known are .*hopper"):
        shipped_policy("hooper", "medium")
    with pytest.raises(ValueError, match=r"no stage 'best'; known are random, early, medium, expert, 0"):
        shipped_policy("hopper", "best")
    known = r"did you mean flowrl/hopper/medium-replay-v0\?.*known are .*flowrl/hopper/\{random,medium,medium-replay,"
    with pytest.raises(ValueError, match=known):
        mixture("flowrl/hopper/replay-v0")


@pytest.mark.parametrize("dataset_id", dataset_ids())
def test_every_dataset_has_its_policies(dataset_id):
    recipe = mixture(dataset_id)
    assert recipe.policies
    assert recipe.env.max_episode_steps


def test_the_nine_of_d4rls_protocol_are_there_with_random_and_expert():
    for robot in ("hopper", "halfcheetah", "walker2d"):
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert"):
            assert f"flowrl/{robot}/{level}-v0" in dataset_ids()


def test_medium_replay_goes_from_the_random_policy_to_the_medium_one():
    members = mixture("flowrl/hopper/medium-replay-v0").policies
    assert len(members) >= 5
    for member, stage in [(members[0], "random"), (members[-1], "medium")]:
        np.testing.assert_array_equal(member.weights[0], shipped_policy("hopper", stage).weights[0])


def test_an_episode_depends_on_its_seed_and_number_alone():
    player, policy = Player(make_env("flowrl/Reach-v0")), ReachPolicy(0.3, noise=1.0)
    forwards = [player.episode(policy, 5, index) for index in range(4)]
    backwards = [player.episode(policy, 5, index) for index in reversed(range(4))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        for name, array in one._asdict().items():
            np.testing.assert_array_equal(array, getattr(other, name))
    assert len({rollout.seed for rollout in forwards}) == 4
    assert player.episode(policy, 6, 0).seed != forwards[0].seed


def test_rollouts_are_whole_aligned_and_in_equal_shares():
    policies = [ReachPolicy(speed) for speed in (-1.0, 0.0, 1.0)]
    rollouts = list(rollout_episodes("flowrl/Reach-v0", policies, steps=100, seed=0))
    for rollout in rollouts:
        length = len(rollout.rewards)
        assert rollout.observations.shape == (length + 1, 3)
        assert rollout.actions.shape == (length, 2)
        ends = rollout.terminations | rollout.truncations
        assert ends.tolist() == [False] * (length - 1) + [True]
    assert [len(r.rewards) for r in rollouts if r.truncations[-1]] == [16, 16, 16]  # standing still: 34 steps due
    assert sum(len(r.rewards) for r in rollouts) <= 100 + 2 + 3 * 15


@cache
def collected(dataset_id):
    recipe = mixture(dataset_id)
    return list(rollout_episodes(recipe.env, recipe.policies, steps=800, seed=1))


@pytest.mark.parametrize("which", [0, "middle", -1])
@pytest.mark.parametrize("dataset_id", ["flowrl/reach/mixed-v0", "flowrl/hopper/medium-replay-v0"])
def test_replaying_the_stored_actions_gives_the_stored_episode(dataset_id, which):
    rollouts = collected(dataset_id)
    rollout = rollouts[len(rollouts) // 2 if which == "middle" else which]
    fresh = gym.make(mixture(dataset_id).env)
    observation, _ = fresh.reset(seed=rollout.seed)
    np.testing.assert_array_equal(observation, rollout.observations[0])
    for time, action in enumerate(rollout.actions):
        observation, reward, terminated, truncated, _ = fresh.step(action)
        np.testing.assert_array_equal(observation, rollout.observations[time + 1])
        assert reward == rollout.rewards[time]
        assert terminated == rollout.terminations[time]
        assert truncated == rollout.truncations[time]
    assert rollout.observations.base is None, "an episode must not be a view of a buffer that is used again"


def test_any_number_of_jobs_plays_the_same_episodes():
    policies = [ReachPolicy(speed, noise=0.5) for speed in (-1.0, 0.3, 1.0)]
    alone, beside = (
        list(rollout_episodes("flowrl/Reach-v0", policies, steps=150, seed=3, jobs=jobs)) for jobs in (1, 2)
    )
    assert len(alone) > 15
    for one, other in zip(alone, beside, strict=True):
        for name, array in one._asdict().items():
            np.testing.assert_array_equal(array, getattr(other, name))


def test_a_policy_that_fails_in_another_process_fails_here():
    with pytest.raises(ValueError, match="policy math:sin failed: TypeError"):
        list(rollout_episodes("flowrl/Reach-v0", [CallablePolicy("math", "sin", *BOUNDS)], steps=10, seed=0, jobs=2))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least one step, one policy and one job, not 0, 1 and 1"):
        rollout_episodes("flowrl/Reach-v0", [ReachPolicy(1.0)], steps=0, seed=0)
    with pytest.raises(ValueError, match="not 5, 1 and 0"):
        rollout_episodes("flowrl/Reach-v0", [ReachPolicy(1.0)], steps=5, seed=0, jobs=0)
    with pytest.raises(ValueError, match="no time limit"):
        Player(Reach())
    with pytest.raises(ValueError, match="Box spaces are supported"):
        Player(gym.make("CartPole-v1"))

"""A simulator put into the state of an observation goes on as it did then."""

import gymnasium as gym
import numpy as np
import pytest

from flowrl.evaluation.as_recorded import with_action_bounds
from flowrl.evaluation.environments import make_env
from flowrl.inspection.replay import is_clipped, replay, set_state, step_from


def play(env_id, steps, seed=0):
    env = make_env(env_id)
    generator = np.random.default_rng(seed)
    observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
    for _ in range(steps):
        action = generator.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        if terminated or truncated:
            break
    env.close()
    return np.array(observations), np.array(actions), np.array(rewards)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("env_id", ["flowrl/Reach-v0", "Hopper-v5", "Hopper-v4", "Walker2d-v5", "Swimmer-v5"])
def test_every_step_from_its_observation_gives_the_next(env_id, dtype):
    observations, actions, rewards = play(env_id, 12)
    env = make_env(env_id)
    env.reset(seed=99)
    compared = 0
    for time in reversed(range(len(actions))):  # in an order that no episode has
        if is_clipped(env, observations[time]):
            continue
        following, reward = step_from(env, observations[time].astype(dtype), actions[time])
        tolerance = 1e-9 if dtype is np.float64 else 1e-4
        np.testing.assert_allclose(following, observations[time + 1], atol=tolerance)
        assert reward == pytest.approx(rewards[time], abs=tolerance)
        compared += 1
    assert compared >= 3
    env.close()


def test_scaled_actions_are_scaled_from_the_outside_to_the_inside():
    spec = with_action_bounds(with_action_bounds(gym.spec("flowrl/Reach-v0"), [-1, -1], [1, 1]), [0, 0], [10, 4])
    observations, actions, rewards = play(spec, 6)
    assert actions[:, 0].max() > 3, "not those of the environment"
    env = make_env(spec)
    env.reset(seed=99)
    for time in range(len(actions)):
        following, reward = step_from(env, observations[time], actions[time])
        np.testing.assert_allclose(following, observations[time + 1], atol=1e-6)
        assert reward == pytest.approx(rewards[time], abs=1e-6)
    env.close()


@pytest.mark.parametrize("env_id", ["Ant-v5", "Ant-v4"])
def test_ant_gives_the_next_observation_and_nearly_the_reward(env_id):
    # Its reward takes the torso's position as it was a fifth of a step ago, which no observation shows.
    observations, actions, rewards = play(env_id, 5)
    env = make_env(env_id)
    env.reset(seed=99)
    for time in range(5):
        following, reward = step_from(env, observations[time], actions[time])
        np.testing.assert_allclose(following, observations[time + 1], atol=1e-9)
        assert reward == pytest.approx(rewards[time], abs=0.2)
    env.close()


@pytest.mark.parametrize("env_id", ["Reacher-v5", "InvertedDoublePendulum-v5", "Pendulum-v1", "CartPole-v1"])
def test_a_state_that_no_observation_gives_is_not_set(env_id):
    env = gym.make(env_id)
    observation, _ = env.reset(seed=0)
    assert not set_state(env, observation)
    assert step_from(env, observation, env.action_space.sample()) is None
    env.close()


@pytest.mark.parametrize(
    ("env_id", "bad"),
    [
        ("Hopper-v5", np.full(11, np.nan)),
        ("Hopper-v5", np.zeros(17)),
        ("Hopper-v5", np.zeros((11, 1))),
        ("flowrl/Reach-v0", np.array([0.0, 0.0, np.nan])),
        ("flowrl/Reach-v0", np.array([0.0, 0.0, 0.99])),
        ("flowrl/Reach-v0", np.array([0.0, 0.0, 2.0])),
        ("flowrl/Reach-v0", np.zeros(4)),
    ],
)
def test_an_observation_that_no_state_has(env_id, bad):
    env = make_env(env_id)
    env.reset(seed=0)
    assert not set_state(env, bad)
    env.close()


def test_clipped_velocities():
    hopper, reach = make_env("Hopper-v5"), make_env("flowrl/Reach-v0")
    observation = np.zeros(11)
    assert not is_clipped(hopper, observation)
    for bound in (10.0, -10.0):
        observation[7] = bound
        assert is_clipped(hopper, observation)
    assert not is_clipped(reach, np.array([10.0, 0.0, 1.0]))


@pytest.mark.parametrize("env_id", ["flowrl/Reach-v0", "Hopper-v5"])
def test_an_episode_is_replayed_from_its_seed(env_id):
    observations, actions, rewards = play(env_id, 10, seed=5)
    env = make_env(env_id)
    replayed = replay(env, 5, observations, actions, rewards)
    assert replayed.first_observation == replayed.observations.max() == replayed.rewards.max() == 0
    assert len(replayed.observations) == len(actions)
    other = replay(env, 6, observations, actions, rewards)
    assert other.first_observation > 1e-4
    rewards[2] += 0.5
    assert replay(env, 5, observations, actions, rewards).rewards.tolist() == [0, 0, 0.5, *[0] * (len(actions) - 3)]
    env.close()


def test_an_end_that_the_data_do_not_have_is_an_infinite_error():
    env = make_env("flowrl/Reach-v0")
    observations, actions, rewards = play("flowrl/Reach-v0", 30)
    length = len(actions)
    longer = replay(
        env,
        0,
        np.concatenate([observations, observations[-1:]]),
        np.concatenate([actions, actions[-1:]]),
        np.append(rewards, 0.0),
    )
    assert longer.observations[:length].max() == 0
    assert longer.observations[length] == longer.rewards[length] == np.inf

"""The tiny task's optimum is what its docstring proves, and its rules are what it says."""

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.tiny import HORIZON, Reach, ReachPolicy, optimal_return
from flowrl.evaluation.environments import make_env

ENV = make_env("flowrl/Reach-v0")


def play(policy, seed):
    """One episode: its start (2,), return, length, and whether it was truncated."""
    env, generator = ENV, np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    start, total, length, ended = observation[:2].copy(), 0.0, 0, (False, False)
    while not any(ended):
        observation, reward, *ended, _ = env.step(policy(observation, generator))
        total, length = total + reward, length + 1
    return start, total, length, ended[1]


def uniform(_observation, generator):
    return generator.uniform([-2, -1], [3, 2]).astype(np.float32)


def test_the_optimal_policy_attains_the_optimal_return():
    for seed in range(200):
        start, total, _, _ = play(ReachPolicy(1.0).act, seed)
        assert total == pytest.approx(optimal_return(start), abs=1e-5)


def test_a_thousand_random_policies_stay_below_the_optimum():
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        policy = ReachPolicy(speed=generator.uniform(-1, 3), noise=generator.choice([0.0, 0.3, 2.0]))
        for act in (policy.act, uniform):
            start, total, length, _ = play(act, seed)
            assert 0 <= total <= optimal_return(start) + 1e-9
            assert length <= HORIZON


@pytest.mark.parametrize(("start", "best"), [((2.0, -2.0), 15.4), ((4.0, -4.0), 13.2), ((3.0, -2.0), 15.0 - 0.05)])
def test_optimal_return_by_hand(start, best):
    # (3, −2): x is at 2.5, 2, 1.5, 1, 0.5, 0 and y at 1.5, 1, 0.5, 0, 0, 0: 7.5 + 3 is lost over 10.
    assert optimal_return(np.array(start)) == pytest.approx(best)


def test_rewards_and_ends_by_hand():
    env = Reach()
    env.reset(seed=0, options={"start": (0.5, -1.0)})
    observation, reward, terminated, _, _ = env.step(np.array([-9.0, 2.0]))  # clipped to −2
    np.testing.assert_allclose(observation, [0.0, -0.5, 15 / 16])
    assert (reward, terminated) == (pytest.approx(0.95), False)
    observation, reward, terminated, _, _ = env.step(np.array([0.0, 2.0]))
    assert (reward, terminated) == (pytest.approx(1.0 + 14), True)

    env.reset(options={"start": (4.9, 0.0)})
    observation, reward, terminated, _, _ = env.step(np.array([3.0, 0.0]))
    assert (reward, terminated) == (0.0, True)
    assert env.observation_space.contains(observation)


def test_standing_still_is_truncated_at_the_horizon():
    _, _, length, truncated = play(lambda *_: np.zeros(2, np.float32), seed=3)
    assert (length, truncated) == (HORIZON, True)


def test_bounds_are_off_centre_and_differ_from_the_usual_ones():
    space = make_env("flowrl/Reach-v0").action_space
    assert isinstance(space, gym.spaces.Box)
    assert space.low.tolist() == [-2, -1]
    assert space.high.tolist() == [3, 2]


def test_speeds_give_staggered_lengths_and_spread_returns():
    outcomes = {
        speed: [play(ReachPolicy(speed, 0.5).act, s)[1:3] for s in range(20)] for speed in (-0.5, 0.0, 0.5, 1.0)
    }
    means = [np.mean([total for total, _ in episodes]) for episodes in outcomes.values()]
    assert np.diff(means).min() > 1.5
    assert len({length for episodes in outcomes.values() for _, length in episodes}) > 5

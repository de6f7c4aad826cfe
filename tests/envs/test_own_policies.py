"""A user's own policies: loaded, checked, sampled by the generator alone, and refused in one sentence."""

import pickle
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from flowrl.envs.behavior import UniformPolicy
from flowrl.envs.own_policies import CallablePolicy, SB3Policy, own_policy
from flowrl.envs.playing import EpisodePlayer
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env

REACH = "flowrl/Reach-v0"
MODULE = """
import numpy as np

def good(observation, generator):
    noise = 0 if generator is None else generator.normal(size=2)
    return observation[:2] * 0.1 + noise

def wide(observation, generator):
    return [99.0, -99.0]

def short(observation, generator):
    return [0.5]

def nan(observation, generator):
    return [np.nan, 0.0]

def fails(observation, generator):
    return observation["x"]

def side(observation, generator):
    return observation[2]

number = 3
"""


@pytest.fixture
def env():
    return make_env(REACH)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_policies.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_policies", None)


def test_random_is_uniform_within_the_bounds(env):
    policy = own_policy("random", env)
    assert isinstance(policy, UniformPolicy)
    generator = np.random.default_rng(0)
    actions = np.array([policy.act(np.zeros(3), generator) for _ in range(2000)])
    assert (actions >= [-2, -1]).all()
    assert (actions <= [3, 2]).all()
    np.testing.assert_allclose(actions.mean(0), [0.5, 0.5], atol=0.1)
    np.testing.assert_allclose(actions.std(0), [5 / np.sqrt(12), 3 / np.sqrt(12)], rtol=0.05)
    np.testing.assert_array_equal(policy.act(np.zeros(3)), [0.5, 0.5])


def test_a_callable_gets_observation_and_generator_and_is_clipped(env):
    policy = own_policy("my_policies:good", env)
    observation = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(policy.act(observation), [0.1, 0.2])
    noise = np.random.default_rng(4).normal(size=2)
    expected = np.clip(observation[:2] * 0.1 + noise, [-2, -1], [3, 2])
    np.testing.assert_allclose(policy.act(observation, np.random.default_rng(4)), expected)
    np.testing.assert_array_equal(own_policy("my_policies:wide", env).act(observation), [3, -1])
    again = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(again.act(observation), policy.act(observation))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"returned \[0.5\] of shape \(1,\): it must return finite numbers of shape \(2,\)"),
        ("nan", r"returned \[nan  0.\] of shape \(2,\)"),
        ("fails", "policy my_policies:fails failed: IndexError"),
    ],
)
def test_a_callable_that_returns_no_action_is_refused(env, name, message):
    with pytest.raises(InputError, match=message):
        EpisodePlayer(env).episode(own_policy(f"my_policies:{name}", env), 0, 0)


class TestDiscrete:
    """Policies of CartPole, which is pushed to the left (0) or to the right (1)."""

    @pytest.fixture
    def env(self):
        return make_env("CartPole-v1")

    def test_random_takes_every_action(self, env):
        policy = own_policy("random", env)
        actions = [policy.act(np.zeros(4), np.random.default_rng(seed)) for seed in range(50)]
        assert set(actions) == {0, 1}
        assert 10 < sum(actions) < 40
        assert policy.act(np.zeros(4)) == 0
        assert all(env.action_space.contains(action) for action in actions)

    def test_a_callable_gives_the_number_of_an_action(self, env):
        policy = own_policy("my_policies:side", env)
        action = policy.act(np.array([0, 0, 1, 0]))
        assert action == 1
        assert action.dtype == np.int64
        with pytest.raises(InputError, match=r"my_policies:side returned 0\.5: .* whole number from 0 to 1"):
            policy.act(np.array([0, 0, 0.5, 0]))
        with pytest.raises(InputError, match=r"returned 2\.0: .* whole number from 0 to 1"):
            policy.act(np.array([0, 0, 2, 0]))
        with pytest.raises(InputError, match=r"of shape \(2,\)"):
            own_policy("my_policies:good", env).act(np.zeros(4))

    def test_an_algorithm_for_other_actions_is_refused(self, env):
        with pytest.raises(InputError, match="unknown algorithm 'sac'; known are a2c, ars, dqn, ppo"):
            own_policy("sac:model.zip", env)

    @pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
    def test_a_model_of_stable_baselines_plays(self, env, algorithm, tmp_path):
        sb3 = pytest.importorskip("stable_baselines3")
        getattr(sb3, algorithm)("MlpPolicy", env, device="cpu", seed=0).save(tmp_path / "model.zip")
        policy = own_policy(f"{algorithm.lower()}:{tmp_path / 'model.zip'}", env)
        episode = EpisodePlayer(env).episode(policy, 0, 0)
        assert episode.actions.dtype == np.int64
        assert set(episode.actions.tolist()) <= {0, 1}
        other = make_env("CartPole-v1")
        other.action_space = gym.spaces.Discrete(3)
        with pytest.raises(InputError, match=r"has the actions Discrete\(2\), the environment Discrete\(3\)"):
            own_policy(f"{algorithm.lower()}:{tmp_path / 'model.zip'}", other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "unknown policy 'best': write random"),
        ("my_policies:", "unknown policy"),
        ("no_such_module:f", "no_such_module:f cannot be imported: No module named"),
        ("my_policies:g", "my_policies:g cannot be imported"),
        ("my_policies:number", "is not callable"),
        ("dqn:model.zip", "unknown algorithm 'dqn'; known are a2c, ddpg, ppo"),
        ("ppo:missing.zip", "there is no file missing.zip"),
    ],
)
def test_what_is_no_policy_is_refused(env, text, message):
    with pytest.raises(InputError, match=message):
        own_policy(text, env)


def test_unbounded_actions_have_no_uniform_policy():
    env = gym.wrappers.RescaleAction(make_env(REACH), -1, 1)
    env.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(InputError, match="random needs bounded actions"):
        own_policy("random", env)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A PPO with its VecNormalize and a TD3, untrained, for Reach."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    folder = tmp_path_factory.mktemp("sb3")
    normalised = VecNormalize(DummyVecEnv([lambda: make_env(REACH)]))
    ppo = sb3.PPO("MlpPolicy", normalised, n_steps=64, batch_size=32, seed=0, device="cpu")
    ppo.learn(64)
    ppo.save(folder / "ppo.zip")
    normalised.save(str(folder / "normalizer.pkl"))
    sb3.TD3("MlpPolicy", DummyVecEnv([lambda: make_env(REACH)]), seed=0, buffer_size=10, device="cpu").save(
        folder / "td3.zip"
    )
    return folder


def test_a_model_acts_as_stable_baselines_does_on_normalised_observations(env, saved):
    policy = own_policy(f"ppo:{saved / 'ppo.zip'}", env, saved / "normalizer.pkl")
    assert isinstance(policy, SB3Policy)
    observation = np.array([2.0, -3.0, 1.0])
    with (saved / "normalizer.pkl").open("rb") as file:
        normalised = pickle.load(file).normalize_obs(observation)
    assert not np.allclose(normalised, observation)
    np.testing.assert_array_equal(policy.act(observation), policy.model.predict(normalised, deterministic=True)[0])
    plain = own_policy(f"PPO:{saved / 'ppo.zip'}", env)
    np.testing.assert_array_equal(plain.act(observation), plain.model.predict(observation, deterministic=True)[0])


def test_sampling_depends_on_the_generator_alone(env, saved):
    import torch

    policy = own_policy(f"ppo:{saved / 'ppo.zip'}", env)
    observation = np.array([2.0, -3.0, 1.0])
    before = torch.get_rng_state()
    sampled = [policy.act(observation, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(sampled[0], sampled[1])
    assert not np.array_equal(sampled[0], sampled[2])
    assert not np.array_equal(sampled[0], policy.act(observation))
    again = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(again.act(observation, np.random.default_rng(1)), sampled[0])


def test_files_of_another_kind_are_refused(env, saved, tmp_path):
    with pytest.raises(InputError, match="cannot be loaded as a model of SAC"):
        own_policy(f"sac:{saved / 'ppo.zip'}", env)
    garbage = tmp_path / "garbage.zip"
    garbage.write_bytes(b"no zip")
    with pytest.raises(InputError, match="garbage.zip cannot be loaded as a model of PPO"):
        own_policy(f"ppo:{garbage}", env)
    with pytest.raises(InputError, match="cannot be loaded as a VecNormalize"):
        own_policy(f"ppo:{saved / 'ppo.zip'}", env, garbage)
    with pytest.raises(InputError, match=r"has observations of shape \(3,\), the environment \(11,\)"):
        own_policy(f"ppo:{saved / 'ppo.zip'}", make_env("Hopper-v5"))


def test_a_missing_package_is_one_sentence(env, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(InputError, match="needs the extra `behavior`"):
        own_policy(f"td3:{saved / 'td3.zip'}", env)


def test_callables_are_sent_to_other_processes_by_name():
    policy = CallablePolicy("my_policies", "good", np.array([-2.0, -1]), np.array([3.0, 2]))
    assert callable(policy.function)
    assert b"good" in pickle.dumps(policy)

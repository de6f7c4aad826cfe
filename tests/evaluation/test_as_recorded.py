"""Wrappers that play as the data were recorded, through a specification's JSON as a run folder keeps it."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from flowrl.evaluation.as_recorded import to_play, with_action_bounds, with_reset_options
from flowrl.evaluation.environments import make_env, make_vector_env


class Told(gym.Env):
    """Remembers what it was given."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(np.array([0, -10], np.float32), np.array([4, 10], np.float32))
    metadata: ClassVar = {"render_modes": ["human", "rgb_array"]}

    def __init__(self, render_mode=None, size=1):
        self.render_mode, self.size = render_mode, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options = options
        return np.full(2, 0 if options is None else options["goal"], np.float32), {}

    def step(self, action):
        self.action = action
        return np.zeros(2, np.float32), 0.0, True, False, {}


@pytest.fixture
def spec():
    gym.register("test/Told-v0", Told, max_episode_steps=9)
    yield EnvSpec("test/Told-v0", f"{__name__}:Told", max_episode_steps=9)
    del gym.registry["test/Told-v0"]


def stored(spec):
    return EnvSpec.from_json(spec.to_json())


def test_every_episode_is_reset_with_the_options_of_its_seed(spec):
    options = [{"goal": 0.25, "cell": [1, 2], "names": ["a"], "ragged": [[1], [1, 2]]}, {"goal": 0.5}, {}]
    env = make_env(stored(with_reset_options(spec, options)))
    for seed, expected in [(1, 0.25), (4, 0.25), (10_001, 0.5), (5, 0.5), (3, 0)]:  # the drawn order is 2, 0, 1
        assert env.reset(seed=seed)[0][0] == expected
    env.reset(seed=4)
    told = env.unwrapped.options
    assert isinstance(told["cell"], np.ndarray)
    assert told["cell"].tolist() == [1, 2]
    assert told["names"] == ["a"]
    assert told["ragged"] == [[1], [1, 2]]
    assert env.reset(seed=0, options={"goal": 0.75})[0][0] == 0.75  # what is given comes first
    env.close()


def test_a_vector_environment_resets_each_slot_with_its_own(spec):
    envs = make_vector_env(stored(with_reset_options(spec, [{"goal": 0.25}, {"goal": 0.5}])), 3)
    observations, _ = envs.reset(seed=[10, 11, 12])
    assert observations[:, 0].tolist() == [0.25, 0.5, 0.25]
    envs.close()


def test_actions_are_scaled_to_the_environments_bounds(spec):
    env = make_env(stored(with_action_bounds(spec, [-1, -2], [1, 2])))
    assert env.action_space == gym.spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
    env.reset(seed=0)
    for action, expected in [([-1, -2], [0, -10]), ([1, 2], [4, 10]), ([0, 0], [2, 0]), ([0.5, 1], [3, 5])]:
        env.reset(seed=0)
        env.step(np.array(action, np.float32))
        assert env.unwrapped.action.tolist() == pytest.approx(expected)
        assert env.unwrapped.action.dtype == np.float32
    env.close()


def test_how_a_stored_environment_was_shown_is_left_out(spec):
    wrappers = tuple(
        WrapperSpec(name, f"gymnasium.wrappers:{name}", kwargs)
        for name, kwargs in [("Autoreset", {}), ("RecordVideo", {"video_folder": "v"}), ("HumanRendering", {})]
    )
    kept = WrapperSpec("ClipReward", "gymnasium.wrappers:ClipReward", {"max_reward": 1.0})
    spec.kwargs.update(render_mode="human", size=3, autoreset=True)
    spec.additional_wrappers = (*wrappers, kept)
    clean = to_play(spec)
    assert clean.kwargs == {"size": 3}
    assert clean.additional_wrappers == (kept,)
    env = make_env(spec)
    assert env.unwrapped.render_mode is None
    assert env.unwrapped.size == 3
    env.close()
    assert make_env(spec, render_mode="rgb_array").unwrapped.render_mode == "rgb_array"


def test_how_many_ran_side_by_side_is_left_out_where_a_vector_environment_was_stored(spec):
    spec.kwargs.update(size=2, num_envs=4, vectorization_mode="sync", vector_kwargs={"copy": False})
    assert to_play(spec).kwargs == {"size": 2}
    spec.kwargs = {"num_envs": 4}  # an argument of the environment's own
    assert to_play(spec) is spec

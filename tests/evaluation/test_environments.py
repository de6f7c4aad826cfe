"""Every slot plays exactly one episode per seed, in every mode, and the simulator rests afterwards."""

import json
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from flowrl.envs.tiny import ReachPolicy, optimal_action
from flowrl.errors import InputError
from flowrl.evaluation.environments import OneEpisode, cores, make_env, make_vector_env

SPEEDS = [-1.0, -0.5, 0.0, 0.5, 1.0]


class Counting(gym.Wrapper):
    """Counts what reaches the simulator."""

    def __init__(self, env):
        super().__init__(env)
        self.steps = self.resets = 0

    def reset(self, **keywords):
        self.resets += 1
        return super().reset(**keywords)

    def step(self, action):
        self.steps += 1
        return super().step(action)


def actions_for(observations):
    acts = [speed * optimal_action(o) for speed, o in zip(SPEEDS, observations, strict=True)]
    return np.clip(acts, [-2, -1], [3, 2]).astype(np.float32)


def alone(seed, speed):
    """The same episode in a plain environment: return, length, last observation."""
    env = make_env("flowrl/Reach-v0")
    observation, _ = env.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(ReachPolicy(speed).act(observation))
        total, length, over = total + reward, length + 1, terminated or truncated
    return total, length, observation


def play_all(env, seeds, extra_steps=20):
    """Step until long after every end: returns (n,), the step of each slot's ends, last observations."""
    observations, _ = env.reset(seed=seeds)
    totals, ends = np.zeros(env.num_envs), [[] for _ in seeds]
    for time in range(1, 16 + extra_steps):
        observations, rewards, terminations, truncations, _ = env.step(actions_for(observations))
        totals += rewards
        for slot in np.flatnonzero(terminations | truncations):
            ends[slot].append(time)
    return totals, ends, observations


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_each_slot_plays_one_episode_and_equals_a_plain_environment(mode):
    env = make_vector_env("flowrl/Reach-v0", len(SPEEDS), mode=mode)
    try:
        for seeds in ([7, 8, 9, 10, 11], [3, 1, 4, 1, 5]):
            totals, ends, last = play_all(env, seeds)
            expected = [alone(seed, speed) for seed, speed in zip(seeds, SPEEDS, strict=True)]
            np.testing.assert_allclose(totals, [total for total, _, _ in expected], rtol=1e-12)
            assert ends == [[length] for _, length, _ in expected]
            np.testing.assert_array_equal(last, [observation for _, _, observation in expected])
            assert len({tuple(end) for end in ends}) > 2, "the ends should be staggered"
    finally:
        env.close()


@pytest.mark.parametrize("autoreset", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_simulator_rests_after_the_end_whatever_the_autoreset(autoreset):
    counters = [Counting(make_env("flowrl/Reach-v0")) for _ in SPEEDS]
    env = SyncVectorEnv([lambda c=c: OneEpisode(c) for c in counters], autoreset_mode=autoreset)
    _, ends, _ = play_all(env, [7, 8, 9, 10, 11])
    assert [[c.steps] for c in counters] == ends
    assert [c.resets for c in counters] == [1] * len(SPEEDS)


def test_a_reset_without_a_seed_starts_nothing_new():
    env = OneEpisode(make_env("flowrl/Reach-v0"))
    first, _ = env.reset()
    with pytest.raises(ValueError, match="in the middle of an episode"):
        env.reset()
    for _ in range(16):
        last, *_ = env.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(env.reset()[0], last)
    assert env.step(np.zeros(2, np.float32))[1:] == (0.0, False, False, {})
    assert not np.array_equal(env.reset(seed=1)[0], last)
    assert first.shape == (3,)


def test_a_spec_makes_the_same_environment():
    env = make_vector_env(gym.spec("flowrl/Reach-v0"), 2)
    assert env.num_envs == 2
    assert env.single_observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hoper-v5", "Hopper-v5"),
        ("flowrl/reach-v0", "flowrl/Reach-v0"),
        ("Hopper-v9", "Hopper-v5"),
        ("zzz", "examples"),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_unknown_id_names_the_nearest(name, hint, mode):
    with pytest.raises(InputError, match=f"unknown environment '{name}'.*{hint}"):
        make_vector_env(name, 2, mode=mode)


def old_spec(env_id, entry_point, **others):
    """A spec as flowrl 0.1 stored it with its datasets and runs."""
    spec = json.loads(gym.spec(env_id).to_json()) | {"entry_point": entry_point} | others
    return json.dumps(spec)


OLD_SPECS = [
    old_spec("flowrl/Reach-v0", "envs.tiny:Reach", max_episode_steps=7),
    old_spec("flowrl/Corridor-v0", "envs.corridor:Corridor", kwargs={"length": 50}),
]


@pytest.mark.parametrize("stored", OLD_SPECS)
def test_a_spec_of_flowrl_0_1_plays_with_its_own_limit_and_keywords(stored):
    spec = EnvSpec.from_json(stored)
    env = make_env(spec)
    assert (env.spec.max_episode_steps, env.spec.kwargs) == (spec.max_episode_steps, spec.kwargs)
    assert EnvSpec.from_json(env.spec.to_json()).entry_point.startswith("flowrl.envs.")
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        *_, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        steps, over = steps + 1, terminated or truncated
    assert steps == (50 if "Corridor" in spec.id else 7)


def test_a_spec_of_flowrl_0_1_plays_beside_a_foreign_package_named_envs(tmp_path, repository):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/__init__.py").write_text("")
    for module in ("tiny", "corridor"):
        (tmp_path / f"envs/{module}.py").write_text("raise RuntimeError('this is another project')\n")
    program = f"""
import envs, flowrl
from gymnasium.envs.registration import EnvSpec
from flowrl.evaluation.environments import make_env, make_vector_env
assert envs.__file__.startswith({str(tmp_path)!r})
for stored in {OLD_SPECS!r}:
    make_vector_env(EnvSpec.from_json(stored), 2).reset(seed=[0, 1])
    print(make_env(EnvSpec.from_json(stored)).unwrapped)
"""
    path = os.pathsep.join([str(tmp_path), str(repository)])
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.count(b"flowrl/") == 2


def test_another_projects_spec_keeps_its_entry_point():
    spec = EnvSpec("other/Reach-v0", entry_point="no_such_module:Reach")
    with pytest.raises(InputError, match="'other/Reach-v0' cannot be made here: .*no_such_module"):
        make_env(spec)


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= os.cpu_count()


def test_an_environment_whose_package_is_missing_says_so():
    missing = r"environment 'Hopper-v3' cannot be made here: .*(gymnasium-robotics|mujoco_py)"
    with pytest.raises(InputError, match=missing):
        make_env("Hopper-v3")


def test_bad_numbers_and_modes_are_refused():
    with pytest.raises(ValueError, match="num_envs must be at least 1, not 0"):
        make_vector_env("flowrl/Reach-v0", 0)
    with pytest.raises(ValueError, match="unknown vector mode 'thread'"):
        make_vector_env("flowrl/Reach-v0", 1, mode="thread")  # pyright: ignore[reportArgumentType]


def test_an_older_version_is_made_without_a_warning():
    assert make_env("Hopper-v4").spec.max_episode_steps == 1000


def test_a_renderer_that_mujoco_does_not_know_is_named(repository):
    program = "from flowrl.evaluation.environments import make_env; make_env('Hopper-v5')"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, env=os.environ | {"MUJOCO_GL": "bad"}, capture_output=True
    )
    assert b"InputError: environment 'Hopper-v5' cannot be made here: " in ended.stderr
    assert b"(MUJOCO_GL is 'bad')" in ended.stderr

"""Runs on data of other shapes, end to end: a part of the features, discrete actions, Dict observations."""

import json
import warnings
from collections import defaultdict

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from minari.data_collector import EpisodeBuffer

import flowrl
from flowrl.agents import load_agent, load_policy
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, Episode, write_dataset
from flowrl.data.samplers import Windows
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.nn.trajectory_actor import TrajectoryActor
from flowrl.training.run_folder import RunFolder

AGENTS = ["flow", "dt", "bc"]
CHOICE, KEYED = "test/choice/scripted-v0", "test/keyed/random-v0"


class Choice(gym.Env):
    """The observation says which of three choices, 5, 6 and 7, is paid; an episode has six of them."""

    observation_space = Box(0, 1, (3,), np.float32)
    action_space = Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def _observe(self):
        self.state = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.state]

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no choice"
        paid, self.time = float(action == right(self.state)), self.time + 1
        return self._observe(), paid, False, self.time == 6, {}


def right(state):
    return 5 + (state + 1) % 3


class Keyed(gym.Env):
    """Observations that say which entry they are of, and when; the space lists them in no order of the alphabet."""

    observation_space = Dict(
        [
            ("z", Box(0, 999, (2,), np.float64)),
            ("mode", Discrete(3, start=1)),
            ("a", Dict([("y", Box(0, 999, (1,), np.float32)), ("b", MultiBinary(2))])),
        ]
    )
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def _observe(self):
        t = self.time
        inner = {"y": np.array([100 + t], np.float32), "b": np.array([t % 2, 1], np.int8)}
        return {"z": np.array([200.0 + t, 300.0 + t]), "mode": np.int64(1 + t % 3), "a": inner}

    def step(self, action):
        self.time += 1
        return self._observe(), 1.0, False, self.time == 5, {}


def keyed_row(t):
    """a/b, a/y, mode, z: by name."""
    return [t % 2, 1, 100 + t, *(float(t % 3 == i) for i in range(3)), 200 + t, 300 + t]


assert list(Keyed.observation_space.spaces) == ["z", "mode", "a"]
for name, kind in (("Choice", Choice), ("Keyed", Keyed)):
    gym.register(f"test/{name}-v0", f"{__name__}:{kind.__name__}")


def stack(values):
    """Observations as Minari stores them: a Dict of arrays, not an array of Dicts."""
    if isinstance(values[0], dict):
        return {key: stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)


def collect(env_id, dataset_id, episodes, seed=0):
    """Episodes of random actions, written by Minari itself (its DataCollector would need jax)."""
    env, buffers = gym.make(env_id, disable_env_checker=True), []
    env.action_space.seed(seed)
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        seen, steps, over = [observation], [], False
        while not over:
            action = env.action_space.sample()
            observation, *outcome, _ = env.step(action)
            seen.append(observation)
            steps.append((action, *outcome))
            over = outcome[1] or outcome[2]
        buffers.append(EpisodeBuffer(episode, None, None, stack(seen), *map(np.array, zip(*steps, strict=True))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(dataset_id, buffers, env=env)
    env.close()
    return dataset_id


@pytest.fixture
def choice():
    """Sixty episodes; every third of them chooses at random, the others rightly."""
    generator = np.random.default_rng(0)
    episodes = []
    for number in range(60):
        states = generator.integers(3, size=7)
        actions = np.where(number % 3 == 0, generator.integers(5, 8, size=6), right(states[:6]))
        last = np.arange(6) == 5
        rewards = (actions == right(states[:6])).astype(float)
        episodes.append(Episode(np.eye(3, dtype=np.float32)[states], actions, rewards, last & False, last))
    about = DatasetDescription(
        env_spec=gym.spec("test/Choice-v0"), observation_space=Choice.observation_space,
        action_space=Choice.action_space, algorithm="none", description="of a test",
    )  # fmt: skip
    write_dataset(CHOICE, episodes, about)
    return CHOICE


@pytest.fixture
def keyed():
    return collect("test/Keyed-v0", KEYED, 6)


def config_of(run):
    return json.loads((run / "config.json").read_text())


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def weights(run):
    return RunFolder(run).load()["learner"]["actor"]


# A part of the features


@pytest.mark.parametrize("agent", AGENTS)
def test_hidden_features_change_nothing(agent, tiny_train, reach_dataset, tmp_path):
    run = tmp_path / agent
    tiny_train(agent, run, observations="0:2")
    config = config_of(run)
    assert (config["observation_columns"], config["observation_size"]) == ([0, 1], 3)
    assert config["selection"]["observations"] == "0:2"
    assert weights(run)[
        "model.normaliser.observation_mean" if agent != "bc" else "normaliser.observation_mean"
    ].shape == (2,)
    final = rows(run)
    assert [row | {"kind": "final"} for row in flowrl.evaluate(run, episodes=3, device="cpu")] == final

    def acted(observations):
        policy = load_policy(run)
        policy.reset(14.0)
        return np.array([policy.act(observation, 0.5) for observation in observations])

    seen = np.random.default_rng(0).normal(size=(8, 3))
    shown_alone = acted(seen)
    for value in (0.0, -1e30, np.nan, np.inf):
        hidden = seen.copy()
        hidden[:, 2] = value
        np.testing.assert_array_equal(acted(hidden), shown_alone)
    for shown in (0, 1):
        other = seen.copy()
        other[:, shown] += 1
        assert (acted(other) != shown_alone).any()
    with pytest.raises(ValueError, match=r"observation has shape \(2,\): it must be \(3,\)"):
        acted(seen[:, :2])


def test_an_interrupted_run_on_a_part_of_the_features_goes_on_to_the_same_weights(
    tiny_train, reach_dataset, tmp_path, monkeypatch
):
    options = {"observations": "2,0", "dataset_episodes": ":20"}
    tiny_train("flow", tmp_path / "whole", **options)
    calls, draw = iter(range(99)), Windows.draw  # the 14th call fails, once

    def failing(*arguments):
        if next(calls) == 13:
            raise RuntimeError("the power went")
        return draw(*arguments)

    monkeypatch.setattr(Windows, "draw", failing)
    with pytest.raises(RuntimeError, match="the power went"):
        tiny_train("flow", tmp_path / "cut", **options)
    tiny_train("flow", tmp_path / "cut", **options)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert config_of(tmp_path / "cut")["observation_columns"] == [2, 0]


@pytest.mark.parametrize(
    "change", [{"observation_columns": [1, 0]}, {"observation_columns": [0, 2]}, {"observation_columns": None}]
)
def test_a_checkpoint_that_was_shown_other_features_is_refused(tiny_train, reach_dataset, tmp_path, change):
    tiny_train("bc", tmp_path, observations="0:2", steps=2)
    (tmp_path / "config.json").write_text(json.dumps(config_of(tmp_path) | change))
    with pytest.raises(InputError, match="of another (agent: its observation_columns|architecture)"):
        load_policy(tmp_path)


def test_a_run_without_a_choice_of_features_records_that(tiny_run):
    config = config_of(tiny_run)
    assert (config["observation_columns"], config["discrete_start"]) == (None, None)
    normaliser = load_agent(RunFolder(tiny_run), torch.device("cpu")).actor.normaliser
    assert normaliser.columns is None
    assert not normaliser.discrete


def test_a_mixture_trains_and_its_run_is_evaluated_without_it(tiny_train, reach_dataset, tmp_path, minari_root):
    run, mixture = tmp_path / "run", f"{reach_dataset}:3+{reach_dataset}:1"
    tiny_train("bc", run, dataset=mixture, dataset_episodes=":9")
    whole = TrajectoryDataset.from_minari(reach_dataset)
    config = config_of(run)
    assert config["dataset"] == mixture
    assert config["dataset_returns"]["episodes"] == 2 * whole.episodes
    assert config["dataset_returns"]["percentiles"][100] == float(whole.returns.max())
    (minari_root / "flowrl").rename(minari_root / "gone")
    assert len(flowrl.evaluate(run, episodes=1, device="cpu")) == 1


# Discrete actions


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["flow", pytest.param("dt", marks=pytest.mark.slow), "bc"])
def test_the_right_choice_is_learnt(agent, choice, tiny_train, tmp_path):
    options = {"dataset": choice, "steps": 250, "width": 32, "batch_size": 32, "learning_rate": 3e-3}
    run = tiny_train(agent, tmp_path / agent, **options, dropout=0.0, episodes=20)
    config = config_of(run)
    assert (config["discrete_start"], config["action_size"]) == (5, 3)
    best = [row["return"] for row in rows(run) if row["target"] in (6, None)]
    assert len(best) == 20
    # Guessing gives 2 of 6; bc repeats the data, most of which is right.
    assert np.mean(best) > 5.8
    again = flowrl.evaluate(run, episodes=4, targets="best", vector="async", device="cpu")
    assert np.mean([row["return"] for row in again]) > 5.5

    env = gym.make("test/Choice-v0", disable_env_checker=True)
    for rollout in (None,) if agent == "bc" else ("window", "recurrent"):
        policy = load_policy(run, rollout=rollout)
        policy.reset(6.0)
        observation, _ = env.reset(seed=1)
        reward, acted = 0.0, []
        for _ in range(5):  # as long as the window is not full, both are the same function
            acted.append(policy.act(observation, reward))
            assert acted[-1].shape == ()
            assert acted[-1].dtype == np.int64
            assert env.action_space.contains(acted[-1])
            assert acted[-1] == right(int(observation.argmax()))
            observation, reward, *_ = env.step(acted[-1])
    several = load_policy(run)
    several.reset([6.0, 6.0, 6.0])
    assert several.act(np.eye(3)).tolist() == [6, 7, 5]


@pytest.mark.slow
def test_the_target_return_decides_how_many_choices_are_right(choice, tiny_train, tmp_path):
    """The data's bad episodes are repeated when their return is the target: more wrong than right choices."""
    options = {"dataset": choice, "steps": 400, "width": 32, "batch_size": 32, "learning_rate": 3e-3}
    tiny_train("flow", tmp_path / "r", **options, dropout=0.0, targets=[0, 6], episodes=20)
    returns = defaultdict(list)
    for row in rows(tmp_path / "r"):
        returns[row["target"]].append(row["return"])
    assert np.mean(returns[0]) < 4 < 5.5 < np.mean(returns[6])


@pytest.mark.parametrize("agent", AGENTS)
def test_cartpole_from_minaris_own_collector(agent, tiny_train, tmp_path):
    collect("CartPole-v1", "test/cartpole/random-v0", 8)
    run = tmp_path / agent
    tiny_train(agent, run, dataset="test/cartpole/random-v0", observations="2:")
    config = config_of(run)
    assert (config["discrete_start"], config["action_size"], config["observation_columns"]) == (0, 2, [2, 3])
    assert all(row["return"] == row["length"] >= 8 for row in rows(run))
    if agent != "bc":
        played = flowrl.evaluate(run, episodes=2, rollout="recurrent", device="cpu")
        assert {row["rollout"] for row in played} == {"recurrent"}
    policy = load_policy(run)
    policy.reset(20.0)
    assert policy.act(np.zeros(4)) in (0, 1)


def test_logits_that_are_not_finite_are_reported(choice, tiny_train, tmp_path):
    tiny_train("bc", tmp_path, dataset=choice, steps=2)
    checkpoint = RunFolder(tmp_path).load()
    checkpoint["learner"]["actor"]["network.0.weight"][:] = float("nan")
    RunFolder(tmp_path).save(checkpoint)
    with pytest.raises(InputError, match="action is not finite at step 0"):
        flowrl.evaluate(tmp_path, episodes=1, device="cpu")


# Dict observations


def test_the_columns_of_the_data_are_by_name(keyed):
    dataset = TrajectoryDataset.from_minari(keyed)
    assert dataset.observations.tolist() == [keyed_row(t) for t in range(5)] * 6
    assert dataset.final_observations.tolist() == [keyed_row(5)] * 6


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("source", ["registry", "dataset"])
def test_the_columns_of_the_environment_are_by_name(keyed, mode, source):
    spec = "test/Keyed-v0" if source == "registry" else minari.load_dataset(keyed).env_spec
    envs = make_vector_env(spec, 2, mode=mode)
    try:
        observations, _ = envs.reset(seed=[0, 1])
        for t in range(5):
            assert observations.tolist() == [keyed_row(t)] * 2
            observations, *_ = envs.step(np.zeros((2, 1), np.float32))
        assert observations.tolist() == [keyed_row(5)] * 2
    finally:
        envs.close()


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_an_agent_sees_at_evaluation_what_it_was_trained_on(keyed, tiny_train, tmp_path, monkeypatch, vector):
    seen, act = [], TrajectoryActor.act

    def watched(self, carry, observations, rewards):
        seen.append(observations.tolist())
        return act(self, carry, observations, rewards)

    monkeypatch.setattr(TrajectoryActor, "act", watched)
    run = tiny_train("flow", tmp_path / "run", dataset=keyed, observations="2:6", vector=vector)
    expected = [[keyed_row(t)] * 3 for t in range(5)]  # of random actions all returns are alike: one target
    assert seen == expected
    seen.clear()
    flowrl.evaluate(run, episodes=3, targets="best", vector=vector, device="cpu")
    assert seen == expected
    assert {(row["return"], row["length"]) for row in rows(run)} == {(5.0, 5)}
    policy, env = load_policy(run), make_env("test/Keyed-v0")
    policy.reset(5.0)
    observation, _ = env.reset()
    assert observation.tolist() == keyed_row(0)
    assert env.action_space.contains(policy.act(observation))

"""Stored data that do and do not fit the simulator are recognised, whatever their spaces."""

from dataclasses import replace

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from flowrl.data.minari_store import DatasetDescription, Episode, open_dataset, write_dataset
from flowrl.inspection import inspect_dataset
from flowrl.inspection.page import page
from flowrl.inspection.simulator import check_alignment, reset_seeds


def aligned(dataset_id, env_id=None, transitions=60):
    dataset = open_dataset(dataset_id)
    return check_alignment(dataset, env_id or dataset.env_spec, transitions, np.random.default_rng(0))


SHIFTED = {
    "as stored": (lambda o, a, r: (o, a, r), "aligned", ""),
    "actions one late": (lambda o, a, r: (o[1:], a[:-1], r[:-1]), "misaligned", "a[t+1] → o[t+1]"),
    "actions one early": (lambda o, a, r: (o[:-1], a[1:], r[1:]), "misaligned", "a[t−1] → o[t+1]"),
    "last observation repeated": (
        lambda o, a, r: (np.concatenate([o[:-1], o[-2:-1]]), a, r), "partly misaligned", "last",
    ),
    "rewards one late": (lambda o, a, r: (o, a, np.r_[0.0, r[:-1]]), "misaligned", "r[t+1]"),
    "shuffled actions": (lambda o, a, r: (o, a[::-1].copy(), r), "unclear", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("task", ["reach", pytest.param("hopper", marks=pytest.mark.slow)])
def test_how_observations_and_actions_belong_together_is_recognised(name, task, reach_dataset, hopper_dataset, changed):
    source = open_dataset(hopper_dataset if task == "hopper" else reach_dataset)
    change, verdict, part = SHIFTED[name]
    alignment = aligned(changed(source, change))
    assert alignment.verdict == verdict, alignment.sentence
    assert part in alignment.sentence
    assert alignment.seeded is None
    if verdict == "aligned":
        assert alignment.shifts[0].maximum < 1e-6
        assert alignment.shifts[0].rewards["r[t]"] < 1e-6
        assert alignment.shifts[0].rewards["r[t-1]"] > 1e-3
        assert alignment.last < 1e-6


def test_where_no_state_can_be_set_the_recorded_seeds_are_replayed(minari_root):
    env = gym.make("Pendulum-v1")
    episodes = []
    generator = np.random.default_rng(0)
    for seed in range(3):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(20):
            action = generator.uniform(-2, 2, 1).astype(np.float32)
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        ends = np.arange(20) == 19
        episodes.append(Episode(np.array(observations), np.array(actions), np.array(rewards), ends & False, ends, seed))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    about = DatasetDescription(algorithm="uniform", description="d", env_spec=env.spec, **spaces)
    write_dataset("test/pendulum-v0", episodes, about)
    alignment = aligned("test/pendulum-v0")
    assert alignment.verdict == "aligned", alignment.sentence
    assert (alignment.checked, alignment.seeded.steps) == (0, 60)
    assert alignment.skipped_not_set > 0

    rolled = [replace(e, actions=np.roll(e.actions, 1, 0)) for e in episodes]
    write_dataset("test/pendulum-v0", rolled, about, force=True)
    assert aligned("test/pendulum-v0").verdict == "misaligned"
    env.close()


class Grid(gym.Env):
    """A walk to a goal on a line of 4 cells: nested observations of several kinds, 3 actions from number 5 on."""

    observation_space = gym.spaces.Dict(
        {"seen": gym.spaces.Box(-1, 1, (2,), np.float64), "cell": gym.spaces.Discrete(4)}
    )
    action_space = gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.noise = int(self.np_random.integers(4)), self.np_random.uniform(-1, 1, 2)
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), "discrete actions are played as numbers"
        self.cell = int(np.clip(self.cell + int(action) - 6, 0, 3))
        return self.observe(), float(self.cell), False, False, {}

    def observe(self):
        return {"seen": self.noise, "cell": np.int64(self.cell)}


class SettableGrid(Grid):
    def set_state_from_observation(self, observation):
        self.cell, self.noise = int(observation["cell"]), observation["seen"]
        return True


@pytest.fixture
def grids():
    ids = {"test/Grid-v0": Grid, "test/SettableGrid-v0": SettableGrid}
    for name, entry in ids.items():
        gym.register(name, entry_point=f"{entry.__module__}:{entry.__name__}", max_episode_steps=12)
    yield list(ids)
    for name in ids:
        del gym.registry[name]


def play_grid(env_id, change=lambda actions: actions, episodes=12):
    """Record random episodes as Minari's own collector does, with `change` done to the actions stored."""
    played = []
    env = gym.make(env_id, disable_env_checker=True)
    generator = np.random.default_rng(1)
    for seed in range(episodes):
        observations, rewards = [env.reset(seed=seed)[0]], []
        actions = generator.integers(5, 8, 12)
        for action in actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        stacked = {name: np.array([o[name] for o in observations]) for name in ("seen", "cell")}
        ends = np.arange(12) == 11
        buffer = EpisodeBuffer(
            id=seed, seed=seed, observations=stacked, actions=change(actions), rewards=rewards,
            terminations=(ends & False).tolist(), truncations=ends.tolist(),
        )  # fmt: skip
        played.append(buffer)
    minari.create_dataset_from_buffers(
        "test/grid-v0", played, env=env_id, algorithm_name="random", author="a", author_email="b",
        code_permalink="c", description="a grid",
    )  # fmt: skip
    env.close()
    return "test/grid-v0"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("number", "change", "verdict"),
    [
        (0, lambda actions: actions, "aligned"),
        (0, lambda actions: np.roll(actions, 1), "misaligned"),
        (1, lambda actions: actions, "aligned"),
        (1, lambda actions: np.roll(actions, 1), "misaligned"),
    ],
)
def test_dicts_and_discrete_actions(number, change, verdict, grids):
    inspection = inspect_dataset(play_grid(grids[number], change))
    statistics, alignment = inspection.statistics, inspection.alignment
    assert alignment.verdict == verdict, alignment.sentence
    assert (alignment.checked > 0) == (number == 1)
    assert [f.name for f in statistics.observations] == [
        *(f"cell {i} (one-hot)" for i in range(4)), "seen[0]", "seen[1]",
    ]  # fmt: skip
    assert [f.name for f in statistics.actions] == [f"action {i} (one-hot)" for i in (5, 6, 7)]
    assert sum(f.mean for f in statistics.actions) == pytest.approx(1)
    assert statistics.actions[0].saturated is None
    assert inspection.steering is not None
    assert "action 5 (one-hot)" in page(inspection)


def test_no_environment_or_another_one(reach_dataset, write, numbered_episode):
    write("test/nowhere-v0", [numbered_episode(i, 3) for i in range(2)], env_spec=None)
    assert aligned("test/nowhere-v0").verdict == "unknown"
    other = aligned(reach_dataset, "Hopper-v5")
    assert other.verdict == "unknown"
    assert "(3,)" in other.sentence
    assert "(11,)" in other.sentence


def test_a_simulator_that_fails_is_no_crash(reach_dataset, monkeypatch):
    monkeypatch.setattr("flowrl.inspection.simulator.step_from", lambda *_: 1 / 0)
    alignment = aligned(reach_dataset)
    assert alignment.verdict == "unknown"
    assert "division by zero" in alignment.sentence


def test_seeds_are_read_from_the_file(write, numbered_episode):
    episodes = [numbered_episode(i, i + 2) for i in range(3)]
    write("test/seeds-v0", [episodes[0], replace(episodes[1], seed=None), episodes[2]])
    assert reset_seeds(open_dataset("test/seeds-v0"), [0, 1, 2]) == {0: 0, 2: 2}
    assert reset_seeds(open_dataset("test/seeds-v0"), [1, 2]) == {2: 2}

"""Runs on data in awkward units, end to end: what an agent learns does not depend on where zero is, or on a unit."""

import json
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

import flowrl
from flowrl.agents import load_policy
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.minari_store import DatasetDescription, Episode, write_dataset
from flowrl.inspection.inspecting import inspect_dataset
from flowrl.training.run_folder import RunFolder

STEPS = 10
OPTIONS = {"batch_size": 32, "episodes": 4, "evaluate_every": 0, "threads": 1, "device": "cpu", "study": False}
CLONING = OPTIONS | {
    **{"width": 32, "context": 3, "dropout": 0.0, "learning_rate": 3e-3, "warmup_steps": 10, "steps": 250},
    "targets": ["best"],
}
AGENTS = {
    "bc": CLONING | {"layers": 2},
    "flow": CLONING | {"layers": 1, "heads": 2},
    **dict.fromkeys(("iql", "cql"), OPTIONS | {"width": 32, "steps": 300}),
    "td3-bc": OPTIONS | {"width": 32, "steps": 300, "alpha": 2.5, "actor_schedule": "constant"},
}
CLOCK = {"offset": 1.7e9, "scale": 5.0}
MAP = {"offset": 4e6}
WIDE = {"bounds": (1e5, 1.0)}  # in one dimension alone


class Measured(gym.Env):
    """Shows `offset` + `scale` x and, beside it, y, both within 1 of 0; the right action is (x, y) times `unit`.

    A step pays 1 less the distance from it in units, so 10 an episode at most.

    Args:
        bounds: (2,) the greatest actions that are allowed.
        dtype: what the space of observations declares, whatever is returned.
        whole: actions are declared as whole numbers.
    """

    def __init__(
        self,
        offset: float = 0.0,
        scale: float = 1.0,
        unit: float = 1.0,
        bounds: tuple[float, float] = (1.0, 1.0),
        dtype: str = "float64",
        whole: str | None = None,
    ) -> None:
        self.offset, self.scale, self.unit = offset, scale, unit
        low, high = (-np.inf, np.inf) if dtype.startswith("float") else (0, 100)
        self.observation_space = Box(low, high, (2,), np.dtype(dtype).type)
        kind = np.dtype(whole or np.float32).type
        most = np.array(bounds) if whole is None else np.iinfo(whole).max
        least = -np.array(bounds) if whole is None else np.iinfo(whole).min
        self.action_space = Box(
            np.broadcast_to(least, 2).astype(kind), np.broadcast_to(most, 2).astype(kind), (2,), kind
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        self.want = self.np_random.uniform(-1, 1, 2)
        return np.array([self.offset + self.scale * self.want[0], self.want[1]])

    def right(self) -> np.ndarray:
        """The action that pays all."""
        return self.unit * self.want

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        paid = 1.0 - float(np.abs(np.asarray(action, np.float64) - self.right()).mean()) / self.unit
        self.time += 1
        return self._observe(), paid, False, self.time == STEPS, {}


gym.register("test/Measured-v0", f"{__name__}:Measured", max_episode_steps=STEPS)


def record(dataset_id: str, episodes: int = 40, noise: float = 0.0, **keywords: Any) -> str:
    """Episodes of the right actions, or of these with noise; the float64 that is returned is what is stored."""
    env = gym.make("test/Measured-v0", disable_env_checker=True, **keywords)
    played: Any = env.unwrapped
    whole = np.issubdtype(env.action_space.dtype, np.integer)
    generator = np.random.default_rng(0)
    written = []
    for number in range(episodes):
        seen, done, paid = [env.reset(seed=number)[0]], [], []
        for _ in range(STEPS):
            action = np.clip(played.right() + noise * generator.normal(size=2), -played.unit, played.unit)
            done.append((np.rint(action) if whole else action).astype(env.action_space.dtype))
            observation, reward, *_ = env.step(done[-1])
            seen.append(observation)
            paid.append(reward)
        last = np.arange(STEPS) == STEPS - 1
        written.append(Episode(np.stack(seen), np.stack(done), np.array(paid), last & False, last))
    about = DatasetDescription(env.observation_space, env.action_space, "right", "of a test", env_spec=env.spec)
    write_dataset(dataset_id, written, about, force=True)
    return dataset_id


def mean_return(run: Any) -> float:
    folder = RunFolder(run)
    return float(np.mean([row["return"] for row in folder.final_rows(folder.config())]))


def trained(agent: str, folder: Any, dataset: Any = None, *, noise: float = 0.0, more: Any = None, **keywords: Any):
    """The run of an agent on recorded data; `more` options override."""
    dataset = dataset or record("test/measured-v0", noise=noise, **keywords)
    return flowrl.train(agent, dataset=dataset, run_dir=folder, **AGENTS[agent] | (more or {}))


# Whatever the units, the same is learned: 9.7 of 10 points; without the first feature it is 7.5.


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        CLOCK,
        MAP,
        {"offset": 1.7e18, "scale": 1e9},  # nanoseconds since 1970
        {"scale": 1e-12},
        WIDE,
        {"bounds": (3.4e38, 3.4e38)},
        {"unit": 1e-7, "bounds": (1e-7, 1e-7)},
        {"offset": 3.7, "dtype": "int64"},
        {"offset": 3.7, "dtype": "uint8"},
        {"unit": 9.0, "whole": "int64"},
        {"unit": 100.0, "whole": "int8"},
    ],
    ids=str,
)
def test_cloning_learns_the_same_in_all_units(keywords, tmp_path):
    assert mean_return(trained("bc", tmp_path / "run", **keywords)) > 9.4


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["flow", "iql", "td3-bc", "cql"])
def test_every_kind_of_agent_learns_the_same_in_other_units(agent, tmp_path):
    plain, other = (
        mean_return(trained(agent, tmp_path / name, noise=0.2, **keywords))
        for name, keywords in (("plain", {}), ("other", MAP | WIDE | {"scale": 0.5}))
    )
    assert plain > 7
    assert abs(plain - other) < 0.1


# A run folder alone acts as the run did


def test_a_policy_takes_what_the_environment_shows(tmp_path):
    run = trained("bc", tmp_path / "run", **CLOCK)
    rows = flowrl.evaluate(run, episodes=3)
    assert np.mean([row["return"] for row in rows]) > 9.4
    env, policy = gym.make("test/Measured-v0", disable_env_checker=True, **CLOCK), load_policy(run)
    for row in rows:
        policy.reset()
        observation, total, over = env.reset(seed=row["seed"])[0], 0.0, False
        while not over:
            observation, reward, _, over, _ = env.step(policy.act(observation))
            total += float(reward)
        assert total == pytest.approx(row["return"], abs=1e-5)


def test_a_policy_of_whole_numbers_returns_them(tmp_path):
    policy = load_policy(trained("bc", tmp_path / "run", unit=9.0, whole="int16"))
    policy.reset()
    action = policy.act([0.5, -0.25])
    assert action.dtype == np.int16
    np.testing.assert_allclose(action, [4.5, -2.25], atol=1)


def test_a_run_on_healthy_data_keeps_neither(tmp_path):
    config = json.loads((trained("bc", tmp_path / "run", more={"steps": 2}) / "config.json").read_text())
    assert not {"observation_offset", "whole_actions"} & config.keys()


def test_a_study_sees_what_the_agent_was_trained_on(tmp_path):
    run = trained("bc", tmp_path / "run", more={"study": True}, **MAP)
    assert json.loads((run / "study.json").read_text())["episodes"][0]["return"] > 9.4


# Parts and mixtures


def test_a_part_of_the_features_goes_without_the_others_offset(tmp_path, capsys):
    run = trained("bc", tmp_path / "run", more={"observations": "0"}, **MAP)
    assert mean_return(run) > 7.1  # the other half of the action is not known: (1 + 1/2) / 2
    assert "4,000,000" in capsys.readouterr().out
    trained("bc", tmp_path / "other", more={"observations": "1"}, **MAP)
    assert "4,000,000" not in capsys.readouterr().out


def test_a_mixture_of_two_offsets_has_one(tmp_path):
    one, two = record("test/one-v0", **CLOCK), record("test/two-v0", offset=1.7e9 + 60, scale=5.0)
    mixed = trained("bc", tmp_path / "mixed", f"{one}+{two}", more={"steps": 400})
    (offset, other) = json.loads((mixed / "config.json").read_text())["observation_offset"]
    assert offset == pytest.approx(1.7e9 + 30, abs=1)
    assert other == 0


def test_what_is_trained_on_a_part_of_a_mixture_is_played_around_its_own_offset(tmp_path):
    one, two = record("test/one-v0", **CLOCK), record("test/two-v0", offset=1.7e9 + 60, scale=5.0, noise=0.3)
    least = float(TrajectoryDataset.from_minari(two).returns.topk(4).values.min())
    run = trained("bc", tmp_path / "part", f"{one}+{two}", more={"min_return": least})
    finals = [json.loads(row) for row in (run / "evaluations.jsonl").read_text().splitlines()]
    rows = flowrl.evaluate(run, episodes=len(finals), device="cpu")
    assert [row["return"] for row in rows] == [row["return"] for row in finals]


# What cannot be kept is said


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ({"scale": 1e-17}, "feature 0.*constant"),
        (MAP, "feature 0.*4,000,000"),
        (WIDE, "action 0.*bounds"),
    ],
    ids=str,
)
def test_what_is_done_to_the_data_is_said(keywords, word, tmp_path, capsys):
    trained("bc", tmp_path / "run", more={"steps": 2}, **keywords)
    printed = capsys.readouterr()
    assert re.search(word, printed.out + printed.err)


def test_an_inspection_shows_observations_as_they_are_stored():
    feature = inspect_dataset(record("test/measured-v0", **MAP), transitions=0).statistics.observations[0]
    assert 4e6 - 1 <= feature.minimum < 4e6 - 0.9
    assert 0.5 < feature.std < 0.7
    assert not feature.constant

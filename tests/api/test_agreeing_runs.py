"""What a dataset says about itself decides how its runs are played: at the end of training, and without it."""

import json
import shutil
import warnings

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

import flowrl
from flowrl.data.minari_store import dataset_path
from flowrl.errors import InputError
from flowrl.inspection import inspect_dataset
from flowrl.scripts import collect
from flowrl.training.run_folder import RunFolder

ID, GOAL = "test/goal-v0", "test/Goal-v0"


class Goal(gym.Env):
    """Pays at each of its steps what the options of its reset say."""

    observation_space = Box(-10, 10, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, length=6):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.goal = 0, float((options or {}).get("goal", 0))
        return self.observe(), {}

    def observe(self):
        return self.np_random.normal(size=3).clip(-9, 9).astype(np.float32)

    def step(self, action):
        self.time += 1
        return self.observe(), self.goal, self.time == self.length, False, {}


@pytest.fixture(autouse=True)
def registered():
    gym.register(GOAL, f"{__name__}:Goal", max_episode_steps=100)
    yield
    del gym.registry[GOAL]


def written(goals, **about):
    """Episodes of random actions, one for each of the goals."""
    env, buffers = gym.make(GOAL, disable_env_checker=True), []
    env.action_space.seed(0)
    for number, goal in enumerate(goals):
        options = None if goal is None else {"goal": goal}
        seen, actions, rewards, over = [env.reset(seed=number, options=options)[0]], [], [], False
        while not over:
            actions.append(env.action_space.sample())
            observation, reward, over, _, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        ends = np.arange(len(rewards)) == len(rewards) - 1
        buffers.append(
            EpisodeBuffer(
                id=number, seed=number, options=options, observations=np.stack(seen), actions=np.stack(actions),
                rewards=np.array(rewards), terminations=ends, truncations=ends & False,
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(ID, buffers, algorithm_name="x", **({"env": env} | about))


def returns(run, kind="final"):
    return [row["return"] for row in RunFolder(run).rows("evaluations.jsonl") if row["kind"] == kind]


@pytest.mark.parametrize("goals", [[2.0] * 4, [1.0, 2.0, 3.0]])
def test_recorded_reset_options_are_played_with_and_without_the_dataset(goals, tiny_train, tmp_path, capsys):
    written(goals)
    run = tiny_train("bc", tmp_path / "run", dataset=ID, steps=2, episodes=6)
    played = returns(run)
    assert sorted(set(played)) == sorted({6 * goal for goal in goals})
    assert "goal=" in capsys.readouterr().out
    shutil.rmtree(dataset_path(ID))
    flowrl.evaluate(run, episodes=6, device="cpu")
    assert returns(run, "evaluate") == played
    # The same environment by its name is reset alike.
    flowrl.evaluate(run, episodes=6, device="cpu", env=GOAL)
    assert returns(run, "evaluate")[6:] == played


def test_the_environment_for_evaluation_is_played_unless_another_is_chosen(tiny_train, tmp_path, capsys):
    written([None] * 4, eval_env=gym.make(GOAL, length=3))
    run = tiny_train("bc", tmp_path / "run", dataset=ID, steps=2, episodes=2)
    assert "eval_env" in capsys.readouterr().out
    assert {row["length"] for row in RunFolder(run).rows("evaluations.jsonl")} == {3}
    other = tiny_train("bc", tmp_path / "other", dataset=ID, steps=2, episodes=2, env=GOAL)
    assert {row["length"] for row in RunFolder(other).rows("evaluations.jsonl")} == {6}


def test_a_comparison_says_once_what_disagrees(tmp_path, capsys):
    written([2.0] * 4)
    metadata = dataset_path(ID) / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["env_spec"] = json.dumps(json.loads(content["env_spec"]) | {"max_episode_steps": 5})
    metadata.write_text(json.dumps(content))
    (metadata.parent / "flowrl_fingerprint.json").unlink(missing_ok=True)
    shared = {"steps": 2, "batch_size": 4, "episodes": 1, "device": "cpu", "width": 8, "layers": 1}
    flowrl.compare(ID, {"a": ("bc", {}), "b": ("bc", {"top_fraction": 0.5})}, out=tmp_path / "out", **shared)
    said = capsys.readouterr().err
    assert said.count("max_episode_steps") == 1
    assert said.count("goal=2.0") == 1


def test_what_is_refused_leaves_no_run_folder(tiny_train, tmp_path):
    written([None] * 3, env=gym.wrappers.NormalizeObservation(gym.make(GOAL, disable_env_checker=True)))
    with pytest.raises(InputError, match="NormalizeObservation"):
        tiny_train("bc", tmp_path / "run", dataset=ID, steps=2)
    assert not (tmp_path / "run").exists()
    tiny_train("bc", tmp_path / "run", dataset=ID, steps=2, episodes=1, env=GOAL)


def test_an_inspection_names_what_disagrees_and_replays_with_the_options():
    written([1.0, 2.0, 3.0], eval_env=gym.make(GOAL, length=3))
    inspection = inspect_dataset(ID, transitions=4)
    assert any("eval_env" in sentence for sentence in inspection.notes)
    assert inspection.alignment is not None
    assert inspection.alignment.seeded is not None
    assert inspection.alignment.seeded.reward == 0  # each step pays its goal
    written_through = gym.wrappers.NormalizeObservation(gym.make(GOAL, disable_env_checker=True))
    shutil.rmtree(dataset_path(ID))
    written([None] * 3, env=written_through)
    assert any("NormalizeObservation" in sentence for sentence in inspect_dataset(ID, transitions=4).refused)


def test_collecting_says_what_training_would_refuse(capsys):
    running = (
        gym.envs.registration.WrapperSpec("NormalizeObservation", "gymnasium.wrappers:NormalizeObservation", {}),
    )
    gym.register("test/Running-v0", f"{__name__}:Goal", max_episode_steps=100, additional_wrappers=running)
    try:
        collect.main(collect.Args("test/running-v0", env="test/Running-v0", policy=("random",), steps=12))
    finally:
        del gym.registry["test/Running-v0"]
    assert "NormalizeObservation" in capsys.readouterr().err
    collect.main(collect.Args("test/plain-v0", env=GOAL, policy=("random",), steps=12))
    assert "warning" not in capsys.readouterr().err

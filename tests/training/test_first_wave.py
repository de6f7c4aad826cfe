"""Runs of the first wave are loaded, played and evaluated as they were; their training cannot go on.

`first_wave/` holds a run of `flow` and one of `bc` as the first wave's `scripts.train` left them, without the event
files of TensorBoard: 10 steps on 400 steps of `flowrl/reach/mixed-v0`.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowrl.agents import find_agent, load_agent, load_policy
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.episodes import EvaluationConfig, EvaluationEnvironment, play
from flowrl.nn.acting import ACTING
from flowrl.nn.model_config import TOKENS
from flowrl.scripts import evaluate, train
from flowrl.training.first_wave import is_first_wave, upgraded_config
from flowrl.training.run_folder import RunFolder

RUNS = Path(__file__).parent / "first_wave"
OPTIONS = [
    *("--dataset", "flowrl/reach/mixed-v0", "--layers", "1", "--context", "4", "--steps", "10"),
    *("--episodes", "2", "--batch-size", "8", "--warmup-steps", "5", "--log-every", "5", "--checkpoint-every", "5"),
    *("--evaluate-every", "0", "--device", "cpu"),
]
SIZES = {"flow": ["--width", "4", "--heads", "2"], "bc": ["--width", "8"]}


@pytest.fixture(params=["flow", "bc"])
def run(request, tmp_path):
    """A run of the first wave."""
    return RunFolder(shutil.copytree(RUNS / request.param, tmp_path / request.param))


def finals(run):
    return [row for row in run.rows("evaluations.jsonl") if row["kind"] == "final"]


def test_a_policy_earns_the_returns_of_its_final_rows(run):
    policy, rows = load_policy(run.path), finals(run)
    assert len(rows) == 4
    for row in rows:
        env = make_env(row["env"])
        observation, _ = env.reset(seed=row["seed"])
        policy.reset(row["target"])
        reward, earned, length, over = 0.0, 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, reward))
            earned, length, over = earned + float(reward), length + 1, terminated or truncated
        assert earned == pytest.approx(row["return"], abs=1e-4)
        assert (length, terminated) == (row["length"], row["terminated"])


def test_an_evaluation_of_the_same_episodes_gives_the_same_rows(run):
    rows, loaded = finals(run), load_agent(run, torch.device("cpu"))
    assert loaded.step == 10
    targets = list(dict.fromkeys(row["target"] for row in rows))
    env, evaluation = EvaluationEnvironment(gym.spec("flowrl/Reach-v0")), EvaluationConfig(episodes=2)
    again = play(loaded.actor, env, targets, evaluation, torch.device("cpu"), kind="final", step=10)
    if not loaded.actor.conditioned:  # in the first wave it was played for every target, to the same returns
        rows = rows[:2]
    assert [row["seed"] for row in again] == [row["seed"] for row in rows]
    np.testing.assert_allclose([row["return"] for row in again], [row["return"] for row in rows], atol=1e-4)


def test_it_is_evaluated_from_the_command_line(run, capsys):
    before = run.rows("evaluations.jsonl")
    evaluate.start([str(run.path), "--episodes", "2", "--targets", "p50", "best", "--device", "cpu"])
    after = run.rows("evaluations.jsonl")
    assert after[: len(before)] == before
    assert len(after) - len(before) == (2 if run.path.name == "bc" else 4)
    assert f"{run.path} at step 10" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_training_it_is_refused_in_a_sentence(run, reach_dataset, finished):
    if not finished:
        (run.path / "evaluations.jsonl").unlink()
    content = (run.path / "checkpoint.pt").read_bytes()
    name = run.path.name
    with pytest.raises(InputError, match="was trained by an earlier flowrl: it can be evaluated, but not resumed"):
        train.start([name, *OPTIONS, *SIZES[name], "--run-dir", str(run.path)])
    assert (run.path / "checkpoint.pt").read_bytes() == content


def test_the_same_command_trains_the_same_weights_today(run, reach_dataset, tmp_path):
    name = run.path.name
    train.start([name, *OPTIONS, *SIZES[name], "--run-dir", str(tmp_path / "new")])
    then, now = run.load(), RunFolder(tmp_path / "new").load()
    weights, expected = (checkpoint["learner"]["actor"] for checkpoint in (now, then))
    assert weights.keys() == expected.keys()
    for weight, tensor in weights.items():  # to the bit where the processor is the same
        torch.testing.assert_close(tensor, expected[weight], rtol=1e-4, atol=1e-6, msg=weight)


def test_its_settings_are_those_of_todays_agent(run):
    raw = json.loads((run.path / "config.json").read_text())
    config = run.config()
    agent = type(find_agent(config["agent"]).config).from_record(config["agent_config"])
    assert agent.record() == config["agent_config"]
    assert agent.cloning.warmup_steps == raw["training"]["warmup_steps"] == 5
    assert config["training"].keys() == {"steps", "batch_size", "precision", "log_every", "checkpoint_every"}
    assert json.loads(config["env_spec"])["entry_point"] == "flowrl.envs.tiny:Reach"
    assert upgraded_config(config) == config, "a second time changes nothing"
    assert run.load()["config"] == config


def test_a_damaged_checkpoint_is_refused_or_loads(run):
    """It has no checksum of its own: only that no traceback is shown."""
    file = run.path / "checkpoint.pt"
    content = file.read_bytes()
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 40, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= int(random.integers(1, 256))
        file.write_bytes(damaged)
        with suppress(InputError):
            load_policy(run.path)


def test_settings_that_came_later_are_what_they_were_before():
    """Runs of before the attention had options, a convolution, other tokens or a carried state."""
    old = {"attention": "flow", "width": 16, "rollout": "window"}
    training = {"steps": 5, "learning_rate": 0.1}
    upgraded = upgraded_config({"agent": "flow", "agent_config": old, "training": training})
    agent = upgraded["agent_config"]
    assert agent["attention_options"] == []
    assert (agent["convolution"], agent["carry_state"], agent["acting_context"]) == (0, False, None)
    assert agent["tokens"] in TOKENS
    assert agent["rollout"] in ACTING
    assert agent["cloning"] == {"learning_rate": 0.1}
    assert upgraded["training"] == {"steps": 5}
    assert "attention_options" not in upgraded_config(
        {"agent": "bc", "agent_config": {"width": 16}, "training": training}
    )["agent_config"]  # fmt: skip


@pytest.mark.parametrize(
    "config", [None, 3, {}, {"agent_config": None}, {"agent_config": {}, "training": {"steps": 5}}]
)
def test_other_configurations_are_left_alone(config):
    assert upgraded_config(config) == config


def test_todays_checkpoints_are_not_of_the_first_wave(tiny_run):
    assert not is_first_wave(RunFolder(tiny_run).load())
    assert is_first_wave(torch.load(RUNS / "bc/checkpoint.pt", weights_only=True))

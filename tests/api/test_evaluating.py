"""flowrl.evaluate: the rows it adds, in which environment and way, and what it refuses."""

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

import flowrl
from flowrl.envs.tiny import Reach
from flowrl.errors import InputError
from flowrl.training.device import choose_device


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def evaluate(run, **options):
    return flowrl.evaluate(run, device="cpu", **options)


def test_rows_are_added_to_those_that_are_there(any_tiny_run, minari_root, capsys):
    before = rows(any_tiny_run)
    added = evaluate(any_tiny_run, episodes=2, targets=["p50", "best", 3.5], episode_seed=77)
    assert rows(any_tiny_run) == before + added
    percentiles = json.loads((any_tiny_run / "config.json").read_text())["dataset_returns"]["percentiles"]
    targets = [None] if any_tiny_run.name == "bc" else [percentiles[50], percentiles[100], 3.5]
    assert [(row["target"], row["seed"]) for row in added] == [
        (target, seed) for target in targets for seed in (77, 78)
    ]
    assert {(row["kind"], row["step"], row["env"]) for row in added} == {("evaluate", 20, "flowrl/Reach-v0")}
    printed = capsys.readouterr().out
    assert f"{np.mean([row['return'] for row in added if row['target'] == targets[-1]]):,.1f}" in printed
    assert "at step 20, 2 episodes" in printed
    assert not list(minari_root.iterdir()), "no dataset is needed"


def test_the_same_seeds_give_the_rows_of_the_final_evaluation(any_tiny_run):
    final = rows(any_tiny_run)
    assert [row | {"kind": "final"} for row in evaluate(any_tiny_run, episodes=3)] == final


def test_async_and_sync_give_the_same_rows(tiny_run):
    sync, parallel = (evaluate(tiny_run, episodes=2, targets="best", vector=vector) for vector in ("sync", "async"))
    assert sync == parallel


def test_a_finished_run_stays_finished(tiny_run, tiny_train, reach_dataset, capsys):
    evaluate(tiny_run, episodes=1)
    tiny_train("flow", tiny_run)
    assert "is finished: nothing to do" in capsys.readouterr().out


def test_rows_name_the_rollout(tiny_run, tiny_runs):
    played = evaluate(tiny_run, episodes=2, targets="best", rollout="recurrent")
    assert [row["rollout"] for row in played] == ["recurrent"] * 2
    with pytest.raises(InputError, match="rollout window cannot be chosen: this agent does not look back"):
        evaluate(tiny_runs / "bc", rollout="window")


def test_rows_say_how_many_steps_are_read(tiny_run):
    evaluate(tiny_run, episodes=2, targets="best", acting_context=2)
    evaluate(tiny_run, episodes=2, targets="best", rollout="recurrent")
    assert [row["acting_context"] for row in rows(tiny_run)] == [5] * 6 + [2] * 2 + [None] * 2
    with pytest.raises(InputError, match="acting_context is 9: it must be at least 1 and at most context, 5"):
        evaluate(tiny_run, acting_context=9)


def test_another_past_than_in_training_is_warned_of(tiny_train, reach_dataset, tmp_path, capsys):
    run = tiny_train("flow", tmp_path / "run", rollout="recurrent")
    warning = "warning: the agent is trained on windows of 5 steps and acts on a state carried over the whole episode"
    assert capsys.readouterr().err.count(warning) == 1
    evaluate(run, episodes=1)
    assert capsys.readouterr().err.count(warning) == 1
    evaluate(run, episodes=1, rollout="window")
    assert "warning" not in capsys.readouterr().err


def test_targets_far_from_the_data_are_warned_of_and_played(tiny_run, tiny_runs, capsys):
    played = evaluate(tiny_run, episodes=1, targets=[-100, 9999])
    assert capsys.readouterr().err.count("warning:") == 2
    assert [row["target"] for row in played] == [-100, 9999]


# The environment


def test_another_environment_can_be_named(tiny_run):
    gym.register("test/Reach-v3", entry_point="flowrl.envs.tiny:Reach", max_episode_steps=2)
    try:
        played = evaluate(tiny_run, episodes=2, targets="best", env="test/Reach-v3")
    finally:
        del gym.registry["test/Reach-v3"]
    assert {(row["env"], row["length"], row["terminated"]) for row in played} == {("test/Reach-v3", 2, False)}
    assert {row["score_measured"] for row in played} == {None}


@pytest.fixture
def short_env():
    """Reach that ends after `steps`, 3 by default."""
    gym.register("test/Short-v0", entry_point=_short, kwargs={"steps": 3})
    yield "test/Short-v0"
    del gym.registry["test/Short-v0"]


def _short(steps: int, render_mode: str | None = None) -> gym.Env:
    return gym.wrappers.TimeLimit(Reach(render_mode=render_mode), steps)


def test_the_environments_keywords_can_be_chosen(tiny_run, short_env, capsys):
    evaluate(tiny_run, episodes=1, targets="best", env=short_env)
    evaluate(tiny_run, episodes=1, targets="best", env=short_env, env_kwargs="steps=2")
    assert [(row["env_kwargs"], row["length"]) for row in rows(tiny_run)[-2:]] == [({"steps": 3}, 3), ({"steps": 2}, 2)]
    assert "test/Short-v0 (steps=2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("length=2", "env_kwargs length=2: test/Short-v0 does not accept them: .*unexpected keyword argument 'length'"),
        (
            "steps=long",
            "env_kwargs steps=long: test/Short-v0 does not accept them: Expect the `max_episode_steps` to be",
        ),
        ("steps", "env_kwargs steps: it must be NAME=VALUE"),
    ],
)
def test_keywords_that_an_environment_does_not_accept_are_refused(tiny_run, short_env, word, message):
    before = rows(tiny_run)
    with pytest.raises(InputError, match=message):
        evaluate(tiny_run, env=short_env, env_kwargs=word)
    assert rows(tiny_run) == before


class _Scaled(Reach):
    """Reach that pays `scale` times 1.5e10, whatever `scale` is."""

    def __init__(self, scale, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.scale = scale

    def step(self, action):
        observation, _, *flags = super().step(action)
        return observation, self.scale * 1.5e10, *flags


def test_a_value_that_only_the_first_step_cannot_use_is_refused_before_training(tiny_train, reach_dataset, tmp_path):
    gym.register("test/Scaled-v0", entry_point=_Scaled)
    gym.register("test/Nameless-v0", entry_point=lambda **keywords: Reach(**keywords))
    try:
        for word, message in (
            ("scale=abc", "test/Scaled-v0 does not accept them: can't multiply"),
            ("scale=1e308", "its first step is not of finite numbers"),
            ("other=1", "unexpected keyword argument 'other'"),
        ):
            with pytest.raises(InputError, match=message):
                tiny_train("bc", tmp_path / "run", env="test/Scaled-v0", env_kwargs=word)
            assert not (tmp_path / "run" / "checkpoint.pt").exists()
        run = tiny_train("bc", tmp_path / "run", env="test/Scaled-v0", env_kwargs="scale=2")
        with pytest.raises(InputError, match="environment test/Nameless-v0 cannot be kept with the run: Callable"):
            tiny_train("bc", tmp_path / "other", env="test/Nameless-v0")
    finally:
        gym.registry.pop("test/Scaled-v0")
        gym.registry.pop("test/Nameless-v0")
    assert {json.dumps(row["env_kwargs"]) for row in rows(run)} == {'{"scale": 2}'}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("flowrl/Reech-v0", "unknown environment 'flowrl/Reech-v0'.*flowrl/Reach-v0"),
        ("Pendulum-v1", r"action of Pendulum-v1 has shape \(1,\): the data have \(2,\)"),
        ("CartPole-v1", r"observation of CartPole-v1 has shape \(4,\)"),
    ],
)
def test_an_unfit_environment_is_refused(tiny_run, env, message):
    before = rows(tiny_run)
    with pytest.raises(InputError, match=message):
        evaluate(tiny_run, env=env)
    assert rows(tiny_run) == before


# What cannot be played


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def test_a_run_that_another_process_owns_is_left_alone(tiny_run, tiny_train, reach_dataset):
    """The other process is a real one: an `flock` from here would be our own."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tiny_run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    before = rows(tiny_run)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"):
            evaluate(tiny_run, episodes=1)
        with pytest.raises(InputError, match="in use by another process"):
            tiny_train("flow", tiny_run)
    finally:
        holder.communicate("\n")
    assert rows(tiny_run) == before
    tiny_train("flow", tiny_run)


def test_what_is_no_run_is_refused_and_not_made_one(tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        evaluate(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_truncated_checkpoints_are_refused(tiny_run):
    for file in tiny_run.glob("checkpoint*.pt"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="checkpoint.pt is damaged"):
        evaluate(tiny_run)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "tpu", ""):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used here: ") as caught:
            choose_device(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(tiny_run):
    with pytest.raises(InputError, match="device 'cuda' cannot be used here"):
        flowrl.evaluate(tiny_run, device="cuda")

"""What the papers set for every task is looked up by the dataset's id, recorded, and gives way to what a user sets."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from flowrl.agents import AGENTS, load_agent
from flowrl.agents.paper_tasks import paper_task
from flowrl.errors import InputError
from flowrl.experiments import training_run
from flowrl.scripts import cli, train
from flowrl.training.run_folder import RunFolder

KINDS = ("medium", "medium-replay", "medium-expert")


@pytest.fixture
def named(random_dataset):
    """Random data under an id."""
    return lambda name: replace(random_dataset([9, 4, 17]), id=name)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("flowrl/hopper/medium-replay-v0", "hopper-medium-replay"),
        ("d4rl/walker2d/medium-v2", "walker2d-medium"),
        ("hopper-medium-expert-v2", "hopper-medium-expert"),
        ("test/halfcheetah-medium-v12", "halfcheetah-medium"),
        ("mujoco/hopper/medium-v0", None),
        ("flowrl/hopper/expert-v0", None),
        ("flowrl/hopper/medium", None),
        ("bullet-hopper-medium-v0", None),
        ("flowrl/ant/medium-v0", None),
        ("flowrl/reach/mixed-v0", None),
        ("flowrl/hopper/medium-v0+flowrl/hopper/medium-replay-v0", None),
        ("mujoco/hopper/medium-v0:3+hopper-medium-v2", None),
    ],
)
def test_which_task_of_the_papers_a_dataset_is(name, task):
    assert paper_task(name) == task


def test_rebrac_has_the_papers_two_weights(named):
    """Rows: HalfCheetah, Hopper, Walker2d; columns: medium, medium-replay, medium-expert."""
    weights = {
        "halfcheetah": [(0.001, 0.01), (0.01, 0.001), (0.01, 0.1)],
        "hopper": [(0.01, 0.01), (0.05, 0.5), (0.1, 0.01)],
        "walker2d": [(0.05, 0.1), (0.05, 0.01), (0.01, 0.01)],
    }
    paper = AGENTS["rebrac-paper"].config
    for robot, row in weights.items():
        for kind, (actor, critic) in zip(KINDS, row, strict=True):
            expected = replace(paper, actor_cloning=actor, critic_cloning=critic)
            for name in (f"flowrl/{robot}/{kind}-v0", f"d4rl/{robot}/{kind}-v2", f"{robot}-{kind}-v2"):
                assert paper.for_dataset(named(name)) == expected
            assert expected.for_dataset(named(name)) == expected


def test_what_the_user_set_stays(named):
    dataset, config = named("flowrl/hopper/medium-replay-v0"), AGENTS["rebrac-paper"].config
    assert replace(config, actor_cloning=3.0).for_dataset(dataset) == replace(
        config, actor_cloning=3.0, critic_cloning=0.5
    )
    assert replace(config, critic_cloning=0.0).for_dataset(dataset) == replace(
        config, actor_cloning=0.05, critic_cloning=0.0
    )
    own = replace(config, actor_cloning=3.0, critic_cloning=0.0)
    assert own.for_dataset(named("flowrl/reach/mixed-v0")) == own
    short = AGENTS["rebrac"].config
    assert short.for_dataset(dataset) == short


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ["actor_cloning", "critic_cloning"]),
        ({"actor_cloning": 0.1}, ["critic_cloning"]),
        ({"critic_cloning": 0.1}, ["actor_cloning"]),
    ],
)
def test_elsewhere_rebrac_needs_both_and_says_which_are_missing(given, missing, named):
    with pytest.raises(InputError) as caught:
        replace(AGENTS["rebrac-paper"].config, **given).for_dataset(named("mujoco/hopper/medium-v0"))
    (said,) = caught.value.args
    assert "mujoco/hopper/medium-v0" in said
    assert "\n" not in said
    assert [name for name in ("actor_cloning", "critic_cloning") if name in said] == missing


def test_iql_has_the_papers_exceptions_on_hopper(named):
    paper = AGENTS["iql-paper"].config
    usual = replace(paper.critic, tau=0.005)
    most = replace(paper, expectile=0.7, beta=3.0, policy="gaussian", critic=usual)
    careful = replace(most, policy="deterministic", critic=replace(paper.critic, tau=0.001))
    expected = {
        "hopper-medium-v2": careful,
        "flowrl/hopper/medium-replay-v0": careful,
        "flowrl/hopper/medium-expert-v0": replace(most, expectile=0.5, beta=6.0),
        "mujoco/hopper/medium-v0": most,
        "d4rl/walker2d/medium-v2": most,
        "flowrl/halfcheetah/medium-expert-v0": most,
        "random": most,
    }
    for name, config in expected.items():
        assert paper.for_dataset(named(name)) == config, name
        assert config.for_dataset(named(name)) == config, name
        assert AGENTS["iql"].config.for_dataset(named(name)) == AGENTS["iql"].config, name


def test_what_the_user_set_of_iql_stays(named):
    paper, medium, expert = AGENTS["iql-paper"].config, named("hopper-medium-v2"), named("hopper-medium-expert-v2")
    assert replace(paper, policy="gaussian").for_dataset(medium).policy == "gaussian"
    assert replace(paper, critic=replace(paper.critic, tau=0.02)).for_dataset(medium).critic.tau == 0.02
    own = replace(paper, expectile=0.9).for_dataset(expert)
    assert (own.expectile, own.beta) == (0.9, 6.0)
    own = replace(paper, beta=0.0).for_dataset(expert)
    assert (own.expectile, own.beta) == (0.5, 0.0)


def words(agent, run, *more):
    """The command line of a tiny run."""
    return [
        *(agent, "--run-dir", str(run), "--steps", "3", "--batch-size", "4", "--width", "8", "--layers", "1"),
        *("--episodes", "1", "--evaluate-every", "2", "--checkpoint-every", "1", "--device", "cpu", *more),
    ]


def test_without_the_papers_numbers_no_run_begins(reach_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", *words("rebrac-paper", tmp_path / "run", "--dataset", reach_dataset)])
    with pytest.raises(SystemExit) as caught:
        cli.run(train.start)
    assert caught.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert "actor_cloning" in said
    assert not (tmp_path / "run").exists()


class Dead(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("agent", "name", "numbers"),
    [
        ("rebrac-paper", "d4rl/walker2d/medium-v2", {"actor_cloning": 0.05, "critic_cloning": 0.1}),
        ("iql-paper", "test/hopper/medium-expert-v0", {"expectile": 0.5, "beta": 6.0, "policy": "gaussian"}),
    ],
)
def test_the_numbers_are_recorded_and_the_same_command_resumes(
    agent, name, numbers, write, numbered_episode, tmp_path, monkeypatch
):
    write(name, [numbered_episode(number, length) for number, length in enumerate((5, 3))])
    run = RunFolder(tmp_path / "run")
    command = words(agent, run.path, "--dataset", name)

    def die(*_, **__):
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "play", die)
        with pytest.raises(Dead):
            train.start(command)
    began = json.loads((run.path / "config.json").read_text())
    assert {setting: began["agent_config"][setting] for setting in numbers} == numbers
    assert 1 <= run.load()["step"] < 3
    train.start(command)
    assert run.load()["step"] == 3
    assert run.final_rows(run.config())
    assert json.loads((run.path / "config.json").read_text()) == began
    loaded = load_agent(run, torch.device("cpu")).config
    assert {setting: getattr(loaded, setting) for setting in numbers} == numbers
    # The same numbers by hand are the same run, others are not.
    by_hand = {f"--{setting.replace('_', '-')}": str(value) for setting, value in numbers.items()}
    train.start([*command, *(word for pair in by_hand.items() for word in pair)])
    first = next(iter(by_hand))
    with pytest.raises(InputError, match="another configuration"):
        train.start([*command, first, "0.25"])

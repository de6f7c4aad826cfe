"""flowrl.train: what a run folder holds, that it is the same to the bit every time, and what is warned of."""

import json
import math

import numpy as np
import pytest
import torch

import flowrl
from flowrl.agents import load_agent
from flowrl.attention import ATTENTION
from flowrl.errors import InputError
from flowrl.report import Report, Run
from flowrl.training import device as devices
from flowrl.training.run_folder import RunFolder


def rows(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def config_of(run):
    return json.loads((run / "config.json").read_text())


def targets_of(agent, config):
    return [None] if agent == "bc" else config["evaluation"]["targets"]


def test_a_run_folder_holds_everything(any_tiny_run, reach):
    files = {path.name for path in any_tiny_run.iterdir()}
    assert {"config.json", "checkpoint.pt", "metrics.jsonl", "evaluations.jsonl"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not [name for name in files if "partial" in name]
    config = config_of(any_tiny_run)
    assert config["agent"] == any_tiny_run.name
    assert config["dataset"] == "flowrl/reach/mixed-v0"
    assert config["training"]["steps"] == 20
    assert {"torch", "gymnasium", "mujoco", "flowrl", "minari", "numpy"} <= config["versions"].keys()
    assert config["dataset_returns"]["mean"] == pytest.approx(float(reach.returns.mean()))
    assert torch.load(any_tiny_run / "checkpoint.pt", weights_only=True)["step"] == 20


def test_the_rows_of_the_final_evaluation(any_tiny_run, reach):
    final, config = rows(any_tiny_run, "evaluations.jsonl"), config_of(any_tiny_run)
    expected = [np.percentile(reach.returns, 90), float(reach.returns.max())]
    assert config["evaluation"]["targets"] == pytest.approx(expected)
    assert [(row["target"], row["seed"]) for row in final] == [
        (target, seed) for target in targets_of(any_tiny_run.name, config) for seed in (10_000, 10_001, 10_002)
    ]
    for row in final:
        assert (row["kind"], row["step"], row["env"]) == ("final", 20, "flowrl/Reach-v0")
        assert row["rollout"] == ("memoryless" if any_tiny_run.name == "bc" else "window")
        assert 0 <= row["return"] <= 15.4
        assert 1 <= row["length"] <= 16
        assert row["terminated"] == (row["length"] < 16 or row["terminated"])
        assert row["score_d4rl"] is None
        assert row["score_measured"] == pytest.approx(100 * (row["return"] - 5.197) / (14.423 - 5.197))


def test_metrics_have_every_step_once(any_tiny_run):
    metrics = rows(any_tiny_run, "metrics.jsonl")
    assert [row["step"] for row in metrics if "train/loss" in row] == [5, 10, 15, 20]
    assert "eval/seconds" in metrics[-1]
    assert 50e6 < metrics[-1]["memory/peak_bytes"] < 50e9  # in bytes: torch alone takes more than the one
    assert len(metrics) == 5


def test_one_seed_gives_one_run_to_the_bit(tiny_train, tiny_runs, reach_dataset, tmp_path, assert_same_run):
    tiny_train("flow", tmp_path / "again")
    assert_same_run(tmp_path / "again", tiny_runs / "flow")
    tiny_train("flow", tmp_path / "other", seed=1)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "other", tiny_runs / "flow")


@pytest.mark.parametrize("agent", ["flow", "bc"])
def test_evaluating_while_training_changes_no_weight(agent, tiny_train, tiny_runs, reach_dataset, tmp_path):
    run = tiny_train(agent, tmp_path / "watched", evaluate_every=5, evaluate_episodes=2)
    played, targets = rows(run, "evaluations.jsonl"), 1 if agent == "bc" else 2
    assert [(row["kind"], row["step"]) for row in played] == [
        *[("training", step) for step in (5, 10, 15) for _ in range(2 * targets)], *[("final", 20)] * (3 * targets),
    ]  # fmt: skip
    # The same seeds as the final evaluation's first.
    assert {row["seed"] for row in played if row["kind"] == "training"} == {10_000, 10_001}
    one, two = (RunFolder(folder).load()["learner"]["actor"] for folder in (run, tiny_runs / agent))
    assert all(torch.equal(one[name], two[name]) for name in one)
    names = {name for row in rows(run, "metrics.jsonl") for name in row if name.startswith("eval/return")}
    assert names == ({"eval/return"} if agent == "bc" else {"eval/return@p90", "eval/return@best"})


def test_an_evaluation_is_judged_at_the_best_target_within_the_data(tiny_train, reach_dataset, tmp_path):
    run = tiny_train("flow", tmp_path, targets=["p50", "best", "r150"])
    last = rows(run, "metrics.jsonl")[-1]
    judged = sorted({row["target"] for row in rows(run, "evaluations.jsonl")})[1]
    mine = [row for row in rows(run, "evaluations.jsonl") if row["target"] == judged]
    assert last["eval/score"] == pytest.approx(sum(row["score_measured"] for row in mine) / len(mine))
    assert last["eval/length"] == sum(row["length"] for row in mine) / len(mine)
    assert last["eval/return@best"] == pytest.approx(sum(row["return"] for row in mine) / len(mine))


def test_the_callers_generators_are_not_touched(tiny_train, reach_dataset, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tiny_train("flow", tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_and_an_async_vector_env_run(tiny_train, reach_dataset, tiny_runs, tmp_path):
    assert len(rows(tiny_train("dt", tmp_path / "bf16", precision="bf16"), "evaluations.jsonl")) == 6
    tiny_train("dt", tmp_path / "async", vector="async")
    assert rows(tmp_path / "async", "evaluations.jsonl") == rows(tiny_runs / "dt", "evaluations.jsonl")


def test_a_finished_run_says_so_and_does_nothing(any_tiny_run, tiny_train, reach_dataset, capsys):
    before = {path.name: path.read_bytes() for path in any_tiny_run.iterdir()}
    assert tiny_train(any_tiny_run.name, any_tiny_run) == any_tiny_run
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in any_tiny_run.iterdir()} == before


@pytest.mark.parametrize("agent", ["flow", "bc"])
def test_a_run_killed_in_its_final_evaluation_plays_it_again(
    agent, tiny_train, tiny_runs, reach_dataset, tmp_path, assert_same_run
):
    """The last rows are cut: half of them, and the middle of a line."""
    run = tiny_train(agent, tmp_path / agent)
    text = (run / "evaluations.jsonl").read_text()
    (run / "evaluations.jsonl").write_text(text[: len(text) // 2])
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(metrics[:-1]))
    tiny_train(agent, run)
    assert_same_run(run, tiny_runs / agent)


def test_the_best_episodes_alone(tiny_train, reach, tmp_path):
    config = config_of(tiny_train("bc", tmp_path, top_fraction=0.1))
    best = reach.top(0.1)
    assert best.episodes < reach.episodes
    # Targets and reports speak of the whole dataset, so that %BC stands in one table with the others.
    assert config["dataset_returns"]["episodes"] == reach.episodes
    assert config["dataset_returns"]["mean_by_step"] == pytest.approx(
        float((reach.returns * reach.lengths).sum() / reach.lengths.sum())
    )
    assert config["fingerprint"] == best.fingerprint


def test_targets_that_round_alike_keep_their_metrics_apart(tiny_train, reach_dataset, tmp_path):
    last = rows(tiny_train("flow", tmp_path, targets=[14.1, 14.2, 14.3]), "metrics.jsonl")[-1]
    assert {"eval/return@14.1", "eval/return@14.2", "eval/return@14.3"} <= last.keys()


def test_without_a_run_dir_the_folder_is_named_after_dataset_agent_and_seed(
    tiny_train, reach_dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = tiny_train("bc", None, seed=3)
    assert str(run) == "runs/flowrl-reach-mixed-v0/bc-seed3"
    assert (run / "checkpoint.pt").exists()


@pytest.mark.parametrize("attention", sorted(ATTENTION.keys() - {"flow", "softmax"}))
def test_every_attention_is_trained_played_and_studied_by_its_name(attention, tiny_train, reach_dataset, tmp_path):
    options = {"attention": attention, "steps": 3, "checkpoint_every": 2, "context": 8, "precision": "bf16"}
    run = tiny_train("flow", tmp_path / "run", **options)
    assert config_of(run)["agent_config"]["attention"] == attention
    policy = flowrl.load_policy(run)
    policy.reset(5.0)
    assert np.isfinite(policy.act(np.zeros(3))).all()
    played = {"episodes": 1, "targets": "best", "device": "cpu"}
    flowrl.evaluate(run, **played, out=tmp_path / "report")
    assert (tmp_path / "report/report.html").exists()
    before = (run / "evaluations.jsonl").read_bytes()
    if ATTENTION[attention].why_no_step is None:
        flowrl.evaluate(run, **played, rollout="recurrent")
        assert rows(run, "evaluations.jsonl")[-1]["rollout"] == "recurrent"
    else:
        with pytest.raises(InputError, match=f"attention {attention} "):
            flowrl.evaluate(run, **played, rollout="recurrent")
        assert (run / "evaluations.jsonl").read_bytes() == before


# What is warned of


def test_whether_returns_can_steer_is_judged_when_a_run_begins(
    tiny_train, reach_dataset, write, numbered_episode, tmp_path, capsys
):
    mixed = tiny_train("flow", tmp_path / "mixed", steps=1)
    assert config_of(mixed)["dataset_returns"]["steering"]["verdict"] == "yes"
    assert "steer" not in capsys.readouterr().err
    write("few-v0", [numbered_episode(0, 5)] * 3)
    few = {"steps": 1, "dataset": "few-v0", "env": "flowrl/Reach-v0"}
    tiny_train("flow", tmp_path / "few", **few)
    assert "warning: returns are not expected to steer on few-v0: " in capsys.readouterr().err
    tiny_train("bc", tmp_path / "bc", **few, targets=1e6)
    assert "steer" not in capsys.readouterr().err, "it takes no target"
    tiny_train("flow", tmp_path / "part", steps=1, dataset_episodes=":3")
    assert f"not expected to steer on the selected part of {reach_dataset}: " in capsys.readouterr().err


def test_padding_and_too_little_memory_are_warned_of(
    tiny_train, write, numbered_episode, tmp_path, capsys, monkeypatch
):
    write("short-v0", [numbered_episode(0, 5), numbered_episode(1, 8)] * 3)
    short = {"dataset": "short-v0", "env": "flowrl/Reach-v0", "steps": 1}
    tiny_train("flow", tmp_path / "long", **short, context=9)
    assert "context is 9 and the longest episode has 8 steps: the rest is padding" in capsys.readouterr().err
    tiny_train("flow", tmp_path / "fits", **short, context=8)
    assert "padding" not in capsys.readouterr().err

    # 2 episodes of 8 steps of 3 tokens, 1 head, 2 layers, 16 bytes a pair.
    shape = {"context": "episode", "batch_size": 2, "heads": 1, "layers": 2, "dropout": 0.1}
    needed = 2 * (8 * 3) ** 2 * 2 * 16
    for memory, agent, more, warned in [
        (2 * needed, "dt", {}, False),
        (2 * needed - 2, "dt", {}, True),
        (needed, "dt", {"recompute": True}, False),
        (needed - 2, "dt", {"recompute": True}, True),
        (1, "flow", {}, False),
        (1, "dt", {"dropout": 0.0}, False),
    ]:
        monkeypatch.setattr("flowrl.agents.sequence.device_memory", lambda device, memory=memory: memory)
        tiny_train(agent, tmp_path / f"{agent}-{memory}-{len(more)}", **(short | shape | more))
        expected = "attention softmax keeps a number for every pair of tokens: 2 episodes of up to 8 steps may take"
        assert (expected in capsys.readouterr().err) == warned, (memory, agent, more)


def test_the_memory_of_a_device(monkeypatch):
    assert 2**28 < devices.device_memory(torch.device("cpu")) < 2**50
    monkeypatch.delattr(devices.os, "sysconf")
    assert devices.device_memory(torch.device("cpu")) == math.inf, "the system does not say"


# Runs of flowrl 0.1


def as_first_wave(run):
    """Rewrite a run as flowrl 0.1 wrote it: the loop had the optimiser's settings, attentions had no options."""
    checkpoint, config = torch.load(run / "checkpoint.pt", weights_only=True), config_of(run)

    def older(config):
        cloning = config["agent_config"].pop("cloning")
        for name in ("attention_options", "convolution", "tokens", "carry_state", "acting_context"):
            config["agent_config"].pop(name, None)
        return config | {"training": config["training"] | cloning}

    learner = checkpoint["learner"]
    old = {"agent": learner["actor"], "optimiser": learner["optimiser"], "schedule": learner["schedule"]}
    old |= {"step": checkpoint["step"], "fingerprint": checkpoint["fingerprint"], "config": older(checkpoint["config"])}
    torch.save(old, run / "checkpoint.pt")
    (run / "config.json").write_text(json.dumps(older(config)))


def test_a_run_of_flowrl_0_1_is_played_and_compared_with_new_ones(tiny_train, tiny_runs, reach_dataset, tmp_path):
    old = tiny_train("flow", tmp_path / "flow-seed0")
    as_first_wave(old)
    weights = [load_agent(RunFolder(run), torch.device("cpu")).actor.state_dict() for run in (old, tiny_runs / "flow")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    final = rows(old, "evaluations.jsonl")
    assert [row | {"kind": "final"} for row in flowrl.evaluate(old, episodes=3, device="cpu")] == final
    new = tiny_train("flow", tmp_path / "flow-seed1", seed=1)
    report = Report.of([Run.load(RunFolder(run), "flow") for run in (old, new)], commands=[])
    assert [len(comparison.common_seeds) for comparison in report.comparisons] == [2]

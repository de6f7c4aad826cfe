"""The table of references is of the policies that are shipped, and measuring again gives its figures."""

import json
import math
import sys

import numpy as np
import pytest

from flowrl.envs.behavior import POLICIES, Player, UniformPolicy, policy_records, shipped_policy, snapshot_path
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import REFERENCES, facts
from flowrl.scripts import cli, measure_references
from flowrl.scripts.measure_references import Args, digest, main, measure, summary

RECORDS = {record["name"]: record for record in policy_records()}


def shipped(name):
    """The row of an environment, as it is in the repository."""
    env_id, table = RECORDS[name]["env_id"], json.loads(REFERENCES.read_text())
    again = f"run `python -m scripts.measure_references --envs {name}`"
    assert env_id in table, f"envs/references.json has no row for {env_id}, whose policies are shipped: {again}"
    return table[env_id], again


def played_by_hand(name, policy, seed, count=3):
    player = Player(make_env(RECORDS[name]["env_id"]))
    return [round(float(player.episode(policy, seed, index).rewards.sum()), 3) for index in range(count)]


def uniform(name):
    space = make_env(RECORDS[name]["env_id"]).action_space
    return UniformPolicy(space.low, space.high)


def test_summary_by_hand():
    # Mean 3, deviations −2, 0, 2: variance 8 / 2, standard error 2 / √3.
    found = summary(np.array([1.0, 3.0, 5.0]))
    assert (found["episodes"], found["mean"], found["std"]) == (3, 3.0, 2.0)
    assert found["interval"] == pytest.approx([3 - 1.96 * 2 / math.sqrt(3), 3 + 1.96 * 2 / math.sqrt(3)], abs=5e-4)
    assert found["first_returns"] == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("name", RECORDS)
def test_every_environment_with_policies_has_a_row_of_its_present_expert(name):
    row, again = shipped(name)
    expert = snapshot_path(POLICIES / name, RECORDS[name]["stages"]["expert"])
    assert row["expert"]["policy"] == f"envs/policies/{name}/{expert.name}, sampled", f"another expert: {again}"
    assert row["expert"]["sha256"] == digest(expert), f"the expert's weights are not those that were measured: {again}"
    for who in ("random", "expert"):
        low, high = row[who]["interval"]
        assert low < row[who]["mean"] < high
        assert row[who]["episodes"] >= 100
    assert row["random"]["interval"][1] < row["expert"]["interval"][0]


def test_no_row_is_of_an_environment_without_policies():
    assert set(json.loads(REFERENCES.read_text())) <= {record["env_id"] for record in policy_records()}


@pytest.mark.parametrize("name", RECORDS)
def test_facts_reads_the_table(name):
    row, _ = shipped(name)
    measured = facts(RECORDS[name]["env_id"]).measured
    for who in ("random", "expert"):
        assert getattr(measured, who) == row[who]["mean"]
        assert list(getattr(measured, f"{who}_interval")) == row[who]["interval"]
        assert getattr(measured, f"{who}_episodes") == row[who]["episodes"]
    assert measured.expert_policy == row["expert"]["policy"]
    assert (measured.versions.split(", ")[0], measured.command) == (
        f"gymnasium {row['versions']['gymnasium']}",
        row["command"],
    )


@pytest.mark.parametrize("name", RECORDS)
def test_the_first_random_episodes_return_what_is_recorded(name):
    row, again = shipped(name)
    played = played_by_hand(name, uniform(name), row["seed"])
    # Another kind of processor may round otherwise, and a fall grows with it: near, not equal.
    assert played == pytest.approx(row["random"]["first_returns"], rel=0.01, abs=0.05), again


def test_measuring_equals_playing_by_hand(capsys):
    row = measure(RECORDS["hopper"], 3, 2, seed=5)
    assert row["random"]["first_returns"] == played_by_hand("hopper", uniform("hopper"), 5)
    assert row["expert"]["first_returns"] == played_by_hand("hopper", shipped_policy("hopper", "expert"), 5, 2)
    assert row["random"]["mean"] == pytest.approx(np.mean(row["random"]["first_returns"]), abs=1e-3)
    assert row["command"].endswith("--envs hopper --episodes-random 3 --episodes-expert 2 --seed 5")
    assert "Hopper-v5 random:" in capsys.readouterr().out


@pytest.fixture
def quick(monkeypatch):
    """Rows at once: the environments are not played."""
    monkeypatch.setattr(measure_references, "measure", lambda record, *numbers: {"measured": numbers})


@pytest.mark.usefixtures("quick")
def test_rows_of_others_are_kept_only_where_some_are_named(tmp_path):
    out = tmp_path / "table.json"
    out.write_text(json.dumps({"Old-v0": {"measured": 1}}))
    main(Args(envs=("hopper",), seed=3, out=out))
    assert json.loads(out.read_text()) == {"Hopper-v5": {"measured": [1_000, 200, 3]}, "Old-v0": {"measured": 1}}
    main(Args(seed=4, out=out))
    assert set(json.loads(out.read_text())) == {record["env_id"] for record in RECORDS.values()}
    assert list(json.loads(out.read_text())) == sorted(json.loads(out.read_text()))
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_an_interrupted_measurement_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "table.json"
    out.write_text("{}")
    monkeypatch.setattr(measure_references, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(Args(out=out))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.json", "{}")]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--envs", "hoper"], "no behaviour policies for 'hoper'; known are "),
        (["--episodes-random", "1"], "must be at least 2"),
        (["--episodes-expert", "0"], "must be at least 2"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--env", "hopper"], "did you mean --envs"),
        (["--envs", "hopper", "--out", "{broken}"], "is no table of references: remove it"),
        (["--envs", "hopper", "--out", "{list}"], "is no table of references: remove it"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_a_mistake_is_one_sentence(argv, sentence, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").write_text("{")
    (tmp_path / "list").write_text("[]")
    paths = {"broken": tmp_path / "broken", "list": tmp_path / "list"}
    monkeypatch.setattr(sys, "argv", ["scripts/x.py", *(word.format(**paths) for word in argv)])
    with pytest.raises(SystemExit) as ended:
        cli.run(measure_references.start)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in said
    assert said.count("\n") == 1


def test_help_lists_every_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scripts/measure_references.py"])
    with pytest.raises(SystemExit) as ended:
        measure_references.start(["--help"])
    assert ended.value.code in (0, None)
    said = capsys.readouterr().out
    for word in ("python -m scripts.measure_references", "--envs", "--episodes-random", "--episodes-expert", "--seed"):
        assert word in said

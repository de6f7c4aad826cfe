"""The table of references is of the policies that are shipped, and measuring again gives its values."""

import json
import math

import numpy as np
import pytest

from flowrl.envs import references
from flowrl.envs.behavior import POLICIES, UniformPolicy, policy_records, shipped_policy, snapshot_path
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.references import SCRIPTED, digest, measure, measure_references, summary
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.reference_scores import REFERENCES, Reference, reference_scores

RECORDS = policy_records()
ENV_IDS = {record["env_id"] for record in RECORDS.values()} | {env_id for env_id, _ in SCRIPTED.values()}


def shipped(name):
    """The row of an environment, as it is in the repository."""
    env_id, table = RECORDS[name]["env_id"], json.loads(REFERENCES.read_text())
    again = f"run `python -m scripts.measure_references --envs {name}`"
    assert env_id in table, f"the table has no row for {env_id}, whose policies are shipped: {again}"
    return table[env_id], again


def played_by_hand(name, policy, seed, count=3):
    player = EpisodePlayer(make_env(RECORDS[name]["env_id"]))
    return [round(float(player.episode(policy, seed, index).rewards.sum()), 3) for index in range(count)]


def uniform(name):
    space = make_env(RECORDS[name]["env_id"]).action_space
    return UniformPolicy(space.low, space.high)


def test_summary_by_hand():
    # Mean 3, deviations −2, 0, 2: variance 8 / 2, standard error 2 / √3.
    values = summary(np.array([1.0, 3.0, 5.0]))
    assert (values["episodes"], values["mean"], values["std"]) == (3, 3.0, 2.0)
    assert values["interval"] == pytest.approx([3 - 1.96 * 2 / math.sqrt(3), 3 + 1.96 * 2 / math.sqrt(3)], abs=5e-4)
    assert values["first_returns"] == [1.0, 3.0, 5.0]


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


def test_the_rows_are_of_the_environments_with_an_expert():
    assert set(json.loads(REFERENCES.read_text())) == ENV_IDS


@pytest.mark.parametrize("name", RECORDS)
def test_scores_are_normalised_by_the_table(name):
    row, _ = shipped(name)
    reference = reference_scores(RECORDS[name]["env_id"]).flowrl
    assert reference == Reference(row["random"]["mean"], row["expert"]["mean"])


@pytest.mark.parametrize("name", RECORDS)
def test_the_first_random_episodes_return_what_is_recorded(name):
    row, again = shipped(name)
    played = played_by_hand(name, uniform(name), row["seed"])
    # Another kind of processor may round otherwise, and a fall grows with it: near, not equal.
    assert played == pytest.approx(row["random"]["first_returns"], rel=0.01, abs=0.05), again


def test_measuring_equals_playing_by_hand(capsys):
    row = measure("hopper", 3, 2, seed=5)
    assert row["random"]["first_returns"] == played_by_hand("hopper", uniform("hopper"), 5)
    assert row["expert"]["first_returns"] == played_by_hand("hopper", shipped_policy("hopper", "expert"), 5, 2)
    assert row["random"]["mean"] == pytest.approx(np.mean(row["random"]["first_returns"]), abs=1e-3)
    assert "Hopper-v5 random:" in capsys.readouterr().out


@pytest.fixture
def quick(monkeypatch):
    """Rows at once: the environments are not played."""
    monkeypatch.setattr(references, "measure", lambda name, *numbers: {"measured": numbers[:3]})


@pytest.mark.usefixtures("quick")
def test_rows_of_others_are_kept_only_where_some_are_named(tmp_path):
    out = tmp_path / "table.json"
    out.write_text(json.dumps({"Old-v0": {"measured": 1}}))
    measure_references(["hopper"], seed=3, out=out)
    assert json.loads(out.read_text()) == {"Hopper-v5": {"measured": [1_000, 200, 3]}, "Old-v0": {"measured": 1}}
    measure_references(seed=4, out=out)
    assert set(json.loads(out.read_text())) == ENV_IDS
    assert list(json.loads(out.read_text())) == sorted(json.loads(out.read_text()))
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_an_interrupted_measurement_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "table.json"
    out.write_text("{}")
    monkeypatch.setattr(references, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_references(out=out)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.json", "{}")]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"names": ["hoper"]}, "'hoper'; known are "),
        ({"episodes_random": 1}, "episodes_random is 1: it must be at least 2"),
        ({"episodes_expert": 0}, "episodes_expert is 0: it must be at least 2"),
        ({"seed": -1}, "seed is -1: it must be at least 0"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_impossible_measurements_are_refused(keywords, message, tmp_path):
    with pytest.raises(InputError, match=message):
        measure_references(**keywords, out=tmp_path / "table.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]"])
@pytest.mark.usefixtures("quick")
def test_a_broken_table_is_refused_and_kept(content, tmp_path):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(InputError, match="table.json is not a table of references: remove it"):
        measure_references(["hopper"], out=tmp_path / "table.json")
    assert (tmp_path / "table.json").read_text() == content

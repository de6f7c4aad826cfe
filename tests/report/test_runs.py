"""A finished run is read whole; what is damaged, unfinished or of another version is refused in one sentence."""

import json

import numpy as np
import pytest
from made_up_runs import EPISODE_SEEDS, SEEDS, TARGETS, load, make_run

from flowrl.errors import InputError
from flowrl.report import Comparison, Report, Run, label_of, tables_of, write_report
from flowrl.training.run_folder import RunFolder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_spec": "e"}, "its env_spec is not one of Gymnasium's"),
        ({"env_spec": "[1]"}, "its env_spec is not one of Gymnasium's"),
        ({"env_spec": "{}"}, "its env_spec is not one of Gymnasium's"),
        ({"dataset_returns": {"steering": "no"}}, "its dataset_returns.steering has no verdict and reason"),
        ({"dataset_returns": {"steering": {}}}, "its dataset_returns.steering has no verdict and reason"),
        ({"dataset_returns": {"percentiles": [1.0]}}, "its dataset_returns.percentiles must be 101 numbers"),
        ({"dataset_returns": {"mean": "5"}}, "its dataset_returns.mean must be a number"),
        ({"evaluation": {"targets": [1.0, "best"]}}, "its evaluation.targets must be a list of numbers"),
        ({"training": {"steps": "40"}}, "its training.steps must be a whole number"),
        ({"seed": "0"}, "its seed must be a whole number"),
    ],
)
def test_a_configuration_that_was_damaged_is_named(elsewhere, change, message):
    run = make_run(elsewhere / "dt-seed0", "dt", 0)
    config = run.config()
    changed = {name: config[name] | value if isinstance(value, dict) else value for name, value in change.items()}
    (run.path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(InputError, match=f"dt-seed0/config.json is damaged: {message}"):
        Run.load(run, "dt")


def test_keyword_arguments_of_an_environment_fit_into_json(elsewhere):
    run = make_run(elsewhere / "dt-seed0", "dt", 0)
    infinite = {"env_spec": '{"kwargs": {"range": [0.7, Infinity]}}'}
    (run.path / "config.json").write_text(json.dumps(run.config() | infinite))
    assert Run.load(run, "dt").evaluation["env_kwargs"] == {"range": [0.7, "Infinity"]}


def test_an_unfinished_run_is_refused(folders):
    run = folders["dt", 1]
    file = run.path / "evaluations.jsonl"
    rows = [row for row in run.rows("evaluations.jsonl") if row["kind"] != "final"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="dt-seed1 is not finished: it lacks a final evaluation"):
        Run.load(run, "dt")


def test_what_is_no_run_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="nowhere is no run folder"):
        Run.load(RunFolder(tmp_path / "nowhere"), "flow")
    run = folders["dt", 0]
    (run.path / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is damaged"):
        Run.load(run, "dt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent", None), ("evaluation", None), ("evaluation.episode_seed", ...), ("evaluation.targets", None),
        ("training", {}), ("training.steps", ...), ("dataset_returns", 3), ("env_spec", None), ("seed", ...),
    ],
)  # fmt: skip
def test_a_configuration_of_another_version_is_refused_in_one_sentence(folders, name, value):
    run = folders["dt", 0]
    config = run.config()
    *parents, last = name.split(".")
    inner = config[parents[0]] if parents else config
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config.json lacks {name}.*: train the run again .*or leave it out$"):
        Run.load(run, "dt")


def test_a_return_that_is_no_number_is_refused(folders):
    run = folders["dt", 0]
    run.append("evaluations.jsonl", [])
    text = (run.path / "evaluations.jsonl").read_text().splitlines()
    text[4] = json.dumps(json.loads(text[4]) | {"return": float("nan")})
    (run.path / "evaluations.jsonl").write_text("\n".join(text) + "\n")
    with pytest.raises(InputError, match="dt-seed0 has an episode whose return is not a finite number"):
        Run.load(run, "dt")


def test_the_curve_leaves_out_other_ways_of_playing(folders):
    run = folders["dt", 0]
    others = [row | {"env": "test/Other-v0"} for row in run.rows("evaluations.jsonl") if row["kind"] == "evaluate"]
    assert list(Run.load(run, "dt").curve(2.0)) == [20, 40]
    assert list(Run.load(run, "dt", episodes=others).curve(2.0)) == [40]
    elsewise = [row | {"env": "test/Env-v0", "env_kwargs": {"length": 2}} for row in others]
    assert list(Run.load(run, "dt", episodes=elsewise).curve(2.0)) == [40]
    as_configured = [row | {"env": "test/Env-v0", "env_kwargs": {"length": 1}} for row in others]
    assert list(Run.load(run, "dt", episodes=as_configured).curve(2.0)) == [20, 40]


def test_a_run_can_be_judged_by_other_episodes(folders):
    run = folders["dt", 0]
    others = [row for row in run.rows("evaluations.jsonl") if row["kind"] == "evaluate"]
    judged = Run.load(run, "dt", episodes=others)
    assert judged.evaluation == {
        "env": "test/Env-v0", "env_kwargs": {"length": 1}, "targets": TARGETS, "episodes": 1, "episode_seed": 7,
    }  # fmt: skip
    assert judged.values(2.0) == [-5000]


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("flow-seed0", "flow"),
        ("bc-10-seed12", "bc-10"),
        ("mine", "mine"),
        ("a-seedx", "a-seedx"),
        ("$\\frac$ x-seed0", "--frac--x"),
        ("_hidden", "hidden"),
        ("a|b", "a-b"),
    ],
)
def test_a_runs_label_is_its_folders_name(tmp_path, folder, label):
    assert label_of(tmp_path / folder) == label


def without_target(run):
    """The final rows of a run, as if each episode had been played once and without a target."""
    rows = [row for row in run.rows("evaluations.jsonl") if row["kind"] == "final" and row["target"] == 10]
    return [row | {"target": None} for row in rows]


def test_an_agent_without_a_target_counts_at_every_target(folders, elsewhere):
    rivals = load(*(folders[agent, seed] for agent in ("flow", "dt") for seed in SEEDS))
    once = {seed: without_target(folders["bc", seed]) for seed in SEEDS}
    at_each = {seed: [row | {"target": t} for t in TARGETS for row in rows] for seed, rows in once.items()}
    one, other = (
        Comparison.of([*rivals, *(Run.load(folders["bc", seed], "bc", episodes=rows[seed]) for seed in SEEDS)])
        for rows in (once, at_each)
    )
    assert one.targets == TARGETS
    for rows in ("score_rows", "difference_rows", "curve_rows", "best_over_training_rows", "cost_rows"):
        assert getattr(one, rows) == getattr(other, rows)
    for target in TARGETS:
        np.testing.assert_array_equal(one.returns("bc", target), [[r["return"] for r in once[s][::-1]] for s in SEEDS])
    write_report(Report.of(one.runs), elsewhere)
    runs = json.loads((elsewhere / "results.json").read_text())["comparisons"][0]["runs"]
    assert [[row["target"] for row in run["episodes"]] for run in runs[-2:]] == [[None] * 4] * 2, "as they were played"


def test_an_agent_without_a_target_is_not_in_the_calibration(folders):
    run = folders["dt", 0]
    (run.path / "config.json").write_text(json.dumps(run.config() | {"agent": "iql"}))
    iql = Run.load(run, "iql", episodes=without_target(run))
    assert not iql.conditioned
    comparison = Comparison.of([*load(folders["flow", 0]), iql])
    assert [row["agent"] for row in comparison.calibration_rows] == ["flow"]
    alone = Comparison.of([iql])
    assert alone.calibration_rows == []
    assert alone.steering_warning() is None
    assert "following the target within the range of the data" not in dict(tables_of(alone))


def test_episodes_without_a_target_can_be_counted_at_other_targets(folders):
    run = Run.load(folders["bc", 0], "bc", episodes=without_target(folders["bc", 0]), targets=[7.0, 3.0])
    assert run.evaluation["targets"] == [3.0, 7.0]
    assert run.values(3.0) == run.values(7.0)
    assert len(run.values(3.0)) == len(EPISODE_SEEDS)


def test_episodes_with_and_without_a_target_do_not_mix(folders):
    run = folders["bc", 0]
    first, *others = without_target(run)
    with pytest.raises(InputError, match="mixes episodes with a target and without"):
        Run.load(run, "bc", episodes=[first | {"target": 2.0}, *others])


def test_a_run_folder_may_hold_rows_without_a_target(folders):
    run = folders["bc", 0]
    rows = [row | {"target": None} for row in run.rows("evaluations.jsonl") if row["target"] == 10]
    (run.path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = Run.load(run, "bc")
    assert not loaded.conditioned
    assert loaded.evaluation["targets"] == TARGETS
    assert loaded.curve(2.0) == loaded.curve(10.0)
    assert list(loaded.curve(2.0)) == [20, 40]

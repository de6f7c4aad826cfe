"""The numbers of a comparison are those of the rows."""

import json
import re

import numpy as np
import pytest
from made_up_runs import AGENTS, EPISODE_SEEDS, SEEDS, TARGETS, load, made_up_study, make_run, return_of

from flowrl.evaluation.statistics import interquartile_mean
from flowrl.report import Comparison, Report, write_report


def test_what_is_compared(comparison):
    assert comparison.dataset == "test/made-up-v0"
    assert comparison.labels == AGENTS
    assert comparison.rivals == ("flow", "bc")
    assert comparison.targets == TARGETS
    assert comparison.baseline == "dt"
    assert comparison.pairs == {"flow": 2, "bc": 2}


def test_returns_are_the_final_ones_by_training_and_environment_seed(comparison):
    for target in TARGETS:
        for agent in AGENTS:
            expected = [[return_of(agent, seed, target, e) for e in EPISODE_SEEDS] for seed in SEEDS]
            np.testing.assert_array_equal(comparison.returns(agent, target), expected)


def test_the_scores(comparison):
    assert [(row["target"], row["agent"]) for row in comparison.score_rows] == [(t, a) for t in TARGETS for a in AGENTS]
    for row in comparison.score_rows:
        values = np.array([[return_of(row["agent"], s, row["target"], e) for e in EPISODE_SEEDS] for s in SEEDS], float)
        assert row["mean"] == pytest.approx(values.mean())
        assert row["iqm"] == pytest.approx(interquartile_mean(values.ravel()))
        assert row["std_of_seeds"] == pytest.approx(10 / np.sqrt(2)), "two seeds that differ by 10"
        assert (row["seeds"], row["episodes"], row["length"]) == (2, 4, 8)
        assert row["mean_low"] <= row["mean"] <= row["mean_high"]
        assert row["mean_high"] - row["mean_low"] > 5
        assert row["score_d4rl"] is None
        assert row["score_measured"] == pytest.approx(2 * values.mean())


def test_intervals_do_not_depend_on_what_else_is_compared(comparison, folders):
    alone = Comparison.of(load(folders["dt", 0], folders["dt", 1]))
    assert alone.score_rows == [row for row in comparison.score_rows if row["agent"] == "dt"]


def test_differences_are_paired(comparison):
    by_agent = {(row["target"], row["agent"]): row for row in comparison.difference_rows}
    assert by_agent.keys() == {(t, a) for t in TARGETS for a in ("flow", "bc")}
    # Every episode differs by as much, so that paired there is no spread at all.
    for target, by in ((2.0, 1), (10.0, -3)):
        row = by_agent[target, "flow"]
        assert (row["difference"], row["difference_low"], row["difference_high"], row["seeds"]) == (by, by, by, 2)
    bc = by_agent[2.0, "bc"]
    assert bc["difference_low"] < bc["difference"] < bc["difference_high"]


def test_seeds_that_only_one_has_are_not_paired(folders):
    runs = load(folders["dt", 0], folders["dt", 1], folders["flow", 1])
    comparison = Comparison.of(runs)
    assert [(row["agent"], row["seeds"]) for row in comparison.score_rows[:2]] == [("dt", 2), ("flow", 1)]
    assert [(row["difference"], row["seeds"]) for row in comparison.difference_rows] == [(1, 1), (-3, 1)]
    apart = Comparison.of(load(folders["dt", 0], folders["flow", 1]))
    assert apart.difference_rows == []
    assert "no training seed in common" in apart.summary()
    assert "One training seed" in apart.summary()
    assert {row["mean_low"] for row in apart.score_rows} == {None}
    assert "One training seed of flow on test/made-up-v0" in comparison.summary()
    assert [row["difference_low"] for row in comparison.difference_rows] == [None, None]
    assert [row["mean_low"] is None for row in comparison.score_rows[:2]] == [False, True]


def test_calibration(comparison, elsewhere):
    rows = {row["agent"]: row for row in comparison.calibration_rows}
    # dt returns 2 + 7.5 and 10 + 7.5 (seeds 0 and 10, episodes 0 and 5): parallel to the targets, 7.5 off.
    assert rows["dt"]["slope"] == pytest.approx(1)
    assert rows["dt"]["error"] == pytest.approx(7.5 / 10)
    # flow 10.5 and 14.5.
    assert rows["flow"]["slope"] == pytest.approx(4 / 8)
    assert rows["flow"]["error"] == pytest.approx((8.5 + 4.5) / 2 / 10)
    assert rows["flow"]["change"] is None
    assert "bc" not in rows, "it takes no target"
    run = make_run(elsewhere / "flow-seed0", "flow", 0)
    (row,) = Comparison.of(load(run, studies={"flow": made_up_study(change=0.25)})).calibration_rows
    assert (row["change"], row["unit"]) == (0.25, "half the action range")


def test_targets_beyond_the_data_are_not_counted_as_followed(elsewhere):
    run = make_run(elsewhere / "dt-seed0", "dt", 0, spread=0.5)  # the data's returns reach from 5 to 10
    (row,) = Comparison.of(load(run)).calibration_rows
    assert (row["targets"], row["slope"]) == (1, None)


def test_all_targets_can_lie_beyond_the_data(elsewhere):
    run = make_run(elsewhere / "dt-seed0", "dt", 0)
    config = run.config()
    config["dataset_returns"]["percentiles"] = [0.01 * percent for percent in range(101)]
    (run.path / "config.json").write_text(json.dumps(config))
    comparison = Comparison.of(load(run))
    assert comparison.headline == 2, "the lowest"
    (row,) = comparison.calibration_rows
    assert (row["targets"], row["slope"], row["error"]) == (0, None, None)
    write_report(Report.of(load(run)), elsewhere / "out")


def test_the_curve_ends_with_the_result_and_knows_the_time(comparison):
    rows = [row for row in comparison.curve_rows if (row["agent"], row["seed"]) == ("dt", 1)]
    # 20 steps at 10 a second, twice.
    assert [(row["step"], row["mean"]) for row in rows] == [(20, 1000), (40, 10 + 10 + 2.5)]
    assert [row["minutes"] * 60 for row in rows] == pytest.approx([2, 4])


def test_the_best_over_training_stands_apart(comparison):
    rows = {row["agent"]: row for row in comparison.best_over_training_rows}
    assert rows["dt"] == {
        "dataset": "test/made-up-v0", "agent": "dt", "last": 17.5, "best": 1000, "evaluations": 2, "episodes": 2,
    }  # fmt: skip


def test_costs(comparison):
    rows = [row for row in comparison.cost_rows if row["agent"] == "flow"]
    assert [row["steps_per_second"] for row in rows] == [5, 10]
    assert [row["minutes"] * 60 for row in rows] == pytest.approx([8, 4])
    assert [row["evaluation_seconds"] for row in rows] == [3, 4]
    assert [(row["peak_bytes"], row["peak_gpu_bytes"]) for row in rows] == [(2**30, None)] * 2


def test_a_run_killed_before_its_last_metrics_row_can_be_compared(folders):
    file = folders["flow", 0].path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    comparison = Comparison.of(load(*folders.values()))
    json.dumps(comparison.cost_rows, allow_nan=False)  # NaN is no JSON
    assert comparison.cost_rows[0]["evaluation_seconds"] is None


def test_the_headline_is_the_best_return_of_the_data(comparison, elsewhere):
    assert comparison.headline == 10
    lower = make_run(elsewhere / "dt-seed0", "dt", 0)
    config = lower.config()
    config["dataset_returns"]["percentiles"][-1] = 9.0
    (lower.path / "config.json").write_text(json.dumps(config))
    assert Comparison.of(load(lower)).headline == 2, "the highest that is not beyond the data"


def test_returns_that_hardly_vary_are_warned_of(comparison, elsewhere):
    assert comparison.steering_warning() is None
    flat = make_run(elsewhere / "dt-seed0", "dt", 0, spread=0.1)  # 9 to 10, four fifths of them 9.1 to 9.9
    warning = Comparison.of(load(flat)).steering_warning()
    assert "between 9.1 and 9.9" in warning


def judged_run(folder, label, verdict, beyond, rollout="window", part=""):
    """A run whose data got that verdict, and which returned 5 and that share of its target."""
    run = make_run(folder / f"{label}-seed0", label if label in AGENTS else "dt", 0)
    config = run.config()
    config["dataset_returns"]["steering"] = {"verdict": verdict, "reason": f"{label}'s are alike"}
    config["fingerprint"] += part
    (run.path / "config.json").write_text(json.dumps(config))
    played = {"rollout": rollout}
    rows = [row | played | {"return": 5.0 + beyond * row["target"]} for row in run.rows("evaluations.jsonl")]
    (run.path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize(
    ("verdict", "beyond", "warned"),
    [("no", 0.1, True), ("no", 0.9, False), ("weakly", 0.1, False), ("yes", 0.1, False)],
)
def test_a_verdict_on_the_data_is_repeated_unless_an_agent_is_steered(elsewhere, verdict, beyond, warned):
    warning = Comparison.of(load(judged_run(elsewhere, "dt", verdict, beyond))).steering_warning()
    assert (warning is not None) == warned
    assert not warned or ("these data" in warning and "dt's are alike" in warning)


def test_a_verdict_is_of_the_data_that_an_agent_was_trained_on(elsewhere):
    bc = judged_run(elsewhere, "bc", "no", 0.1, "memoryless")
    flow, steered = judged_run(elsewhere, "flow", "no", 0.1), judged_run(elsewhere, "dt", "no", 0.9)
    other, third = (judged_run(elsewhere, label, "no", 0.1, part=f"/{label}") for label in ("other", "third"))

    def warning(*runs):
        return Comparison.of(load(*runs)).steering_warning()

    assert warning(flow, steered, bc) is None, "what steers one can steer the other"
    of_two = warning(flow, steered, other, third)
    assert re.search("the data of other .*other's are alike.* the data of third .*third's are alike", of_two)
    assert "flow's" not in of_two
    assert "these data" in warning(other, bc), "bc takes no target"
    assert warning(bc) is None

"""Scores, differences and profiles over datasets."""

import numpy as np
import pytest
from made_up_runs import AGENTS, load, make_run, return_of

from flowrl.report import Report, write_report
from flowrl.report.tables import (
    aggregate_table,
    cost_table,
    dataset_table,
    difference_table,
    improvement_table,
    score_table,
    task_table,
)


def score(agent, seed):
    """The score at the headline target: twice the return."""
    return 2 * np.mean([return_of(agent, seed, 10.0, episode) for episode in range(100, 104)])


def test_scores_over_datasets(two_datasets):
    rows = {row["agent"]: row for row in two_datasets.aggregate_rows}
    assert rows.keys() == set(AGENTS)
    # Of the second dataset the seed that all have counts alone.
    assert rows["dt"]["mean"] == pytest.approx(((score("dt", 0) + score("dt", 1)) / 2 + score("dt", 0)) / 2)
    assert {(row["tasks"], row["runs"]) for row in rows.values()} == {(2, 3)}
    assert rows["dt"]["mean_low"] is rows["dt"]["mean_high"] is None, "one seed of the second dataset"
    (flow, bc) = two_datasets.improvement_rows
    # 3 behind in every episode, twice that in score.
    assert (flow["agent"], flow["baseline"], flow["tasks"], flow["pairs"]) == ("flow", "dt", 2, 3)
    assert [flow[n] for n in ("difference", "difference_low", "difference_high")] == [pytest.approx(-6), None, None]
    # flow's scores 19 and 39 against dt's 25 and 45: one pair of four is won; then 19 against 25.
    assert flow["probability"] == pytest.approx((0.25 + 0) / 2)
    assert (bc["agent"], bc["pairs"]) == ("bc", 3)


def test_a_profile_falls_from_all_to_none(two_datasets):
    for agent in AGENTS:
        shares = [row["share"] for row in two_datasets.profile_rows if row["agent"] == agent]
        assert shares[0] == 1
        assert shares[-1] == 0
        assert (np.diff(shares) <= 0).all()


def test_the_summary_of_many_datasets(two_datasets):
    said = two_datasets.summary()
    assert "flow − dt is -6.0" in said
    assert "over 2 datasets and 3 runs" in said
    assert "2 runs without a counterpart of every agent" in said
    assert "One training seed of bc on test/other-v0: no interval" in said
    assert "the highest" not in said


def test_what_few_seeds_leave_unsaid_is_of_the_fewest(elsewhere):
    """Every pair has seeds enough, and all agents together one."""
    seeds = {"flow": (0, 1, 2), "bc": (0, 3, 4), "dt": (0, 1, 2, 3, 4)}
    runs = [
        make_run(elsewhere / place / f"{agent}-seed{seed}", agent, seed, dataset=f"test/{place}-v0")
        for place in ("one", "two")
        for agent, own in seeds.items()
        for seed in own
    ]
    report = Report.of(load(*runs))
    assert report.aggregate_rows[0]["iqm_low"] is report.improvement_rows[0]["probability_low"] is None
    assert "One training seed that all agents have on test/one-v0: no interval" in report.summary()
    (one, two) = report.comparisons
    assert one.pairs == two.pairs == {"flow": 3, "bc": 3}
    assert "3 training seeds of flow, bc on test/one-v0" in one.summary()


def test_the_summary_begins_with_who_leads(elsewhere):
    runs = [
        make_run(elsewhere / place / f"{agent}-seed{seed}", agent, seed, dataset=f"test/{place}-v0")
        for place in ("one", "two")
        for agent in AGENTS
        for seed in (0, 1)
    ]
    report = Report.of(load(*runs))
    rows = {row["agent"]: row for row in report.improvement_rows}
    assert rows["flow"]["difference_high"] < 0 < rows["bc"]["difference_high"]
    assert report.summary().startswith("dt and bc share the highest interquartile mean.")
    assert "flow is worse; bc does not differ significantly." in report.summary()


def test_the_baseline_stays_where_all_its_runs_failed(folders):
    report = Report.of(load(folders["flow", 0], folders["bc", 0]), baseline="dt")
    assert report.improvement_rows == report.comparisons[0].difference_rows == []
    assert "dt, which differences are taken against, has no run here" in report.summary()


def test_what_not_all_have_run_is_said(folders, elsewhere):
    more = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0")
    report = Report.of(load(*folders.values(), more), failures=["flow seed 0 on test/other-v0 (why)"])
    assert {row["tasks"] for row in report.aggregate_rows} == {1}
    said = report.summary()
    assert "1 run without a counterpart of every agent" in said
    assert "1 run failed" in said
    assert task_table(report)[2] == ["test/other-v0", "10.0", "–", "25.0", "–"]


def test_the_baseline_is_the_same_on_every_dataset(elsewhere):
    """dt has no run on the first dataset, and flow comes first there."""
    pairs = [("one", "flow"), ("one", "bc"), ("two", "bc"), ("two", "flow"), ("two", "dt")]
    runs = [make_run(elsewhere / place / f"{a}-seed0", a, 0, dataset=f"test/{place}-v0") for place, a in pairs]
    report = Report.of(load(*runs))
    assert {(r["agent"], r["baseline"]) for r in report.improvement_rows} == {("flow", "dt"), ("bc", "dt")}
    assert report.improvement_rows[0]["difference"] == -6
    assert report.comparisons[0].difference_rows == []
    assert "dt, which differences are taken against, has no run here" in report.comparisons[0].summary()


def test_runs_that_failed_where_it_is_hard_make_no_agent_better(elsewhere):
    def runs(place, agents_and_seeds):
        return [
            make_run(elsewhere / place / f"{a}-seed{s}", a, s, dataset=f"test/{place}-v0") for a, s in agents_and_seeds
        ]

    every = [(agent, seed) for agent in ("flow", "dt") for seed in (0, 1)]
    some = [pair for pair in every if pair != ("flow", 0)]
    easy, hard = runs("easy", every), runs("hard", some)
    rows = {row["agent"]: row for row in Report.of(load(*easy, *hard)).aggregate_rows}
    # Of the hard dataset seed 1 is left for both.
    for agent in ("flow", "dt"):
        expected = ((score(agent, 0) + score(agent, 1)) / 2 + score(agent, 1)) / 2
        assert rows[agent]["mean"] == pytest.approx(expected)
        assert rows[agent]["runs"] == 3


def test_no_score_without_references(folders, elsewhere):
    bare = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0", score=False)
    report = Report.of(load(*folders.values(), bare))
    assert report.score is None
    assert report.aggregate_rows == report.improvement_rows == report.profile_rows == []
    assert "no score over all of them" in report.summary()
    assert task_table(report)[2][3] == "12.5"
    write_report(report, elsewhere / "out")


def test_the_tables(comparison, two_datasets):
    scores = score_table(comparison)
    assert scores[0][:4] == ["target", "agent", "seeds", "mean"]
    assert scores[1] == ["2.0", "flow", "2", "10.5", scores[1][4], "7.1", "10.5", "8", "–", "21.0"]
    differences = difference_table(comparison)
    assert differences[1] == ["2.0", "flow − dt", "2", "+1.0", "[1.0, 1.0]"]
    assert differences[3] == ["10.0", "flow − dt", "2", "-3.0", "[-3.0, -3.0]"]
    assert dataset_table(comparison)[1] == ["1,234", "45,678", "5.0", "6.5", "0.0", "5.0", "7.5", "9.0", "10.0"]
    assert cost_table(comparison)[1] == ["flow", "40", "7.50", "0.1 min", "4 s", "1,024 MiB", "–"]
    assert task_table(two_datasets)[1][:4] == ["test/made-up-v0", "10.0", "29.0 ± 14.1", "35.0 ± 14.1"]
    assert improvement_table(two_datasets)[1][:4] == ["flow − dt", "2", "3", "-6.0"]
    tables = (scores, differences, aggregate_table(two_datasets), improvement_table(two_datasets))
    assert all(len({len(row) for row in table}) == 1 for table in tables)

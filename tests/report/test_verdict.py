"""What a report says first, and its tables with a row a target and a column an agent."""

import json
from datetime import date

import pytest
from made_up_runs import load, make_run
from test_runs import without_target as played_once

from flowrl.report import Comparison, Report, Run, write_report
from flowrl.report.pivots import differences_by_target, result_table, returns_by_target, without_target
from flowrl.report.verdict import TIE, comparison_verdict, judgement, origin, verdict


@pytest.fixture
def mixed(folders):
    """flow and dt at every target, bc without any."""
    once = [Run.load(folders["bc", s], "bc", episodes=played_once(folders["bc", s])) for s in (0, 1)]
    return Comparison.of([*load(*(folders[a, s] for a in ("flow", "dt") for s in (0, 1))), *once])


def test_ties_are_ties(comparison):
    first, *others = comparison_verdict(comparison)
    # flow is 3 behind in every episode; bc's two seeds are all over.
    assert first.startswith("flow is worse than dt: -3.0 [-3.0, -3.0]. No significant difference between bc and dt:")
    assert first.endswith("; 95 % interval includes 0.")
    assert any(sentence.startswith("2 training seeds: so few") for sentence in others)
    assert TIE == "no significant difference; 95 % interval includes 0"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, 2, "better"), (-2, -1, "worse"), (-1, 1, TIE), (0, 1, TIE), (None, None, "one training seed: no interval")],
)
def test_a_judgement_is_what_the_interval_says(low, high, words):
    assert judgement({"difference_low": low, "difference_high": high}) == words
    assert judgement(None) == "no training seed in common"


def test_one_seed_ranks_nobody(folders):
    said = comparison_verdict(Comparison.of(load(folders["flow", 0], folders["dt", 0])))
    assert said[0] == "At target 10.0, flow returns 9.5; dt returns 12.5 (the dataset's best return is 10.0)."
    assert said[1].startswith("One training seed: no interval and no ranking")


def test_the_verdict_over_datasets(two_datasets, folders, elsewhere):
    said = verdict(two_datasets)
    assert said[0].startswith("Interquartile mean of the score (flowrl references) over 2 datasets: flow ")
    assert "no ranking" in said[1], "bc has one seed on the second dataset"
    bare = make_run(elsewhere / "dt-seed0", "dt", 0, dataset="test/other-v0", score=False)
    failed = Report.of(load(*folders.values(), bare), failures=["flow seed 0 on test/other-v0 (why)"])
    said = verdict(failed)
    assert said[0].startswith("Not every dataset has reference returns")
    assert said[1].startswith("test/made-up-v0: flow is worse than dt")
    assert said[-1] == "1 run failed in training or in the study."
    apart = make_run(elsewhere / "bc-seed0", "bc", 0, dataset="test/other-v0")
    assert verdict(Report.of(load(folders["dt", 0], apart)))[0].startswith("No dataset has a training seed of every")


def test_the_result_table(comparison):
    header, flow, dt, bc = result_table(comparison)
    assert header == ["agent", "return", "minus dt", "verdict", "score (flowrl references)", "seeds"]
    assert [flow[i] for i in (0, 2, 3, 4, 5)] == ["flow", "-3.0 [-3.0, -3.0]", "worse", "29.0", "2"]
    assert flow[1].startswith("14.5 [")
    assert dt[2:4] == ["–", "baseline"]
    assert bc[3] == TIE


def test_a_single_agent_has_no_rival(folders):
    header, line = result_table(Comparison.of(load(folders["dt", 0])))
    assert header == ["agent", "return", "score (flowrl references)", "seeds"]
    assert line == ["dt", "12.5", "25.0", "1"]


def test_returns_have_a_row_a_target_and_a_column_an_agent(mixed):
    pivot = returns_by_target(mixed)
    header, low, high = pivot.rows
    assert header == ["target", "flow", "dt"], "bc takes no target"
    assert (low[0], high[0]) == ("2.0", "10.0 (judged)")
    assert [cell.partition(" ")[0] for cell in low[1:] + high[1:]] == ["10.5", "9.5", "14.5", "17.5"]
    assert pivot.rows[1 + pivot.judged] == high
    assert without_target(mixed).startswith("Without a target: bc returns 17.5 [")


def test_differences_have_a_row_a_target_and_a_column_a_rival(mixed):
    pivot = differences_by_target(mixed)
    assert pivot.rows == [
        ["target", "flow − dt"],
        ["2.0", "+1.0 [1.0, 1.0]"],
        ["10.0 (judged)", "-3.0 [-3.0, -3.0]"],
    ]
    assert pivot.judged == 1


def test_agents_without_targets_alone_need_no_such_tables(folders):
    run = folders["bc", 0]
    comparison = Comparison.of([Run.load(run, "bc", episodes=played_once(run))])
    assert returns_by_target(comparison) is differences_by_target(comparison) is None
    assert without_target(Comparison.of(load(folders["dt", 0]))) is None


def test_a_report_names_its_day_and_the_commits_of_its_runs(folders, elsewhere):
    def commit(run, value):
        (run.path / "config.json").write_text(json.dumps(run.config() | {"commit": value}))

    def said(*runs):
        return origin(Report.of(load(*runs)), date(2026, 11, 30))

    flow, dt = folders["flow", 0], folders["dt", 0]
    assert said(flow, dt) == "2026-11-30 · commit not recorded", "runs of earlier versions"
    commit(flow, "0123456789abcdef" * 2 + "01234567")
    assert said(flow) == "2026-11-30 · commit 0123456789ab"
    assert said(flow, dt).endswith("commit 0123456789ab (some runs have none recorded)")
    commit(dt, "fedcba9876543210" * 2 + "01234567-dirty")
    assert said(flow, dt).endswith("commits 0123456789ab, fedcba987654 with uncommitted changes")
    write_report(Report.of(load(flow, dt)), elsewhere, written=date(2026, 11, 30))
    for name in ("report.html", "report.md"):
        text = (elsewhere / name).read_text()
        assert text.index("2026-11-30") < text.index("0123456789ab") < text.index("returns 9.5")


def test_the_result_comes_first_and_the_cost_after_the_scores(comparison, elsewhere):
    write_report(Report.of(comparison.runs), elsewhere)
    for name in ("report.html", "report.md"):
        text = (elsewhere / name).read_text()
        places = [text.index(part) for part in (
            "flow is worse than dt", "minus dt", "Return at target 10.0", "The result in sentences",
            "Interquartile mean", "P(better)", "Mean returns by target", "steps/s", "Returns in the dataset",
            "The last checkpoint is the result",
        )]  # fmt: skip
        assert places == sorted(places)

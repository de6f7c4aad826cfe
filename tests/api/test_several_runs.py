"""flowrl.evaluate with several runs: their episodes compared, agents with and without a target, and a report."""

import json
import shutil

import numpy as np
import pytest

import flowrl
from flowrl.errors import InputError


def rows(run):
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture
def runs(tiny_runs, tmp_path):
    """Copies of finished tiny runs as folders of seeds."""
    return {agent: shutil.copytree(tiny_runs / agent, tmp_path / f"{agent}-seed0") for agent in ("flow", "dt", "bc")}


@pytest.fixture
def pair(runs):
    return [runs["flow"], runs["dt"]]


def evaluate(runs, **options):
    return flowrl.evaluate(runs, device="cpu", **options)


def test_several_runs_are_compared_by_the_episodes_they_now_play(pair, tmp_path, capsys):
    evaluate(pair, episodes=4, episode_seed=70, targets=["p50", "best"], out=tmp_path / "out")
    printed = capsys.readouterr().out
    for part in ("paired differences", "flow − dt", "One training seed", "following the target", "report.html"):
        assert part in printed
    (comparison,) = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    assert comparison["evaluation"]["episodes"] == 4
    for row in comparison["scores"]:
        played = [r for r in rows(tmp_path / f"{row['agent']}-seed0")[-8:] if r["target"] == row["target"]]
        assert [r["seed"] for r in played] == [70, 71, 72, 73]
        assert row["mean"] == pytest.approx(np.mean([r["return"] for r in played]))


def test_an_agent_without_a_target_is_played_once_and_paired_at_every_target(runs, tmp_path):
    options = {"episodes": 4, "targets": ["p50", "best"], "study": False}
    played = evaluate([runs["flow"], runs["bc"]], out=tmp_path / "out", **options)
    flow, bc = played[:8], played[8:]
    assert [(row["target"], row["seed"]) for row in bc] == [(None, 10_000 + i) for i in range(4)]
    (comparison,) = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    targets = sorted({row["target"] for row in flow})
    assert [(row["agent"], row["target"]) for row in comparison["differences"]] == [("bc", t) for t in targets]
    for row in comparison["differences"]:
        pairs = [
            other["return"] - mine["return"]
            for mine in flow
            for other in bc
            if mine["target"] == row["target"] and mine["seed"] == other["seed"]
        ]
        assert len(pairs) == 4
        assert row["difference"] == pytest.approx(np.mean(pairs))
    scores = {(row["agent"], row["target"]): row["mean"] for row in comparison["scores"]}
    assert [scores["bc", target] for target in targets] == pytest.approx([np.mean([row["return"] for row in bc])] * 2)


def test_data_that_cannot_steer_are_warned_of(pair, capsys):
    for run in pair:
        config = json.loads((run / "config.json").read_text())
        config["dataset_returns"]["steering"] = {"verdict": "no", "reason": "they are alike"}
        (run / "config.json").write_text(json.dumps(config))
    warning = "an agent is not expected to follow a target return: they are alike"
    evaluate(pair, episodes=2, targets="best")  # one target has no slope
    assert capsys.readouterr().err.count(warning) == 1
    evaluate(pair[:1], episodes=2, targets="best")
    assert capsys.readouterr().err.count(warning) == 1, "of one run too"
    (pair[1] / "evaluations.jsonl").write_text("")
    assert len(evaluate(pair[1:], episodes=2, targets="best")) == 2, "not finished: played all the same"


def test_one_run_can_have_a_report_too(pair, tmp_path):
    evaluate(pair[:1], episodes=2, out=tmp_path / "out")
    assert (tmp_path / "out/report.html").exists()


def test_runs_of_different_datasets_are_refused_before_they_play(pair):
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps(config | {"dataset": "flowrl/other-v0"}))
    before = [rows(run) for run in pair]
    with pytest.raises(InputError, match="different datasets, .*flow-seed0 of flowrl/reach.*dt-seed0 of flowrl/other"):
        evaluate(pair)
    assert [rows(run) for run in pair] == before


def test_an_unfinished_run_is_refused_before_any_plays(pair):
    (pair[1] / "evaluations.jsonl").write_text("")
    before = rows(pair[0])
    with pytest.raises(InputError, match="dt-seed0 is not finished: it lacks a final evaluation"):
        evaluate(pair)
    assert rows(pair[0]) == before


def test_runs_with_one_name_and_seed_are_refused(pair, tmp_path):
    again = shutil.copytree(pair[0], tmp_path / "again/flow-seed0")
    with pytest.raises(InputError, match="are both flow with training seed 0"):
        evaluate([*pair, again])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"video": "x.gif"}, "a video records one run, and 2 are given"), ({"targets": "most"}, "target 'most'")],
)
def test_mistakes_with_several_runs(pair, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(pair, **options)


def test_one_run_twice(pair):
    with pytest.raises(InputError, match="named twice"):
        evaluate([pair[0], pair[0]])

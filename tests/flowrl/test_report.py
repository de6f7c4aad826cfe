"""A comparison's figures are those of the rows, its pictures show something, and unlike runs are not compared."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from flowrl.checkpoint import RunFolder
from flowrl.errors import InputError
from flowrl.report import (
    Comparison,
    console,
    cost_table,
    dataset_table,
    difference_table,
    markdown,
    score_table,
    write_report,
)
from flowrl.scores import interquartile_mean

TARGETS, EPISODE_SEEDS, SEEDS = [2.0, 10.0], [100, 101, 102, 103], [0, 1]


def achieved(agent, seed, target, episode):
    """flow is 1 ahead of dt at the low target and 3 behind at the high one, in every episode; bc is all over."""
    shared = target + 10 * seed + 5 * (episode % 2)
    return {"dt": shared, "flow": shared + (1 if target == 2 else -3), "bc": shared + (-1) ** episode * 50}[agent]


def make_run(folder, agent, seed, *, score=True):
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.begin(
        {
            "agent": agent,
            "agent_config": {"width": 16},
            "training": {"steps": 40},
            "evaluate_episodes": 2,
            "evaluation": {"targets": TARGETS[::-1], "episodes": 4, "episode_seed": 100, "vector": "sync"},
            "seed": seed,
            "dataset": "test/made-up-v0",
            "fingerprint": "f",
            "dataset_returns": {
                "percentiles": [p / 10 for p in range(101)], "mean": 5.0, "mean_by_step": 6.5,
                "episodes": 1234, "steps": 45678,
            },
            "env_spec": "e",
            "device": "cpu",
            "versions": {"torch": "9.9"},
        }
    )  # fmt: skip
    run.append("metrics.jsonl", [{"step": s, "train/loss": 1.0, "steps_per_second": 7.0 + seed} for s in (20, 40)])
    run.append("metrics.jsonl", [{"step": 40, "evaluate/seconds": 3.0 + seed}])

    def row(kind, step, target, episode, value):
        return {
            "kind": kind, "step": step, "target": target, "seed": episode, "return": value, "length": 8,
            "score_d4rl": None, "score_measured": 2 * value if score else None,
            "device": "cpu", "versions": {"torch": "9.9"},
        }  # fmt: skip

    # Rows of evaluations while training, and of scripts.evaluate, are not the result.
    run.append("evaluations.jsonl", [row("training", 20, t, e, -1000.0) for t in TARGETS for e in EPISODE_SEEDS[:2]])
    final = [
        row("final", 40, t, e, achieved(agent, seed, t, e)) for t in TARGETS[::-1] for e in EPISODE_SEEDS[::-1]
    ]  # fmt: skip
    run.append("evaluations.jsonl", final)
    run.append("evaluations.jsonl", [row("evaluate", 40, t, 7, -5000.0) for t in TARGETS])
    return run


@pytest.fixture
def runs(tmp_path):
    return {
        (agent, seed): make_run(tmp_path / f"{agent}{seed}", agent, seed)
        for seed in SEEDS
        for agent in ("flow", "dt", "bc")
    }


@pytest.fixture
def comparison(runs):
    return Comparison.load(runs)


def test_what_is_compared(comparison):
    assert comparison.dataset == "test/made-up-v0"
    assert comparison.agents == ("flow", "dt", "bc")
    assert comparison.seeds == (0, 1)
    assert comparison.targets == (2.0, 10.0)
    assert comparison.baseline == "dt"


def test_returns_are_the_final_ones_by_training_and_environment_seed(comparison):
    for target in TARGETS:
        for agent in ("flow", "dt", "bc"):
            expected = [[achieved(agent, seed, target, e) for e in EPISODE_SEEDS] for seed in SEEDS]
            np.testing.assert_array_equal(comparison.returns(agent, target), expected)


def test_the_scores(comparison):
    found = comparison.score_rows
    assert [(row["target"], row["agent"]) for row in found] == [
        (t, a) for t in TARGETS for a in ("flow", "dt", "bc")
    ]  # fmt: skip
    for row in found:
        values = np.array([[achieved(row["agent"], s, row["target"], e) for e in EPISODE_SEEDS] for s in SEEDS], float)
        assert row["mean"] == pytest.approx(values.mean())
        assert row["iqm"] == pytest.approx(interquartile_mean(values))
        assert row["std"] == pytest.approx(values.std())
        assert row["length"] == 8
        assert row["mean_low"] <= row["mean"] <= row["mean_high"]
        assert row["mean_high"] - row["mean_low"] > 5
        assert row["score_d4rl"] is None
        assert row["score_measured"] == pytest.approx(2 * values.mean())
    assert found == comparison.score_rows, "the bootstrap is seeded"


def test_differences_are_paired(comparison):
    found = {(row["target"], row["agent"]): row for row in comparison.difference_rows}
    assert found.keys() == {(t, a) for t in TARGETS for a in ("flow", "bc")}
    low, high = found[2.0, "flow"], found[10.0, "flow"]
    # Every episode differs by as much, so that paired there is no spread at all.
    assert (low["difference"], low["low"], low["high"]) == (1, 1, 1)
    assert (high["difference"], high["low"], high["high"]) == (-3, -3, -3)
    assert found[2.0, "bc"]["low"] < found[2.0, "bc"]["difference"] < found[2.0, "bc"]["high"]


def test_costs_are_medians(comparison):
    for row in comparison.cost_rows():
        assert (row["steps"], row["steps_per_second"], row["evaluation_seconds"]) == (40, 7.5, 3.5)


def test_a_run_killed_before_its_last_metrics_row_can_be_compared(runs):
    file = runs["flow", 0].path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    comparison = Comparison.load(runs)
    assert len(comparison.cost_rows()) == 3
    assert len(cost_table(comparison)) == 4
    json.dumps(comparison.cost_rows(), allow_nan=False)  # NaN is no JSON


def test_the_summary_in_plain_words(comparison, tmp_path):
    said = comparison.summary()
    flow = next(r for r in comparison.score_rows if (r["target"], r["agent"]) == (10.0, "flow"))
    assert f"Asked for 10.0, flow returns {flow['mean']:.1f} [" in said
    assert "mean return is 5.0 an episode and 6.5 a step" in said
    assert "flow is above dt at 1 of 2 targets, below at 1" in said
    assert "holds zero at 0" in said
    assert "One training seed" not in said
    assert "2 training seeds: so few" in said
    alone = Comparison.load({("flow", 0): make_run(tmp_path / "alone", "flow", 0)})
    assert alone.baseline == "flow"
    assert "One training seed" in alone.summary()
    assert "above" not in alone.summary()


def test_the_tables(comparison):
    scores = score_table(comparison)
    assert scores[0] == ["target", "agent", "mean", "95 % interval", "IQM", "length", "D4RL score", "own score"]
    values = np.array([[achieved("flow", s, 2.0, e) for e in EPISODE_SEEDS] for s in SEEDS], float)
    assert scores[1][:3] == ["2.0", "flow", f"{values.mean():.1f}"]
    assert scores[1][4:] == [f"{interquartile_mean(values):.1f}", "8", "-", f"{2 * values.mean():.1f}"]
    assert len({len(row) for row in scores}) == 1
    differences = difference_table(comparison)
    assert differences[1] == ["2.0", "flow − dt", "+1.0", "[1.0, 1.0]"]
    assert differences[3] == ["10.0", "flow − dt", "-3.0", "[-3.0, -3.0]"]
    assert dataset_table(comparison)[1] == ["1,234", "45,678", "5.0", "6.5", "0.0", "5.0", "7.5", "9.0", "10.0"]
    assert cost_table(comparison)[1] == ["flow", "40", "7.50", "4 s"]


def test_a_table_on_the_console_and_in_markdown():
    table = [["a", "bbb"], ["1,000", "2"]]
    assert console(table) == "    a  bbb\n1,000    2"
    assert markdown(table) == "| a | bbb |\n|---:|---:|\n| 1,000 | 2 |"


def test_the_report_is_written_whole(comparison, tmp_path):
    made = write_report([comparison], tmp_path / "out", ["python -m scripts.train flow --targets 'a b'"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in made)
    page = (tmp_path / "out/report.md").read_text()
    for part in (markdown(score_table(comparison)), markdown(difference_table(comparison)), comparison.summary()):
        assert part in page
    assert "python -m scripts.train flow --targets 'a b'" in page
    assert "environment seeds 100 to 103" in page
    assert "Played with: torch 9.9 on cpu." in page
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["comparisons"][0]["scores"] == comparison.score_rows
    assert results["comparisons"][0]["differences"] == comparison.difference_rows
    pictures = [path for path in made if path.suffix == ".png"]
    assert len(pictures) == 2
    for path in pictures:
        assert f"({path.name})" in page, "the page shows it by a name relative to itself"
        with Image.open(path) as picture:
            picture.verify()
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(np.uint32)
        assert len(pixels) > 100_000
        colours = set(np.unique(pixels @ np.array([0x10000, 0x100, 1], np.uint32)).tolist())
        # The lines of three agents, each in its colour.
        assert {0x0B5FA5, 0xC4501B, 0x3A7D44} <= colours
        assert 0.01 < (pixels.min(1) < 250).mean() < 0.5


def test_one_agent_one_seed_and_one_target_can_be_reported(tmp_path):
    run = make_run(tmp_path / "run", "flow", 3, score=False)
    comparison = Comparison.load({("flow", 3): run})
    assert comparison.score_rows[0]["score_measured"] is None
    assert len(write_report([comparison], tmp_path / "out", [])) == 4


def test_an_unfinished_run_is_refused(runs):
    run = runs["dt", 1]
    file = run.path / "evaluations.jsonl"
    rows = [row for row in run.rows("evaluations.jsonl") if row["kind"] != "final"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"dt1 has 0 final episodes of 8: it is not finished"):
        Comparison.load(runs)


def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        Comparison.load(runs | {("flow", 2): RunFolder(tmp_path / "nowhere")})


@pytest.mark.parametrize("name", ["fingerprint", "evaluation", "env_spec"])
def test_runs_of_other_data_or_episodes_are_not_compared(runs, name):
    config = runs["bc", 1].config()
    config[name] = {"targets": [1.0], "episodes": 8, "episode_seed": 100} if name == "evaluation" else "other"
    (runs["bc", 1].path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"cannot be compared: .*bc1 differs in {name}"):
        Comparison.load(runs)


def test_real_runs_are_compared(tiny_runs, tmp_path):
    folders = {(agent, 0): RunFolder(shutil.copytree(tiny_runs / agent, tmp_path / agent)) for agent in ("flow", "dt")}
    comparison = Comparison.load(folders)
    rows = folders["flow", 0].rows("evaluations.jsonl")
    for row in comparison.score_rows:
        if row["agent"] == "flow":
            mine = [r["return"] for r in rows if r["target"] == row["target"]]
            assert row["mean"] == pytest.approx(np.mean(mine))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a/top-3", True),
        ("a/episodes-:5/top-3", "a/at-least-2.0", True),
        ("a", "b", False),
        ("a/top-3", "b/top-3", False),
        ("a+b", "a/top-3+b/top-2", True),
        ("a/top-3+b/top-2", "a/top-3+c/top-2", False),
        ("a/top-3+b/top-2*[3.0, 1.0]", "a+b*[3.0, 1.0]", True),
        ("a+b*[3.0, 1.0]", "a+b*[1.0, 3.0]", False),
        ("a+b", "a", False),
    ],
)
def test_runs_on_parts_of_the_same_data_can_be_compared(tmp_path, one, other, same):
    runs = {("flow", 0): make_run(tmp_path / "one", "flow", 0), ("dt", 0): make_run(tmp_path / "two", "dt", 0)}
    for run, fingerprint in zip(runs.values(), (one, other), strict=True):
        file = run.path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": fingerprint}))
    if same:
        assert Comparison.load(runs).agents == ("flow", "dt")
    else:
        with pytest.raises(InputError, match="differs in fingerprint"):
            Comparison.load(runs)

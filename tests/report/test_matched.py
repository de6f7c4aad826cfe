"""Which runs can be compared: of the same data and episodes, and with labels that do not mislead."""

import json
import shutil

import numpy as np
import pytest
from made_up_runs import load, make_run

from flowrl.errors import InputError
from flowrl.report import Comparison
from flowrl.training.run_folder import RunFolder


def test_two_runs_of_one_label_and_seed_are_refused(folders, elsewhere):
    again = make_run(elsewhere / "dt-seed1", "dt", 1)
    with pytest.raises(InputError, match=r"dt-seed1 and .*dt-seed1 are both dt with training seed 1"):
        Comparison.of(load(*folders.values(), again))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"training": {"steps": 80}}, "training.steps"),
        ({"agent_config": {"width": 32}}, "agent_config.width"),
        ({"agent": "flow"}, "agent"),
        ({"selection": {"top_fraction": 0.1}}, "selection"),
    ],
)
def test_runs_of_one_label_have_the_same_settings(folders, change, what):
    run = folders["dt", 1]
    config = run.config()
    changed = {
        name: config.get(name, {}) | value if isinstance(value, dict) else value for name, value in change.items()
    }
    (run.path / "config.json").write_text(json.dumps(config | changed))
    steps = change.get("training", {}).get("steps", run.config()["training"]["steps"])
    played = [row | {"step": steps if row["kind"] == "final" else row["step"]} for row in run.rows("evaluations.jsonl")]
    (run.path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in played))
    with pytest.raises(InputError, match=f"dt-seed1 and .*dt-seed0 are both called dt and differ in {what}$"):
        Comparison.of(load(*folders.values()))


@pytest.mark.parametrize("name", ["dataset", "fingerprint", "env_spec"])
def test_runs_of_other_data_are_not_compared(folders, name):
    run = folders["bc", 1]
    (run.path / "config.json").write_text(json.dumps(run.config() | {name: '{"kwargs": {}}'}))
    with pytest.raises(InputError, match=f"cannot be compared: .*bc-seed1 differs in {name} from .*flow-seed0"):
        Comparison.of(load(*folders.values()))


def test_runs_with_other_episodes_are_not_compared(folders):
    run = folders["bc", 1]
    rows = [row | {"seed": row["seed"] + 1} for row in run.rows("evaluations.jsonl")]
    (run.path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = run.config()
    config["evaluation"]["episode_seed"] += 1
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"bc-seed1 was evaluated with episode_seed 101, .*flow-seed0 with 100"):
        Comparison.of(load(*folders.values()))


def test_real_runs_are_compared(tiny_runs, tmp_path):
    folders = [RunFolder(shutil.copytree(tiny_runs / agent, tmp_path / agent)) for agent in ("flow", "dt")]
    comparison = Comparison.of(load(*folders))
    rows = folders[0].rows("evaluations.jsonl")
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
    folders = [make_run(tmp_path / "flow-seed0", "flow", 0), make_run(tmp_path / "dt-seed0", "dt", 0)]
    for run, fingerprint in zip(folders, (one, other), strict=True):
        (run.path / "config.json").write_text(json.dumps(run.config() | {"fingerprint": fingerprint}))
    runs = load(*folders)
    if same:
        assert Comparison.of(runs).labels == ("flow", "dt")
    else:
        with pytest.raises(InputError, match="differs in fingerprint"):
            Comparison.of(runs)

"""scripts.compare end to end: the whole matrix, its report, and what happens when a cell fails."""

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from agents import AGENTS
from flowrl.checkpoint import RunFolder
from flowrl.data import TrajectoryDataset
from flowrl.errors import InputError
from scripts import compare, train
from scripts.compare import Args
from scripts.datasets import Selection
from scripts.episodes import EvaluationConfig

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"


def shrink(patch):
    """Make every preset tiny: compare takes an agent as it is."""
    for name, preset in list(AGENTS.items()):
        small = {"width": 16, "layers": 1, "context": 5} | ({} if name == "bc" else {"heads": 2})
        training = replace(preset.training, batch_size=8, log_every=5, checkpoint_every=10)
        patch.setitem(AGENTS, name, replace(preset, config=replace(preset.config, **small), training=training))


def tiny(out, **changes):
    defaults = Args(
        datasets=(REACH,),
        agents=("flow", "dt", "bc"),
        seeds=2,
        steps=20,
        evaluation=EvaluationConfig(targets=("p50", "best"), episodes=4),
        evaluate_every=10,
        evaluate_episodes=2,
        out=out,
        device="cpu",
        jobs=1,
    )
    return replace(defaults, **changes)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def template(tmp_path_factory, reach_template):
    """The finished matrix: its folder, the paths it reported, and what it printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("MINARI_DATASETS_PATH", str(reach_template))
        shrink(patch)
        made = compare.main(tiny(out))
    return SimpleNamespace(out=out, made=made, said=said.getvalue())


def rows(run, name="evaluations.jsonl"):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def markdown_tables(page):
    """Every table of a page: its header, and rows as dictionaries."""
    tables, current = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in line.strip("|").split("|")])
        elif current:
            header, _, *body = current
            tables.append([dict(zip(header, row, strict=True)) for row in body])
            current = []
    return tables


def test_everything_is_there(template):
    assert {path.name for path in template.out.iterdir()} == {
        "report.md", "results.json", f"learning-curves-{NAME}.png", f"return-by-target-{NAME}.png", NAME,
    }  # fmt: skip
    assert all(path.exists() for path in template.made)
    assert len(template.made) == 4
    cells = {f"{agent}-seed{seed}" for agent in ("flow", "dt", "bc") for seed in (0, 1)}
    assert {path.name for path in (template.out / NAME).iterdir()} == cells
    for cell in cells:
        kinds = defaultdict(int)
        for row in rows(template.out / NAME / cell):
            kinds[row["kind"], row["step"]] += 1
        assert kinds == {("training", 10): 4, ("final", 20): 8}
    for path in template.made:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.convert("RGB").quantize(256).getcolors()[20:]


def final_returns(template, agent, seed, target):
    found = [r for r in rows(template.out / NAME / f"{agent}-seed{seed}") if r["kind"] == "final"]
    by_seed = {row["seed"]: row["return"] for row in found if row["target"] == target}
    return [by_seed[environment_seed] for environment_seed in range(10_000, 10_004)]


def test_the_numbers_of_the_report_are_those_of_the_rows(template):
    _, scores, differences, *_ = markdown_tables((template.out / "report.md").read_text())
    config = json.loads((template.out / NAME / "flow-seed0/config.json").read_text())
    targets = sorted(config["evaluation"]["targets"])
    assert len(scores) == 6
    assert len(differences) == 4
    for number, row in enumerate(scores):
        target = targets[number // 3]
        values = np.array([final_returns(template, row["agent"], seed, target) for seed in (0, 1)])
        assert row["target"] == f"{target:.1f}"
        assert row["mean"] == f"{values.mean():.1f}"
        trimmed = np.sort(values.ravel())[2:6]
        assert row["IQM"] == f"{trimmed.mean():.1f}"
        low, high = map(float, row["95 % interval"].strip("[]").split(","))
        assert low - 0.05 <= values.mean() <= high + 0.05
        assert row["own score"] == f"{100 * (values.mean() - 5.197) / (14.423 - 5.197):.1f}"
        assert row["D4RL score"] == "-"
    for number, row in enumerate(differences):
        target = targets[number // 2]
        agent, baseline = row["difference"].split(" − ")
        assert baseline == "dt"
        pairs = [
            np.subtract(final_returns(template, agent, seed, target), final_returns(template, "dt", seed, target))
            for seed in (0, 1)
        ]
        assert row["mean"] == f"{np.mean(pairs):+.1f}"


def test_the_dataset_is_shown_beside_the_agents(template, reach):
    dataset, *_ = markdown_tables((template.out / "report.md").read_text())
    assert dataset[0]["episodes"] == f"{reach.episodes:,}"
    assert dataset[0]["mean of episodes"] == f"{float(reach.returns.mean()):.1f}"
    assert dataset[0]["best"] == f"{float(reach.returns.max()):.1f}"


def test_the_json_says_the_same(template):
    results = json.loads((template.out / "results.json").read_text())
    (comparison,) = results["comparisons"]
    assert comparison["dataset"] == REACH
    assert len(comparison["scores"]) == 6
    for row in comparison["scores"]:
        values = [final_returns(template, row["agent"], seed, row["target"]) for seed in (0, 1)]
        assert row["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert len(results["commands"]) == 6


def test_the_console_shows_the_tables_and_the_way_on(template):
    for part in (
        "6 runs on cpu, 1 at a time", "returns in the dataset", "paired differences", "cost", "report.md", "next:",
        "[flow seed 0] step 20/20", " -m scripts.evaluate",
    ):  # fmt: skip
        assert part in template.said


def test_every_agent_plays_the_same_episodes(template):
    played = {
        cell.name: [(row["target"], row["seed"]) for row in rows(cell) if row["kind"] == "final"]
        for cell in (template.out / NAME).iterdir()
    }
    assert len({tuple(episodes) for episodes in played.values()}) == 1


@pytest.fixture
def finished(template, reach_dataset, small):
    """The finished matrix itself: its commands name its place."""
    return template


def test_finished_cells_are_reused(finished, monkeypatch, capsys):
    def trained_again(*arguments, **keywords):
        raise AssertionError("a finished cell is trained again")

    before = {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()}
    report = (finished.out / "report.md").read_text()
    monkeypatch.setattr(train, "train", trained_again)
    monkeypatch.setattr(train, "play", trained_again)
    assert compare.main(tiny(finished.out)) == finished.made
    assert capsys.readouterr().out.count("is finished: nothing to do") == 6
    assert {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()} == before
    assert (finished.out / "report.md").read_text() == report


def test_every_command_can_be_typed_alone(finished, capsys):
    commands = json.loads((finished.out / "results.json").read_text())["commands"]
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "scripts.train"]
        train.start(words[3:])
        assert "is finished: nothing to do" in capsys.readouterr().out


def test_cells_can_be_added(finished, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    compare.main(tiny(out, agents=("bc",), seeds=3))
    assert (out / NAME / "bc-seed2/checkpoint.pt").exists()
    assert json.loads((out / "results.json").read_text())["comparisons"][0]["differences"] == []


def test_a_failing_cell_is_reported_and_the_others_finish(reach_dataset, small, tmp_path):
    broken = tmp_path / NAME / "flow-seed0"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"^1 of 3 runs failed: flow seed 0 on flowrl/reach/mixed-v0 \(.*damaged"):
        compare.main(tiny(tmp_path, seeds=1))
    for agent in ("dt", "bc"):
        assert sum(row["kind"] == "final" for row in rows(tmp_path / NAME / f"{agent}-seed0")) == 8
    assert not (tmp_path / "report.md").exists()


def test_numbers_below_zero_are_targets_too(reach_dataset, small, tmp_path):
    evaluation = EvaluationConfig(targets=("-3", "p50"), episodes=2)
    compare.main(tiny(tmp_path, agents=("bc",), seeds=1, evaluation=evaluation, evaluate_every=0))
    assert {row["target"] for row in rows(tmp_path / NAME / "bc-seed0")} >= {-3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": ("bc", "gpt")}, "unknown agent 'gpt': known are flow, dt, bc"),
        ({"datasets": (REACH, "mujoco/nope/medium-v0")}, "mujoco/nope/medium-v0"),
        ({"datasets": (REACH, "flowrl/reach/nope-v0")}, "flowrl/reach/nope-v0"),
        ({"datasets": (REACH, "reach")}, "'reach' is no"),
        ({"evaluation": EvaluationConfig(targets=("most",))}, "target 'most' is neither"),
        ({"steps": 0}, "steps is 0"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"evaluate_episodes": 0}, "evaluate_episodes is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"jobs": -1}, "jobs -1"),
        ({"agents": ()}, "agents 0"),
        ({"datasets": ()}, "datasets 0"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(reach_dataset, small, tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        compare.main(tiny(tmp_path / "out", **({"agents": ("bc",), "seeds": 1} | changes)))
    assert message in str(caught.value)
    assert "runs failed" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("doubled", [{"agents": ("bc", "bc")}, {"datasets": (REACH, REACH)}])
def test_what_is_named_twice_is_run_once_or_refused(reach_dataset, small, tmp_path, doubled, capsys):
    refused = None
    try:
        compare.main(tiny(tmp_path, **({"agents": ("bc",), "seeds": 1, "evaluate_every": 0} | doubled)))
    except InputError as error:
        refused = str(error)
    if refused is None:
        assert re.search(r"\b1 runs?\b", capsys.readouterr().out)
        assert len(json.loads((tmp_path / "results.json").read_text())["comparisons"]) == 1
    else:
        assert "twice" in refused


def test_the_command_line(reach_dataset, small, tmp_path):
    compare.start(
        shlex.split(
            f"--datasets {REACH} --agents bc --seeds 1 --steps 5 --targets best --episodes 1 --evaluate-every 0"
            f" --out {tmp_path / 'out'} --device cpu --jobs 1"
        )
    )
    assert (tmp_path / "out/report.md").exists()
    with pytest.raises(InputError, match="unknown option --agent;? ?.*--agents"):
        compare.start(["--agent", "bc"])


@pytest.mark.slow
def test_side_by_side_gives_the_same_rows(reach_dataset, tmp_path):
    """At the presets' own size: a spawned worker knows nothing of what this process has patched."""
    found = {}
    for jobs in (1, 2):
        out = tmp_path / f"jobs{jobs}"
        compare.main(tiny(out, agents=("bc", "flow"), seeds=1, steps=3, jobs=jobs, evaluate_every=2))
        found[jobs] = [rows(out / NAME / cell) for cell in ("bc-seed0", "flow-seed0")]
    assert found[1] == found[2]


@pytest.mark.slow
def test_side_by_side_a_failing_cell_is_reported_and_the_others_finish(reach_dataset, tmp_path):
    broken = tmp_path / NAME / "bc-seed0"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"^1 of 2 runs failed: bc seed 0 on .*damaged"):
        compare.main(tiny(tmp_path, agents=("bc",), steps=3, jobs=2))
    assert (Path(tmp_path) / NAME / "bc-seed1/checkpoint.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_comparison_that_was_killed(reach_dataset, tmp_path, signum):
    command = [sys.executable, "-m", "scripts.compare", "--datasets", REACH, "--agents", "bc", "--seeds", "4"]
    options = ["--steps", "1000000", "--evaluate-every", "0", "--jobs", "2", "--out", str(tmp_path)]
    running = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = [RunFolder(tmp_path / NAME / f"bc-seed{seed}") for seed in range(2)]
    wait_for(lambda: all(cell.load() for cell in cells))
    running.send_signal(signum)
    running.wait(60)
    wait_for(lambda: not any(map(is_locked, cells)))
    assert not (tmp_path / NAME / "bc-seed2").exists(), "the next cell was begun"
    assert all(cell.load()["step"] < 1_000_000 for cell in cells)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_locked(run):
    try:
        with run.locked():
            return False
    except InputError:
        return True


def test_a_mixture_and_a_selection_reach_every_cell(small, reach_dataset, tmp_path):
    out, mixture = tmp_path / "out", f"{REACH}:3+{REACH}:0.5"
    selection = Selection(dataset_episodes="-20:", min_return=1.5, top_fraction=0.5, observations="-2:")
    args = tiny(
        out, datasets=(mixture,), agents=("flow", "bc"), seeds=1, selection=selection,
        evaluation=EvaluationConfig(targets=("p50", "best"), episodes=2),
    )  # fmt: skip
    made = compare.main(args)
    data = TrajectoryDataset.from_minari(REACH)
    part = data.select(torch.arange(data.episodes)[-20:], "").at_least(1.5).top(0.5)
    for agent in args.agents:
        run = out / f"{NAME}-3+{NAME}-0.5/{agent}-seed0"
        config = json.loads((run / "config.json").read_text())
        assert config["selection"] == asdict(selection)
        assert config["dataset"] == mixture
        assert (config["observation_columns"], config["observation_size"]) == ([1, 2], 3)
        assert config["dataset_returns"]["episodes"] == 2 * data.episodes
        assert config["fingerprint"].count(f"/top-{part.episodes}") == 2
        assert sum(row["kind"] == "final" for row in rows(run)) == 4
    page = (out / "report.md").read_text()
    assert mixture in page
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) == 2
    for link in pictures:
        assert urlsplit(link).scheme == ""
        assert (out / link).exists()
    assert all(path.exists() for path in made)
    # The command of a cell, typed alone, is that very run: it is finished.
    commands = [
        shlex.split(line)[3:] for line in page.splitlines() if line.strip().startswith("python -m scripts.train")
    ]
    assert len(commands) == 2
    for command in commands:
        assert train.parse_args(command).selection == selection
    # Another selection does not reuse the cells.
    with pytest.raises(InputError, match="selection.top_fraction was 0.5 and is 1.0"):
        compare.main(replace(args, selection=replace(selection, top_fraction=1.0)))


def test_a_mistaken_selection_is_told_before_the_first_cell(small, reach_dataset, tmp_path):
    for selection, message in [
        (Selection(observations="7"), "--observations '7' names number 7: there are 3 features"),
        (Selection(min_return=99.0), "has a return of 99.0 or more"),
    ]:
        with pytest.raises(InputError, match=message):
            compare.main(tiny(tmp_path / "out", selection=selection))
    with pytest.raises(InputError, match="has an empty part"):
        compare.main(tiny(tmp_path / "out", datasets=(REACH, f"{REACH}+")))
    assert not (tmp_path / "out").exists()

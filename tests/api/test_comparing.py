"""flowrl.compare end to end: the whole matrix, its report, and what happens when a cell fails."""

import contextlib
import io
import json
import re
import shlex
import shutil
from collections import defaultdict
from dataclasses import asdict
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import flowrl
from flowrl.agents.sequence import SequenceConfig
from flowrl.api import training as api_training
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Windows
from flowrl.data.selection import Selection
from flowrl.errors import InputError
from flowrl.experiments import matrix
from flowrl.report import Comparison
from flowrl.scripts import train
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"
FLOW, DT, BC = {"flow": ("flow", {"heads": 2})}, {"dt": ("dt", {"heads": 2})}, {"bc": ("bc", {})}
TINY = {
    **{"steps": 20, "batch_size": 8, "width": 16, "layers": 1, "context": 5, "log_every": 5, "checkpoint_every": 10},
    **{"targets": ("p50", "best"), "episodes": 4, "evaluate_every": 10, "evaluate_episodes": 2},
    **{"device": "cpu", "jobs": 1, "threads": 1},
}


class InProcess:
    """Runs a cell's command where it is started, in the test's process."""

    def __init__(self):
        self.done = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def start(self, cell):
        failure = None
        try:
            train.start(cell.words)
        except InputError as error:
            failure = str(error)
        self.done.append((cell, failure))

    def ended(self, timeout):
        done, self.done = self.done, []
        return done


def compare(out, agents=FLOW | DT | BC, *, datasets=REACH, seeds=2, **options):
    return flowrl.compare(datasets, agents, seeds=seeds, out=out, **(TINY | options))


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(matrix, "Processes", InProcess)


@pytest.fixture(scope="module")
def template(tmp_path_factory, reach_template):
    """The finished matrix: its folder, its report, and what it printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MINARI_DATASETS_PATH", str(reach_template))
        patch.setattr(matrix, "Processes", InProcess)
        report = compare(out, study=True)
    return SimpleNamespace(out=out, report=report, printed=printed.getvalue())


@pytest.fixture
def finished(template, reach_dataset, in_process):
    """The finished matrix itself: its commands name its place."""
    return template


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished matrix."""
    return shutil.copytree(finished.out, tmp_path / "out")


def rows(run, name="evaluations.jsonl"):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def results_of(out):
    return json.loads((out / "results.json").read_text())


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


# The whole


def test_everything_is_there(template):
    assert {path.name for path in template.out.iterdir()} == {
        "report.html", "report.md", "results.json", "figures", "data", "hparams", NAME,
    }  # fmt: skip
    cells = {f"{agent}-seed{seed}" for agent in ("flow", "dt", "bc") for seed in (0, 1)}
    assert {path.name for path in (template.out / NAME).iterdir()} == cells
    for cell in cells:
        kinds = defaultdict(int)
        for row in rows(template.out / NAME / cell):
            kinds[row["kind"], row["step"]] += 1
        targets = 1 if cell.startswith("bc") else 2
        assert kinds == {("training", 10): 2 * targets, ("final", 20): 4 * targets}
        assert (template.out / NAME / cell / "study.json").exists() == cell.endswith("seed0")
    for path in (template.out / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.convert("RGB").quantize(256).getcolors()[20:]


def final_returns(out, agent, seed, target):
    final = [r for r in rows(out / NAME / f"{agent}-seed{seed}") if r["kind"] == "final"]
    by_seed = {row["seed"]: row["return"] for row in final if row["target"] in (target, None)}
    return [by_seed[environment_seed] for environment_seed in range(10_000, 10_004)]


def test_the_numbers_of_the_report_are_those_of_the_rows(template):
    tables = markdown_tables((template.out / "report.md").read_text())
    scores = next(table for table in tables if "IQM" in table[0] and "target" in table[0])
    differences = next(table for table in tables if "difference" in table[0] and "target" in table[0])
    config = json.loads((template.out / NAME / "flow-seed0/config.json").read_text())
    targets = sorted(config["evaluation"]["targets"])
    assert (len(scores), len(differences)) == (6, 4)
    for number, row in enumerate(scores):
        target = targets[number // 3]
        values = np.array([final_returns(template.out, row["agent"], seed, target) for seed in (0, 1)])
        assert float(row["target"]) == pytest.approx(target, abs=0.05)
        assert float(row["mean"]) == pytest.approx(values.mean(), abs=0.05)
        assert float(row["IQM"]) == pytest.approx(np.sort(values.ravel())[2:6].mean(), abs=0.05)
        low, high = map(float, row["95 % interval"].strip("[]").split(","))
        assert low - 0.05 <= values.mean() <= high + 0.05
        expected = 100 * (values.mean() - 5.197) / (14.423 - 5.197)
        assert float(row["score (flowrl references)"]) == pytest.approx(expected, abs=0.05)
        assert row["score (D4RL references)"] == "–"
    for number, row in enumerate(differences):
        target = targets[number // 2]
        agent, baseline = row["difference"].split(" − ")
        assert baseline == "dt"
        pairs = [
            np.subtract(*(final_returns(template.out, label, seed, target) for label in (agent, "dt")))
            for seed in (0, 1)
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(pairs), abs=0.005 if abs(np.mean(pairs)) < 1 else 0.05)


def test_the_dataset_is_shown_beside_the_agents(template, reach):
    tables = markdown_tables((template.out / "report.md").read_text())
    (dataset,) = [table for table in tables if "mean of episodes" in table[0]]
    assert dataset[0]["episodes"] == f"{reach.episodes:,}"
    assert dataset[0]["mean of episodes"] == f"{float(reach.returns.mean()):.1f}"
    assert dataset[0]["best"] == f"{float(reach.returns.max()):.1f}"


def test_the_json_says_the_same(template):
    results = results_of(template.out)
    (comparison,) = results["comparisons"]
    assert comparison["dataset"] == REACH
    assert len(comparison["scores"]) == 6
    for row in comparison["scores"]:
        values = [final_returns(template.out, row["agent"], seed, row["target"]) for seed in (0, 1)]
        assert row["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert len(results["commands"]) == 6, "one a run"
    assert {row["agent"] for row in comparison["sensitivity"]} == {"flow", "dt", "bc"}
    assert {row["agent"] for row in comparison["attention"]} == {"flow", "dt"}


def test_scores_of_one_dataset_are_put_together_over_its_seeds(template):
    page, markdown = ((template.out / name).read_text() for name in ("report.html", "report.md"))
    for text in (page, markdown):
        assert "P(better)" in text
    tables = markdown_tables(markdown)
    pooled, improved = (next(t for t in tables if name in t[0]) for name in ("runs", "P(better)"))
    assert "median" not in pooled[0], "of one dataset it is the mean"
    assert [(row["agent"], row["datasets"], row["runs"]) for row in pooled] == [
        (agent, "1", "2") for agent in ("flow", "dt", "bc")
    ]
    aggregate = results_of(template.out)["aggregate"]
    assert float(improved[0]["points of score"]) == pytest.approx(aggregate[0]["mean"] - aggregate[1]["mean"], abs=0.1)
    for name in ("scores", "performance-profiles"):
        assert (template.out / f"figures/{name}.png").exists()
        assert (template.out / f"data/{name}.csv").exists()


def test_the_console_shows_the_tables(template):
    for part in (
        "6 runs on cpu, 1 at a time, 1 CPU thread(s) each", "returns in the dataset", "paired differences", "cost",
        "report.md", "[flow seed 0] step 20/20",
    ):  # fmt: skip
        assert part in template.printed


def test_every_agent_plays_the_same_episodes(template):
    played = defaultdict(set)
    for cell in (template.out / NAME).iterdir():
        for row in rows(cell):
            if row["kind"] == "final":
                played[cell.name, row["target"]].add(row["seed"])
    assert {frozenset(seeds) for seeds in played.values()} == {frozenset(range(10_000, 10_004))}


def test_flow_and_dt_are_paired(reach_dataset, in_process, tmp_path, monkeypatch):
    """With one seed: the same initial weights wherever names and shapes agree, and the same windows in every step."""
    running, weights, windows = [], {}, defaultdict(list)
    build, draw, begin = SequenceConfig.build, Windows.draw, RunFolder.begin

    def build_and_note(config, *arguments):
        learner = build(config, *arguments)
        weights[running[-1]] = {name: tensor.clone() for name, tensor in learner.actor.state_dict().items()}
        return learner

    def draw_and_note(sampler, generator):
        windows[running[-1]].append(batch := draw(sampler, generator))
        return batch

    def begin_and_note(folder, *arguments):
        running.append(folder.path.name)
        return begin(folder, *arguments)

    monkeypatch.setattr(SequenceConfig, "build", build_and_note)
    monkeypatch.setattr(Windows, "draw", draw_and_note)
    monkeypatch.setattr(RunFolder, "begin", begin_and_note)
    compare(tmp_path, FLOW | DT, evaluate_every=0)
    for seed in (0, 1):
        flow, dt = weights[f"flow-seed{seed}"], weights[f"dt-seed{seed}"]
        shared = [name for name in flow if name in dt and flow[name].shape == dt[name].shape]
        assert len(shared) > 15
        assert all(torch.equal(flow[name], dt[name]) for name in shared)
        pairs = list(zip(windows[f"flow-seed{seed}"], windows[f"dt-seed{seed}"], strict=True))
        assert len(pairs) == 20
        assert all(torch.equal(a, b) for batches in pairs for a, b in zip(*batches, strict=True))
    assert not torch.equal(*(windows[f"flow-seed{seed}"][0].observations for seed in (0, 1)))
    assert any(not torch.equal(weights["flow-seed0"][name], weights["flow-seed1"][name]) for name in shared)


def test_data_that_cannot_steer_are_warned_of(copied, monkeypatch, capsys):
    monkeypatch.setattr(Comparison, "steering_warning", lambda comparison: f"{comparison.headline} is out of reach")
    compare(copied)
    assert re.search(rf"warning: {re.escape(REACH)}: \S+ is out of reach", capsys.readouterr().err)


# What is finished, and what is not


def test_finished_cells_are_reused_without_a_process(finished, monkeypatch, capsys):
    def begun():
        raise AssertionError("a process is begun for finished cells")

    before = {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()}
    page = (finished.out / "report.md").read_text()
    monkeypatch.setattr(matrix, "Processes", begun)
    compare(finished.out, study=True)
    assert "; 6 of them are finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()} == before
    assert (finished.out / "report.md").read_text() == page


def test_every_command_can_be_typed_alone(finished, capsys):
    for command in results_of(finished.out)["commands"]:
        words = shlex.split(command)
        assert words[:4] == ["python", "-m", "flowrl", "train"]
        train.start(words[4:])
        assert "is finished: nothing to do" in capsys.readouterr().out


def test_commands_name_the_threads_that_a_reused_run_began_with(copied):
    compare(copied, threads=2)
    commands = results_of(copied)["commands"]
    assert [command.count("--threads 1") for command in commands] == [1] * 6


def test_cells_can_be_added(copied):
    compare(copied, BC, seeds=3)
    assert (copied / NAME / "bc-seed2/checkpoint.pt").exists()
    assert results_of(copied)["comparisons"][0]["differences"] == []


def test_a_cell_with_an_episode_missing_and_one_twice_is_played_again(copied, finished, capsys):
    file = copied / NAME / "flow-seed0/evaluations.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert '"final"' in lines[-2]
    file.write_text("".join([*lines[:-2], lines[-1], lines[-1]]))
    compare(copied)
    assert "6 runs on cpu, 1 at a time, 1 CPU thread(s) each; 5 of them are finished" in capsys.readouterr().out
    played, before = (rows(out / NAME / "flow-seed0") for out in (copied, finished.out))
    assert [(row["seed"], row["target"], row["return"]) for row in played] == [
        (row["seed"], row["target"], row["return"]) for row in before
    ]


def test_results_are_not_published_under_other_settings_where_the_checkpoint_is_gone(copied):
    for checkpoint in copied.rglob("checkpoint.pt"):
        checkpoint.unlink()
    before = (copied / NAME / "flow-seed0/config.json").read_text()
    with pytest.raises(InputError, match="training.steps was 20 and is 30"):
        compare(copied, steps=30)
    assert (copied / NAME / "flow-seed0/config.json").read_text() == before
    compare(copied)  # its episodes are known without the weights


# What fails


@pytest.mark.parametrize("damaged", ["config.json", "evaluations.jsonl", "checkpoint.pt"])
def test_a_failing_cell_is_reported_and_the_others_finish(finished, tmp_path, damaged):
    broken = shutil.copytree(finished.out / NAME / "flow-seed0", tmp_path / NAME / "flow-seed0")
    (broken / "evaluations.jsonl").write_text("{\n{}\n" if damaged == "evaluations.jsonl" else "")
    if damaged != "evaluations.jsonl":
        (broken / damaged).write_text("{")
        (broken / "checkpoint.previous.pt").write_text("{")
    with pytest.raises(InputError) as caught:
        compare(tmp_path, seeds=1)
    said, listed = str(caught.value).splitlines()
    assert said == "1 of 3 runs failed; the same command tries them again:"
    assert listed.startswith(f"  flow seed 0 on {REACH}: ")
    assert "is damaged" in listed
    assert listed.endswith(f"({broken / 'train.log'})")
    for agent, count in (("dt", 8), ("bc", 4)):
        assert sum(row["kind"] == "final" for row in rows(tmp_path / NAME / f"{agent}-seed0")) == count
    (reported,) = results_of(tmp_path)["comparisons"]
    assert {row["agent"] for row in reported["scores"]} == {"dt", "bc"}


@pytest.mark.parametrize(("damaged", "left"), [("metrics.jsonl", {"bc"}), ("checkpoint.pt", {"bc", "flow"})])
def test_a_finished_cell_that_was_damaged_later_stops_nothing(finished, tmp_path, damaged, left):
    broken = shutil.copytree(finished.out / NAME / "flow-seed0", tmp_path / NAME / "flow-seed0")
    (broken / "checkpoint.previous.pt").write_text("{")
    lines = (broken / damaged).read_bytes().splitlines(keepends=True)
    (broken / damaged).write_bytes(b"".join([lines[0], b"{\n", *lines[1:]]) if damaged != "checkpoint.pt" else b"{")
    with pytest.raises(InputError) as caught:
        compare(tmp_path, FLOW | BC, seeds=1, study=True)
    said, listed = str(caught.value).splitlines()
    assert said == "1 of 2 runs failed; the same command tries them again:"
    assert f"flow seed 0 on {REACH}: " in listed
    assert f"{damaged} is damaged" in listed
    (reported,) = results_of(tmp_path)["comparisons"]
    assert {row["agent"] for row in reported["scores"]} == left, "its episodes are known without its weights"


def test_an_out_that_is_a_file_is_refused_before_any_cell_runs(reach_dataset, in_process, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        compare(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_that_cannot_be_written_hides_no_failed_cell(copied, capsys):
    (copied / NAME / "dt-seed1/config.json").write_text("{")
    (copied / "report.html").unlink()
    (copied / "report.html").mkdir()
    with pytest.raises(InputError, match=r"(?s)1 of 6 runs failed; no report was written.*report.html.*dt seed 1 on"):
        compare(copied)
    assert "paired differences" in capsys.readouterr().out


def test_differences_are_against_the_baseline_also_where_all_its_runs_failed(copied):
    for seed in (0, 1):
        (copied / NAME / f"dt-seed{seed}/config.json").write_text("{")
    with pytest.raises(InputError, match="2 of 6 runs failed; the same command"):
        compare(copied)
    (reported,) = results_of(copied)["comparisons"]
    assert reported["differences"] == []
    assert "dt, which differences are taken against, has no run here" in reported["summary"]


def test_where_all_cells_fail_it_says_that_there_is_no_report(copied):
    for config in copied.rglob("config.json"):
        config.write_text("{")
    before = (copied / "report.md").read_text()
    with pytest.raises(
        InputError, match="6 of 6 runs failed; no report was written, and one that is there is of earlier"
    ):
        compare(copied)
    assert (copied / "report.md").read_text() == before


def test_a_run_whose_study_failed_is_reported_all_the_same(reach_dataset, in_process, tmp_path, monkeypatch):
    def fails(run, load_actor, device):
        raise InputError("no picture")

    monkeypatch.setattr(api_training, "study", fails)
    with pytest.raises(InputError, match=r"(?s)1 of 2 runs failed.*bc seed 0 on .*no picture"):
        compare(tmp_path, BC, study=True)
    results = results_of(tmp_path)
    assert [run["seed"] for run in results["comparisons"][0]["runs"]] == [0, 1]
    assert len(results["failures"]) == 1


# What is asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": (REACH, "flowrl-reach/mixed-v0")}, f"datasets: {NAME} is given twice"),
        ({"datasets": (REACH, "mujoco/nope/medium-v0")}, "mujoco/nope/medium-v0"),
        ({"datasets": (REACH, "flowrl/reach/nope-v0")}, "flowrl/reach/nope-v0"),
        ({"datasets": (REACH, "reach")}, "'reach' is no"),
        ({"datasets": (REACH, f"{REACH}+")}, "has an empty part"),
        ({"agents": BC | {"few": ("bc", {"min_return": 99.0})}}, "agent few: no episode of flowrl"),
        ({"agents": BC | {"few": ("bc", {"evaluate_every": -1})}}, "evaluate_every is -1"),
        ({"observations": "7"}, "observations '7' names number 7: there are 3 features"),
        ({"min_return": 99.0}, "has a return of 99.0 or more"),
        ({"targets": "most"}, "target 'most' is neither"),
        ({"gpus_per_cell": 1.0}, "gpus_per_cell is 1.0"),
        ({"threads": -1}, "threads is -1"),
        ({"jobs": -1}, "jobs is -1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"evaluate_episodes": 0}, "evaluate_episodes is 0"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here"),
    ],
)
def test_a_mistake_is_reported_before_anything_starts(reach_dataset, in_process, tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        compare(tmp_path / "out", **({"agents": BC, "seeds": 1} | changes))
    assert message in str(caught.value)
    assert "failed" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_dataset_by_two_names_is_refused(reach_dataset, minari_root, in_process, tmp_path):
    with pytest.raises(InputError, match=f"datasets: {REACH} and .* are both {REACH}: give it once"):
        compare(tmp_path / "out", BC, datasets=(REACH, str(minari_root / REACH)))
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_named_twice_is_run_once(reach_dataset, in_process, tmp_path, capsys):
    compare(tmp_path, BC, seeds=1, evaluate_every=0, datasets=(REACH, REACH))
    assert capsys.readouterr().out.startswith("1 runs on cpu")
    assert len(results_of(tmp_path)["comparisons"]) == 1


def test_numbers_below_zero_are_targets_too(reach_dataset, in_process, tmp_path):
    compare(tmp_path, FLOW, seeds=1, targets=[-3, "p50"], episodes=2, evaluate_every=0)
    assert {row["target"] for row in rows(tmp_path / NAME / "flow-seed0")} >= {-3.0}


def test_a_mixture_and_a_selection_reach_every_cell(reach_dataset, in_process, tmp_path):
    out, mixture = tmp_path / "out", f"{REACH}:3+{REACH}:0.5"
    selection = Selection(dataset_episodes="-20:", min_return=1.5, top_fraction=0.5, observations="-2:")
    options = {"datasets": mixture, "seeds": 1, "targets": ("p50", "best"), "episodes": 2}
    compare(out, FLOW | BC, **options, **asdict(selection))
    data = TrajectoryDataset.from_minari(REACH)
    part = data.select(torch.arange(data.episodes)[-20:], "").at_least(1.5).top(0.5)
    for agent in ("flow", "bc"):
        run = out / f"{NAME}-3+{NAME}-0.5/{agent}-seed0"
        config = json.loads((run / "config.json").read_text())
        assert config["selection"] == asdict(selection)
        assert config["dataset"] == mixture
        assert (config["observation_columns"], config["observation_size"]) == ([1, 2], 3)
        assert config["dataset_returns"]["episodes"] == 2 * data.episodes
        assert config["fingerprint"].count(f"/top-{part.episodes}") == 2
        assert sum(row["kind"] == "final" for row in rows(run)) == (2 if agent == "bc" else 4)
    page = (out / "report.md").read_text()
    assert mixture in page
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert pictures
    for link in pictures:
        assert urlsplit(link).scheme == ""
        assert (out / link).exists()
    # The command of a cell, typed alone, is that very run.
    commands = [shlex.split(command) for command in results_of(out)["commands"]]
    assert [train.parse_args(words[4:]).selection for words in commands] == [selection] * 2
    # Another selection does not reuse the cells.
    with pytest.raises(InputError, match="selection.top_fraction was 0.5 and is 1.0"):
        compare(out, FLOW | BC, **options, **(asdict(selection) | {"top_fraction": 1.0}))

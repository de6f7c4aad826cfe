"""scripts.compare end to end: the whole matrix, its report, and what happens when a cell fails."""

import contextlib
import io
import json
import re
import shlex
import shutil
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from flowrl.agents.sequence import SequenceConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.selection import Selection
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.experiments import matrix
from flowrl.experiments.matrix import AgentSpec, make_cells, train_cell
from flowrl.report.comparison import Comparison
from flowrl.scripts import compare, train
from flowrl.scripts.compare import Args
from flowrl.training import loop as training
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"


TINY = "--width 16 --layers 1 --context 5 --log-every 5 --checkpoint-every 10"
FLOW, DT, BC = f"flow=flow --heads 2 {TINY}", f"dt=dt --heads 2 {TINY}", f"bc=bc {TINY}"


class InProcess:
    """Runs a cell where it is started, in the test's own process."""

    def __init__(self):
        self.done = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def start(self, cell):
        self.done.append((cell, train_cell(cell)))

    def ended(self, timeout):
        done, self.done = self.done, []
        return done


def tiny(out, **changes):
    defaults = Args(
        datasets=(REACH,),
        agents=(FLOW, DT, BC),
        seeds=2,
        steps=20,
        batch_size=8,
        evaluation=EvaluationConfig(targets=("p50", "best"), episodes=4),
        evaluate_every=10,
        evaluate_episodes=2,
        out=out,
        device="cpu",
        jobs=1,
    )
    return replace(defaults, **changes)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(compare, "Processes", InProcess)


@pytest.fixture(scope="module")
def template(tmp_path_factory, reach_template):
    """The finished matrix: its folder, the paths it reported, and what it printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("MINARI_DATASETS_PATH", str(reach_template))
        patch.setattr(compare, "Processes", InProcess)
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
        "report.html", "report.md", "results.json", "figures", "data", "hparams", NAME,
    }  # fmt: skip
    assert [path.name for path in template.made] == ["report.html", "report.md", "results.json"]
    assert all(path.exists() for path in template.made)
    cells = {f"{agent}-seed{seed}" for agent in ("flow", "dt", "bc") for seed in (0, 1)}
    assert {path.name for path in (template.out / NAME).iterdir()} == cells
    for cell in cells:
        kinds = defaultdict(int)
        for row in rows(template.out / NAME / cell):
            kinds[row["kind"], row["step"]] += 1
        assert kinds == {("training", 10): 4, ("final", 20): 8}
        assert (template.out / NAME / cell / "study.json").exists() == cell.endswith("seed0")
    for path in (template.out / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.convert("RGB").quantize(256).getcolors()[20:]


def final_returns(template, agent, seed, target):
    found = [r for r in rows(template.out / NAME / f"{agent}-seed{seed}") if r["kind"] == "final"]
    by_seed = {row["seed"]: row["return"] for row in found if row["target"] == target}
    return [by_seed[environment_seed] for environment_seed in range(10_000, 10_004)]


def told(value):
    """With one decimal from 1 on, else with two."""
    return f"{value:.{1 if abs(value) >= 1 or value == 0 else 2}f}"


def test_the_numbers_of_the_report_are_those_of_the_rows(template):
    _, scores, differences, *_ = markdown_tables((template.out / "report.md").read_text())
    config = json.loads((template.out / NAME / "flow-seed0/config.json").read_text())
    targets = sorted(config["evaluation"]["targets"])
    assert len(scores) == 6
    assert len(differences) == 4
    for number, row in enumerate(scores):
        target = targets[number // 3]
        values = np.array([final_returns(template, row["agent"], seed, target) for seed in (0, 1)])
        assert row["target"] == told(target)
        assert row["mean"] == told(values.mean())
        trimmed = np.sort(values.ravel())[2:6]
        assert row["IQM"] == told(trimmed.mean())
        low, high = map(float, row["95 % interval"].strip("[]").split(","))
        assert low - 0.05 <= values.mean() <= high + 0.05
        assert row["own score"] == f"{100 * (values.mean() - 5.197) / (14.423 - 5.197):.1f}"
        assert row["D4RL score"] == "–"
    for number, row in enumerate(differences):
        target = targets[number // 2]
        agent, baseline = row["difference"].split(" − ")
        assert baseline == "dt"
        pairs = [
            np.subtract(final_returns(template, agent, seed, target), final_returns(template, "dt", seed, target))
            for seed in (0, 1)
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(pairs), abs=0.005 if abs(np.mean(pairs)) < 1 else 0.05)


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
    assert len(results["commands"]) == 7, "the matrix's, and each run's"
    assert {row["agent"] for row in comparison["sensitivity"]} == {"flow", "dt", "bc"}
    assert {row["agent"] for row in comparison["attention"]} == {"flow", "dt"}


def test_the_console_shows_the_tables_and_the_way_on(template):
    for part in (
        "6 runs on cpu, 1 at a time, 1 CPU thread(s) each",
        "returns in the dataset", "paired differences", "cost", "report.md", "next:",
        "[flow seed 0] step 20/20", " -m scripts.evaluate",
    ):  # fmt: skip
        assert part in template.said


def test_every_agent_plays_the_same_episodes(template):
    played = {
        cell.name: [(row["target"], row["seed"]) for row in rows(cell) if row["kind"] == "final"]
        for cell in (template.out / NAME).iterdir()
    }
    assert len({tuple(episodes) for episodes in played.values()}) == 1


def test_flow_and_dt_are_paired(reach_dataset, in_process, tmp_path, monkeypatch):
    """With one seed: the same initial weights wherever names and shapes agree, and the same windows in every step."""
    weights, windows = {}, defaultdict(list)
    build, sample, begin = SequenceConfig.build, training.sample_windows, RunFolder.begin

    def build_and_note(config, normaliser):
        agent = build(config, normaliser)
        weights[running[-1]] = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
        return agent

    def sample_and_note(*arguments, **keywords):
        windows[running[-1]].append(batch := sample(*arguments, **keywords))
        return batch

    def begin_and_note(folder, *arguments):
        running.append(folder.path.name)
        return begin(folder, *arguments)

    running = []
    monkeypatch.setattr(SequenceConfig, "build", build_and_note)
    monkeypatch.setattr(training, "sample_windows", sample_and_note)
    monkeypatch.setattr(RunFolder, "begin", begin_and_note)
    compare.main(tiny(tmp_path, agents=(FLOW, DT), evaluate_every=0))
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


@pytest.fixture
def finished(template, reach_dataset, in_process):
    """The finished matrix itself: its commands name its place."""
    return template


def test_finished_cells_are_reused_without_a_process(finished, monkeypatch, capsys):
    def begun():
        raise AssertionError("a process is begun for finished cells")

    before = {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()}
    report = (finished.out / "report.md").read_text()
    monkeypatch.setattr(compare, "Processes", begun)
    assert compare.main(tiny(finished.out)) == finished.made
    assert "; 6 of them are finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (finished.out / NAME).rglob("*") if path.is_file()} == before
    assert (finished.out / "report.md").read_text() == report


def test_data_that_cannot_steer_are_warned_of(finished, monkeypatch, capsys):
    monkeypatch.setattr(Comparison, "steering_warning", lambda comparison: f"{comparison.headline} is not to be had")
    compare.main(tiny(finished.out))
    assert re.search(rf"warning: {re.escape(REACH)}: \S+ is not to be had", capsys.readouterr().err)


def test_every_command_can_be_typed_alone(finished, capsys):
    commands = json.loads((finished.out / "results.json").read_text())["commands"]
    assert commands[0].startswith("python -m scripts.compare")
    for command in commands[1:]:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "scripts.train"]
        train.start(words[3:])
        assert "is finished: nothing to do" in capsys.readouterr().out


def test_cells_can_be_added(finished, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    compare.main(tiny(out, agents=(BC,), seeds=3))
    assert (out / NAME / "bc-seed2/checkpoint.pt").exists()
    assert json.loads((out / "results.json").read_text())["comparisons"][0]["differences"] == []


@pytest.mark.parametrize("damaged", ["config.json", "evaluations.jsonl", "checkpoint.pt"])
def test_a_failing_cell_is_reported_and_the_others_finish(template, reach_dataset, in_process, tmp_path, damaged):
    broken = shutil.copytree(template.out / NAME / "flow-seed0", tmp_path / NAME / "flow-seed0")
    (broken / "evaluations.jsonl").write_text("{\n{}\n" if damaged == "evaluations.jsonl" else "")
    if damaged != "evaluations.jsonl":
        (broken / damaged).write_text("{")
    with pytest.raises(InputError) as caught:
        compare.main(tiny(tmp_path, seeds=1))
    said, listed = str(caught.value).splitlines()
    assert said == "1 of 3 runs failed; the same command tries them again:"
    assert listed.startswith(f"  flow seed 0 on {REACH}: ")
    assert "is damaged" in listed
    assert listed.endswith(f"({broken / 'train.log'})")
    for agent in ("dt", "bc"):
        assert sum(row["kind"] == "final" for row in rows(tmp_path / NAME / f"{agent}-seed0")) == 8
    reported = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert {row["agent"] for row in reported[0]["scores"]} == {"dt", "bc"}


@pytest.mark.parametrize(("damaged", "left"), [("metrics.jsonl", {"bc"}), ("checkpoint.pt", {"bc", "flow"})])
def test_a_finished_cell_that_was_damaged_later_stops_nothing(
    template, reach_dataset, in_process, tmp_path, damaged, left
):
    broken = shutil.copytree(template.out / NAME / "flow-seed0", tmp_path / NAME / "flow-seed0")
    lines = (broken / damaged).read_bytes().splitlines(keepends=True)
    (broken / damaged).write_bytes(b"".join([lines[0], b"{\n", *lines[1:]]) if damaged != "checkpoint.pt" else b"{")
    with pytest.raises(InputError) as caught:
        compare.main(tiny(tmp_path, agents=(FLOW, BC), seeds=1))
    said, listed = str(caught.value).splitlines()
    assert said == "1 of 2 runs failed; the same command tries them again:"
    assert f"flow seed 0 on {REACH}: " in listed
    assert f"{damaged} is damaged" in listed
    (reported,) = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert {row["agent"] for row in reported["scores"]} == left, "what it played is known without its weights"


def test_a_cell_with_an_episode_missing_and_one_twice_is_played_again(
    template, reach_dataset, in_process, tmp_path, capsys
):
    out = shutil.copytree(template.out, tmp_path / "out")
    file = out / NAME / "flow-seed0/evaluations.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert '"final"' in lines[-2]
    file.write_text("".join([*lines[:-2], lines[-1], lines[-1]]))
    capsys.readouterr()
    compare.main(tiny(out))
    assert "6 runs on cpu, 1 at a time, 1 CPU thread(s) each; 5 of them are finished" in capsys.readouterr().out
    played, before = (rows(place / NAME / "flow-seed0") for place in (out, template.out))
    assert [(row["seed"], row["target"], row["return"]) for row in played] == [
        (row["seed"], row["target"], row["return"]) for row in before
    ]


def test_results_are_not_published_under_other_settings_where_the_checkpoint_is_gone(
    template, reach_dataset, in_process, tmp_path
):
    out = shutil.copytree(template.out, tmp_path / "out")
    for checkpoint in out.rglob("checkpoint.pt"):
        checkpoint.unlink()
    before = (out / NAME / "flow-seed0/config.json").read_text()
    with pytest.raises(InputError, match="training.steps was 20 and is 30"):
        compare.main(tiny(out, steps=30, study=False))
    assert (out / NAME / "flow-seed0/config.json").read_text() == before
    compare.main(tiny(out, study=False))  # what was played is known without the weights


def test_scores_of_one_dataset_are_put_together_over_its_seeds(template):
    page, markdown = ((template.out / name).read_text() for name in ("report.html", "report.md"))
    for told in (page, markdown):
        assert "Scores over the 2 training seeds that all agents have" in told
        assert "P(better)" in told
    tables = markdown_tables(markdown)
    pooled, improved = (next(t for t in tables if name in t[0]) for name in ("runs", "P(better)"))
    assert "median" not in pooled[0], "of one dataset it is the mean"
    assert [(row["agent"], row["datasets"], row["runs"]) for row in pooled] == [
        (agent, "1", "2") for agent in ("flow", "dt", "bc")
    ]
    aggregate = json.loads((template.out / "results.json").read_text())["aggregate"]
    assert float(improved[0]["points of score"]) == pytest.approx(aggregate[0]["mean"] - aggregate[1]["mean"], abs=0.1)
    for name in ("scores", "performance-profiles"):
        assert (template.out / f"figures/{name}.png").exists()
        assert (template.out / f"data/{name}.csv").exists()


def test_commands_name_the_threads_that_a_reused_run_began_with(finished, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    compare.main(tiny(out, threads=2, study=False))
    commands = json.loads((out / "results.json").read_text())["commands"]
    assert [command.count("--threads 1") for command in commands[1:]] == [1] * 6


def test_an_out_that_is_a_file_is_found_out_before_any_cell_runs(reach_dataset, in_process, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        compare.main(tiny(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_that_cannot_be_written_hides_no_failed_cell(template, reach_dataset, in_process, tmp_path, capsys):
    out = shutil.copytree(template.out, tmp_path / "out")
    (out / NAME / "dt-seed1/config.json").write_text("{")
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    with pytest.raises(InputError, match=r"(?s)1 of 6 runs failed; no report was written.*report.html.*dt seed 1 on"):
        compare.main(tiny(out))
    assert "paired differences" in capsys.readouterr().out


def test_differences_are_against_the_baseline_that_was_asked_for(template, reach_dataset, in_process, tmp_path):
    out = shutil.copytree(template.out, tmp_path / "out")
    for seed in (0, 1):
        (out / NAME / f"dt-seed{seed}/config.json").write_text("{")
    with pytest.raises(InputError, match="2 of 6 runs failed; the same command"):
        compare.main(tiny(out))
    (reported,) = json.loads((out / "results.json").read_text())["comparisons"]
    assert reported["differences"] == []
    assert "dt, which differences are taken against, has no run here" in reported["summary"]


def test_where_all_cells_fail_it_says_that_there_is_no_report(template, reach_dataset, in_process, tmp_path):
    out = shutil.copytree(template.out, tmp_path / "out")
    for config in out.rglob("config.json"):
        config.write_text("{")
    before = (out / "report.md").read_text()
    with pytest.raises(
        InputError, match="6 of 6 runs failed; no report was written, and one that is there is of earlier"
    ):
        compare.main(tiny(out))
    assert (out / "report.md").read_text() == before


def test_one_dataset_by_two_names_is_refused(reach_dataset, minari_root, in_process, tmp_path):
    with pytest.raises(InputError, match=f"datasets: {REACH} and .* are both {REACH}, and each can stand there once"):
        compare.main(tiny(tmp_path / "out", datasets=(REACH, str(minari_root / REACH)), agents=(BC,)))
    assert not (tmp_path / "out").exists()


def test_numbers_below_zero_are_targets_too(reach_dataset, in_process, tmp_path):
    evaluation = EvaluationConfig(targets=("-3", "p50"), episodes=2)
    compare.main(tiny(tmp_path, agents=(BC,), seeds=1, evaluation=evaluation, evaluate_every=0))
    assert {row["target"] for row in rows(tmp_path / NAME / "bc-seed0")} >= {-3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": (BC, "gpt")}, "unknown agent 'gpt': known are flow, dt, bc"),
        ({"agents": (BC, "own=gpt --steps 3")}, "agent own: unknown agent 'gpt'"),
        ({"agents": (BC, "own=bc --widht 3")}, "agent own: unknown option --widht; did you mean --width?"),
        ({"agents": (BC, "own=bc --width 0")}, "agent own: width is 0"),
        ({"agents": (BC, "own=bc --width")}, "agent own: "),
        ({"agents": (BC, "own=bc 5")}, "agent own: unexpected argument '5'"),
        ({"agents": (BC, "own=bc --min-return 99")}, "agent own: no episode of flowrl"),
        ({"agents": (BC, "own=bc --evaluate-every -1")}, "evaluate_every is -1"),
        ({"agents": ("bc --width 16",)}, "'bc --width 16' has options and so needs a label"),
        ({"agents": ("a b=bc",)}, "'a b=bc' has options and so needs a label"),
        ({"agents": ("=bc",)}, "label '' of agent '=bc' must begin with a letter"),
        ({"agents": ("a/b=bc",)}, "label 'a/b'"),
        ({"agents": ("own=",)}, "'own=' names no agent"),
        ({"agents": ("",)}, "'' names no agent"),
        ({"agents": ("own=bc 'x",)}, "cannot be read"),
        ({"agents": (BC, "flow", "bc=bc --width 8")}, "labels: bc stands there twice"),
        ({"datasets": (REACH, "flowrl-reach/mixed-v0")}, f"datasets: {NAME} stands there twice"),
        ({"gpus_per_cell": 1.0}, "gpus_per_cell is 1.0"),
        ({"threads": -1}, "threads is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"datasets": (REACH, "mujoco/nope/medium-v0")}, "mujoco/nope/medium-v0"),
        ({"datasets": (REACH, "flowrl/reach/nope-v0")}, "flowrl/reach/nope-v0"),
        ({"datasets": (REACH, "reach")}, "'reach' is no"),
        ({"evaluation": EvaluationConfig(targets=("most",))}, "target 'most' is neither"),
        ({"steps": 0}, "steps is 0"),
        ({"evaluate_every": -1}, "evaluate_every is -1"),
        ({"evaluate_episodes": 0}, "evaluate_episodes is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"jobs": -1}, "jobs is -1"),
        ({"agents": ()}, "agents is empty"),
        ({"datasets": ()}, "datasets is empty"),
        ({"device": "tpu"}, "device 'tpu' cannot be used here"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(reach_dataset, in_process, tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        compare.main(tiny(tmp_path / "out", **({"agents": (BC,), "seeds": 1} | changes)))
    assert message in str(caught.value)
    assert "failed" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_named_twice_is_run_once(reach_dataset, in_process, tmp_path, capsys):
    compare.main(tiny(tmp_path, agents=(BC,), seeds=1, evaluate_every=0, datasets=(REACH, REACH)))
    assert capsys.readouterr().out.startswith("1 runs on cpu")
    assert len(json.loads((tmp_path / "results.json").read_text())["comparisons"]) == 1


@pytest.mark.parametrize(
    "option",
    ["dataset x", "env x", "seed 0", "run-dir x", "run_dir=x", "targets best", "episodes=3", "episode-seed 1",
     "device cpu", "threads 2"],
)  # fmt: skip
def test_what_all_share_is_no_option_of_one(option):
    name = option.replace("=", " ").split()[0].replace("_", "-")
    with pytest.raises(InputError, match=f"^agent own: --{name} is the whole comparison's and cannot be one agent's$"):
        AgentSpec.parse(f"own=bc --width 8 --{option}")


def test_an_option_of_an_agent_overrides_the_common_one():
    agents = [AgentSpec.parse(text) for text in ("bc", "few=bc --steps 3 --batch-size=5 --top-fraction 0.1")]
    common, own = make_cells([REACH], agents, 1, Path("out"), ["--steps", "7", "--top-fraction", "0.5"], study=False)
    assert (common.args.training.steps, common.args.selection.top_fraction) == (7, 0.5)
    assert (own.args.training.steps, own.args.training.batch_size, own.args.selection.top_fraction) == (3, 5, 0.1)
    assert [cell.run_dir for cell in (common, own)] == [Path("out") / NAME / f"{name}-seed0" for name in ("bc", "few")]
    assert all(train.parse_args(list(cell.argv)) == cell.args for cell in (common, own))


def test_the_command_line(reach_dataset, in_process, tmp_path):
    compare.start(
        shlex.split(
            f"--datasets {REACH} --agents bc 'small=bc --width 8' --seeds 1 --steps 5 --targets best --episodes 1"
            f" --evaluate-every 0 --out {tmp_path / 'out'} --device cpu --jobs 1"
        )
    )
    assert (tmp_path / "out/report.md").exists()
    with pytest.raises(InputError, match="unknown option --agent;? ?.*--agents"):
        compare.start(["--agent", "bc"])


def test_a_mixture_and_a_selection_reach_every_cell(reach_dataset, in_process, tmp_path):
    out, mixture = tmp_path / "out", f"{REACH}:3+{REACH}:0.5"
    selection = Selection(dataset_episodes="-20:", min_return=1.5, top_fraction=0.5, observations="-2:")
    args = tiny(
        out, datasets=(mixture,), agents=(FLOW, BC), seeds=1, selection=selection,
        evaluation=EvaluationConfig(targets=("p50", "best"), episodes=2),
    )  # fmt: skip
    made = compare.main(args)
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
        assert sum(row["kind"] == "final" for row in rows(run)) == 4
    page = (out / "report.md").read_text()
    assert mixture in page
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) == 4  # returns by target, two learning curves, sensitivity
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


def test_a_mistaken_selection_is_told_before_the_first_cell(reach_dataset, in_process, tmp_path):
    for selection, message in [
        (Selection(observations="7"), "observations '7' names number 7: there are 3 features"),
        (Selection(min_return=99.0), "has a return of 99.0 or more"),
    ]:
        with pytest.raises(InputError, match=message):
            compare.main(tiny(tmp_path / "out", selection=selection))
    with pytest.raises(InputError, match="has an empty part"):
        compare.main(tiny(tmp_path / "out", datasets=(REACH, f"{REACH}+")))
    assert not (tmp_path / "out").exists()


def test_a_run_whose_study_failed_is_reported_all_the_same(reach_dataset, in_process, tmp_path, monkeypatch):
    def fails(run, device):
        raise InputError("no picture")

    monkeypatch.setattr(matrix, "study", fails)
    with pytest.raises(InputError, match=r"(?s)1 of 2 runs failed.*bc seed 0 on .*no picture"):
        compare.main(tiny(tmp_path, agents=(BC,)))
    results = json.loads((tmp_path / "results.json").read_text())
    assert [run["seed"] for run in results["comparisons"][0]["runs"]] == [0, 1]
    assert len(results["failures"]) == 1

"""flowrl as a library: a notebook's few lines, and mistakes as one exception."""

import os
import subprocess
import sys

import numpy as np
import pytest

import flowrl
from flowrl.data import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"


def test_a_notebook(reach_dataset, tmp_path):
    run = flowrl.train(agent="bc", dataset=REACH, steps=20, width=16, episodes=2, run_dir=str(tmp_path / "run"))
    rows = flowrl.evaluate(run, targets=[5, "best"], episodes=3)
    policy = flowrl.load_policy(run)
    policy.reset(10.0)
    action = policy.act(np.zeros(3))
    assert (len(rows), action.shape) == (3, (2,))


@pytest.mark.slow
def test_comparing(reach_dataset, tmp_path):
    agents = {"flow": ("flow", {"heads": 2}), "bc-10": ("bc", {"top_fraction": 0.1})}
    options = {"steps": 10, "width": 16, "layers": 1, "batch_size": 8, "targets": "best", "episodes": 2}
    report = flowrl.compare(REACH, agents, out=str(tmp_path), device="cpu", jobs=1, threads=1, **options)
    assert report.labels == ("flow", "bc-10")
    assert [run.config["device"] for comparison in report.comparisons for run in comparison.runs] == ["cpu", "cpu"]
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flowrl.train("flow", step=5), "unknown option 'step'; did you mean steps?"),
        (lambda: flowrl.train("fow"), "unknown agent 'fow': known are flow"),
        (lambda: flowrl.train("bc", heads=5), "unknown option 'heads'"),
        (lambda: flowrl.train("flow", width=15), "width must be a multiple of heads"),
        (lambda: flowrl.train("flow", seed=-1), "seed is -1"),
        (lambda: flowrl.evaluate("runs/none", episode=5), "unknown option 'episode'; did you mean episodes?"),
        (lambda: flowrl.evaluate("runs/none", episodes=0), "episodes is 0"),
        (lambda: flowrl.evaluate("runs/none"), "is no run folder"),
        (lambda: flowrl.evaluate([]), "no run folder is given"),
        (lambda: flowrl.compare(REACH, step=5), "unknown option 'step'; did you mean steps?"),
        (lambda: flowrl.compare(REACH, seed=5), "seed is set by the comparison itself"),
        (lambda: flowrl.compare(REACH, job=5), "unknown option 'job'"),
        (lambda: flowrl.compare(REACH, jobs=-1), "jobs is -1"),
        (lambda: flowrl.compare(REACH, {"x": ("bc", {"targets": "best"})}), "targets is the same for all agents"),
        (lambda: flowrl.compare(REACH, {"a/b": ("bc", {})}), "label 'a/b' must begin with"),
        (lambda: flowrl.compare(REACH, ()), "agents is empty"),
        (lambda: flowrl.compare([]), "datasets is empty"),
        (lambda: flowrl.load_policy("runs/none"), "is no run folder"),
    ],
)
def test_a_mistake_is_an_input_error(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)
    assert "--" not in str(caught.value), "the library knows no command line"
    assert not list(tmp_path.iterdir())


def test_importing_flowrl_is_quick_and_brings_no_torch(repository):
    code = "import sys, flowrl; assert 'torch' not in sys.modules; assert {*flowrl.__all__} <= {*dir(flowrl)}"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


@pytest.mark.slow
def test_a_script_without_a_guard_compares(reach_dataset, tmp_path, repository):
    """And its agent is a class in a file beside it."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom flowrl.agents.bc import BCConfig\n\n"
        "@dataclass(frozen=True)\nclass Mine(BCConfig):\n    'An agent of mine.'\n    width: int = 8\n"
    )
    (tmp_path / "script.py").write_text(
        f"import flowrl\nflowrl.compare({REACH!r}, ['bc', 'mine:Mine'], steps=5, episodes=1, device='cpu', out='out')\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/flowrl-reach-mixed-v0/mine-Mine-seed0/evaluations.jsonl").exists()


def test_a_dataset_in_memory_is_trained_on_and_resumed(tmp_path):
    generator = np.random.default_rng(0)
    dataset = TrajectoryDataset.from_arrays(
        observations=[generator.normal(size=(n + 1, 3)) for n in (4, 6)],
        actions=[generator.uniform(-1, 1, (n, 2)) for n in (4, 6)],
        rewards=[np.ones(n) for n in (4, 6)],
        terminations=[True, False],
        action_low=[-2.0, -1.0],
        action_high=[3.0, 2.0],
        id="mine",
    )
    options = {
        "steps": 4,
        "width": 8,
        "batch_size": 4,
        "episodes": 2,
        "env": "flowrl/Reach-v0",
        "run_dir": tmp_path / "run",
    }
    run = flowrl.train("bc", dataset=dataset, **options)
    assert RunFolder(run).config()["dataset"] == "mine"
    content = (run / "checkpoint.pt").read_bytes()
    flowrl.train("bc", dataset=dataset, **options)
    assert (run / "checkpoint.pt").read_bytes() == content
    with pytest.raises(InputError, match="fingerprint"):
        flowrl.train("bc", dataset=dataset.top(0.5), **options)


def test_a_policy_refuses_a_target_that_is_no_number(tiny_runs):
    policy = flowrl.load_policy(tiny_runs / "flow")
    for target in (None, float("nan"), [1.0, float("inf")]):
        with pytest.raises(ValueError, match="finite target return"):
            policy.reset(target)
    memoryless = flowrl.load_policy(tiny_runs / "bc")
    memoryless.reset()
    assert np.isfinite(memoryless.act(np.zeros(3))).all()
    with pytest.raises(ValueError, match="reward has shape"):
        memoryless.act(np.zeros(3), [1.0, 2.0])

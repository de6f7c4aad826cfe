"""scripts.train end to end: what it writes, and that nothing short of finishing it ends it."""

import fcntl
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from flowrl.agents import load_policy
from flowrl.attention import ATTENTION
from flowrl.data.dataset import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.report import Report, Run
from flowrl.scripts import evaluate, train
from flowrl.training.run_folder import RunFolder


def rows(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def assert_same_run(one, two):
    """The same bits in weights, optimiser and generators; the same figures."""
    a, b = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, two))

    def compare(x, y, path):
        if isinstance(x, dict):
            assert x.keys() == y.keys(), path
            for key in x:
                compare(x[key], y[key], f"{path}.{key}")
        elif isinstance(x, list | tuple):
            assert len(x) == len(y), path
            for index, (left, right) in enumerate(zip(x, y, strict=True)):
                compare(left, right, f"{path}[{index}]")
        else:
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, path

    compare(a, b, "checkpoint")
    assert rows(one, "evaluations.jsonl") == rows(two, "evaluations.jsonl")
    of_the_machine = {"steps_per_second", "evaluate/seconds", "memory/peak_bytes"}
    assert [{k: v for k, v in row.items() if k not in of_the_machine} for row in rows(one, "metrics.jsonl")] == [
        {k: v for k, v in row.items() if k not in of_the_machine} for row in rows(two, "metrics.jsonl")
    ]


def test_a_run_folder_holds_everything(any_tiny_run, reach):
    files = {path.name for path in any_tiny_run.iterdir()}
    assert {"config.json", "checkpoint.pt", "metrics.jsonl", "evaluations.jsonl"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not [name for name in files if "partial" in name]
    config = json.loads((any_tiny_run / "config.json").read_text())
    assert config["agent"] == any_tiny_run.name
    assert config["dataset"] == "flowrl/reach/mixed-v0"
    assert config["training"]["steps"] == 20
    assert {"torch", "gymnasium", "mujoco", "flowrl", "minari", "numpy"} <= config["versions"].keys()
    assert config["dataset_returns"]["mean"] == pytest.approx(float(reach.returns.mean()))
    checkpoint = torch.load(any_tiny_run / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 20


def test_the_rows_of_the_final_evaluation(any_tiny_run, reach):
    found = rows(any_tiny_run, "evaluations.jsonl")
    targets = [np.percentile(reach.returns, 90), float(reach.returns.max())]
    assert [(row["target"], row["seed"]) for row in found] == [
        (pytest.approx(target), seed) for target in targets for seed in (10_000, 10_001, 10_002)
    ]
    for row in found:
        assert (row["kind"], row["step"], row["env"]) == ("final", 20, "flowrl/Reach-v0")
        assert row["rollout"] == ("memoryless" if any_tiny_run.name == "bc" else "window")
        assert 0 <= row["return"] <= 15.4
        assert 1 <= row["length"] <= 16
        assert row["terminated"] == (row["length"] < 16 or row["terminated"])
        assert row["score_d4rl"] is None
        assert row["score_measured"] == pytest.approx(100 * (row["return"] - 5.197) / (14.423 - 5.197))


def test_metrics_have_every_step_once(any_tiny_run):
    found = rows(any_tiny_run, "metrics.jsonl")
    assert [row["step"] for row in found if "train/loss" in row] == [5, 10, 15, 20]
    assert "evaluate/seconds" in found[-1]
    assert 50e6 < found[-1]["memory/peak_bytes"] < 50e9  # in bytes: torch alone takes more than the one
    assert len(found) == 5


def test_one_seed_gives_one_run_to_the_bit(tiny_argv, tiny_runs, reach_dataset, tmp_path):
    train.start(tiny_argv("flow", tmp_path / "again"))
    assert_same_run(tmp_path / "again", tiny_runs / "flow")
    train.start(tiny_argv("flow", tmp_path / "other", "--seed", "1"))
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "other", tiny_runs / "flow")


def test_evaluating_while_training_changes_no_weight(tiny_argv, tiny_runs, reach_dataset, tmp_path):
    run = tmp_path / "watched"
    train.start(tiny_argv("flow", run, "--evaluate-every", "5", "--evaluate-episodes", "2"))
    found = rows(run, "evaluations.jsonl")
    assert [(row["kind"], row["step"]) for row in found] == [
        *[("training", step) for step in (5, 10, 15) for _ in range(4)], *[("final", 20)] * 6,
    ]  # fmt: skip
    # The same seeds as the final evaluation's first.
    assert {row["seed"] for row in found if row["kind"] == "training"} == {10_000, 10_001}
    weights = [torch.load(r / "checkpoint.pt", weights_only=True)["agent"] for r in (run, tiny_runs / "flow")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_whether_returns_can_steer_is_judged_when_a_run_begins(
    tiny_argv, reach_dataset, write, numbered_episode, tmp_path, capsys
):
    train.start(tiny_argv("flow", tmp_path / "mixed", "--steps", "1"))
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    assert config["dataset_returns"]["steering"]["verdict"] == "yes"
    assert "steer" not in capsys.readouterr().err
    write("few-v0", [numbered_episode(0, 5)] * 3)
    few = ("--steps", "1", "--dataset", "few-v0", "--env", "flowrl/Reach-v0")
    train.start(tiny_argv("flow", tmp_path / "few", *few))
    told = "the returns of few-v0 are not expected to steer an agent: 3 episode(s) are too few"
    assert told in capsys.readouterr().err
    train.start(tiny_argv("bc", tmp_path / "bc", *few))
    assert "steer" not in capsys.readouterr().err, "it takes no return"
    train.start(tiny_argv("flow", tmp_path / "part", "--steps", "1", "--dataset-episodes", ":3"))
    told = f"the returns that are selected of {reach_dataset} are not expected to steer an agent: 3 episode(s) are too"
    assert told in capsys.readouterr().err


def test_what_is_padding_or_beyond_the_memory_is_told_when_a_run_begins(
    tiny_argv, write, numbered_episode, tmp_path, capsys, monkeypatch
):
    write("short-v0", [numbered_episode(0, 5), numbered_episode(1, 8)] * 3)
    short = ("--dataset", "short-v0", "--env", "flowrl/Reach-v0", "--steps", "1", "--device", "cpu")
    train.start(tiny_argv("flow", tmp_path / "long", *short, "--context", "9"))
    assert "context is 9 and the longest episode has 8 steps: the rest is padding" in capsys.readouterr().err
    train.start(tiny_argv("flow", tmp_path / "fits", *short, "--context", "8"))
    assert "padding" not in capsys.readouterr().err

    assert 2**28 < train._memory(torch.device("cpu")) < 2**50
    monkeypatch.delattr(train.os, "sysconf")
    assert train._memory(torch.device("cpu")) == math.inf, "a system that does not tell"
    # 2 episodes of 8 steps of 3 tokens, 1 head, 2 layers, 16 bytes a pair.
    shape = ("--context", "episode", "--batch-size", "2", "--heads", "1", "--layers", "2", "--dropout", "0.1")
    needed = 2 * (8 * 3) ** 2 * 2 * 16
    told = "attention softmax keeps numbers of all pairs of tokens: 2 episodes of up to 8 steps may take"
    for memory, agent, more, expected in [
        (2 * needed, "dt", (), False),
        (2 * needed - 2, "dt", (), True),
        (needed, "dt", ("--recompute",), False),
        (needed - 2, "dt", ("--recompute",), True),
        (1, "flow", (), False),
        (1, "dt", ("--dropout", "0"), False),
    ]:
        monkeypatch.setattr(train, "_memory", lambda device, memory=memory: memory)
        run = tmp_path / f"{agent}-{memory}-{'-'.join(more)}"
        train.start(tiny_argv(agent, run, *short, *shape, *more))
        assert (told in capsys.readouterr().err) == expected, (memory, agent, more)


def test_a_finished_run_says_so_and_does_nothing(any_tiny_run, tiny_argv, reach_dataset, capsys):
    before = {path.name: path.read_bytes() for path in any_tiny_run.iterdir()}
    train.start(tiny_argv(any_tiny_run.name, any_tiny_run))
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in any_tiny_run.iterdir()} == before


def test_a_run_killed_in_its_final_evaluation_makes_that_up(tiny_run, tiny_argv, tiny_runs, reach_dataset):
    """The last rows are cut: half of them, and the middle of a line."""
    text = (tiny_run / "evaluations.jsonl").read_text()
    (tiny_run / "evaluations.jsonl").write_text(text[: len(text) // 2])
    metrics = (tiny_run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tiny_run / "metrics.jsonl").write_text("".join(metrics[:-1]))
    train.start(tiny_argv("flow", tiny_run))
    assert_same_run(tiny_run, tiny_runs / "flow")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--seed", "1"], "seed was 0 and is 1"),
        (["--steps", "30"], "training.steps was 20 and is 30"),
        (["--width", "32"], "agent_config.width was 16 and is 32"),
        (["--attention", "softmax"], "agent_config.attention was 'flow' and is 'softmax'"),
        (["--precision", "bf16"], "training.precision was 'fp32' and is 'bf16'"),
        (["--episodes", "4"], "evaluation.episodes was 3 and is 4"),
        (["--targets", "1"], "evaluation.targets"),
    ],
)
def test_another_configuration_is_refused_naming_the_field(tiny_run, tiny_argv, reach_dataset, options, field):
    before = {path.name: path.read_bytes() for path in tiny_run.iterdir()}
    with pytest.raises(InputError) as caught:
        train.start(tiny_argv("flow", tiny_run, *options))
    assert field in str(caught.value)
    assert "--run-dir" in str(caught.value)
    assert {path.name: path.read_bytes() for path in tiny_run.iterdir()} == before


def test_another_agent_is_refused(tiny_run, tiny_argv, reach_dataset):
    with pytest.raises(InputError, match="agent was 'flow' and is 'dt'"):
        train.start(tiny_argv("dt", tiny_run))


def test_changed_data_are_refused_in_one_readable_sentence(tiny_run, tiny_argv, write, numbered_episode):
    write("flowrl/reach/mixed-v0", [numbered_episode(0, 9), numbered_episode(1, 8)])
    with pytest.raises(InputError, match="data|dataset|fingerprint") as caught:
        train.start(tiny_argv("flow", tiny_run))
    assert len(str(caught.value)) < 600


def test_a_refused_start_leaves_no_run_folder_behind(tiny_argv, tmp_path):
    with pytest.raises(InputError, match=r"flowrl/reach/mixed-v0 is not here"):
        train.start(tiny_argv("flow", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--env", "flowrl/Reach-v9"], ["--targets", "most"], ["--top-fraction", "2"]])
def test_a_mistake_that_needs_the_data_leaves_no_run_folder_either(tiny_argv, reach_dataset, tmp_path, options):
    with pytest.raises(InputError):
        train.start(tiny_argv("flow", tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_an_environment_of_other_sizes_is_refused(tiny_argv, reach_dataset, tmp_path):
    with pytest.raises(
        InputError, match=r"observation of Pendulum-v1 has shape \(3,\)|action of Pendulum-v1 has shape"
    ):
        train.start(tiny_argv("bc", tmp_path / "run", "--env", "Pendulum-v1"))


def test_a_dataset_that_names_no_environment_asks_for_one(tiny_argv, write, numbered_episode, tmp_path, capsys):
    write("flowrl/reach/mixed-v0", [numbered_episode(0, 9), numbered_episode(1, 8)], env_spec=None)
    with pytest.raises(InputError, match="names no environment: give one with --env"):
        train.start(tiny_argv("bc", tmp_path / "run"))
    train.start(tiny_argv("bc", tmp_path / "run", "--env", "flowrl/Reach-v0"))
    assert rows(tmp_path / "run", "evaluations.jsonl")[0]["env"] == "flowrl/Reach-v0"


def test_the_best_episodes_alone(tiny_argv, reach, tmp_path):
    train.start(tiny_argv("bc", tmp_path, "--top-fraction", "0.1"))
    config = json.loads((tmp_path / "config.json").read_text())
    best = reach.top(0.1)
    assert best.episodes < reach.episodes
    # Targets and reports speak of the whole dataset, so that %BC stands in one table with the others.
    assert config["dataset_returns"]["episodes"] == reach.episodes
    assert config["dataset_returns"]["mean_by_step"] == pytest.approx(
        float((reach.returns * reach.lengths).sum() / reach.lengths.sum())
    )
    assert config["fingerprint"] == best.fingerprint


def test_targets_that_round_alike_keep_their_figures_apart(tiny_argv, reach_dataset, tmp_path):
    train.start(tiny_argv("bc", tmp_path, "--targets", "14.1", "14.2", "14.3"))
    last = rows(tmp_path, "metrics.jsonl")[-1]
    assert len([name for name in last if name.startswith("return/")]) == 3


def test_without_a_run_dir_the_folder_is_named_after_dataset_agent_and_seed(
    tiny_argv, reach_dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    argv = tiny_argv("bc", Path("unused"), "--seed", "3")
    at = argv.index("--run-dir")
    train.start(argv[:at] + argv[at + 2 :])
    assert (tmp_path / "runs/flowrl-reach-mixed-v0/bc-seed3/checkpoint.pt").exists()


@pytest.mark.parametrize("attention", sorted(ATTENTION.keys() - {"flow", "softmax"}))
def test_every_attention_is_trained_played_and_studied_by_its_name(
    attention, tiny_argv, reach_dataset, tmp_path, capsys
):
    run = tmp_path / "run"
    options = ["--attention", attention, "--steps", "3", "--checkpoint-every", "2", "--context", "8"]
    train.start(tiny_argv("flow", run, *options, "--precision", "bf16"))
    assert json.loads((run / "config.json").read_text())["agent_config"]["attention"] == attention
    policy = load_policy(run)
    policy.reset(5.0)
    assert np.isfinite(policy.act(np.zeros(policy._observation_size))).all()
    played = [str(run), "--episodes", "1", "--targets", "best", "--device", "cpu"]
    evaluate.start([*played, "--out", str(tmp_path / "report")])
    assert (tmp_path / "report/index.html").exists() or list((tmp_path / "report").glob("*.html"))
    before = (run / "evaluations.jsonl").read_bytes()
    if ATTENTION[attention].why_no_step is None:
        evaluate.start([*played, "--rollout", "recurrent"])
        assert rows(run, "evaluations.jsonl")[-1]["rollout"] == "recurrent"
    else:
        with pytest.raises(InputError, match="acts by --rollout window alone"):
            evaluate.start([*played, "--rollout", "recurrent"])
        assert (run / "evaluations.jsonl").read_bytes() == before


def test_the_callers_generators_are_not_touched(tiny_argv, reach_dataset, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train.start(tiny_argv("flow", tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_and_an_async_vector_env_run(tiny_argv, reach_dataset, tiny_runs, tmp_path):
    train.start(tiny_argv("dt", tmp_path / "bf16", "--precision", "bf16"))
    train.start(tiny_argv("dt", tmp_path / "async", "--vector", "async"))
    assert rows(tmp_path / "async", "evaluations.jsonl") == rows(tiny_runs / "dt", "evaluations.jsonl")
    found = rows(tmp_path / "bf16", "evaluations.jsonl")
    assert len(found) == 6


# Real processes


@pytest.fixture
def spawn(repository, minari_root):
    """Starts scripts.train in a process of its own; all are ended with the test."""
    started = []

    def start(argv, processes=1, **keywords):
        environment = os.environ | {"MINARI_DATASETS_PATH": str(minari_root), "OMP_NUM_THREADS": "1"}
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        process = subprocess.Popen(
            [sys.executable, *(torchrun if processes > 1 else []), "-m", "flowrl.scripts.train", *argv],
            cwd=repository, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # torchrun passes it on: killed, it would leave its processes behind
        process.communicate()


def wait_for_row(process, run, number):
    """Until metrics.jsonl has `number` rows."""
    for waited in count():
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= number:
            return
        assert process.poll() is None, process.communicate()
        assert waited < 12_000, "no progress in two minutes"
        time.sleep(0.01)


LONG = [
    "--steps",
    "400",
    "--log-every",
    "1",
    "--checkpoint-every",
    "7",
    "--evaluate-every",
    "10",
    "--evaluate-episodes",
    "1",
]


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def test_a_run_locked_by_another_process_is_refused(tiny_run, tiny_argv, reach_dataset):
    """The other process is a real one: an `flock` from here would be our own."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tiny_run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"):
            train.start(tiny_argv("flow", tiny_run))
    finally:
        holder.communicate("\n")
    train.start(tiny_argv("flow", tiny_run))
    with open(tiny_run / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_in_the_same_bits(tiny_argv, reach_dataset, tmp_path, spawn):
    argv = tiny_argv("flow", tmp_path / "killed", *LONG)
    generator = np.random.default_rng()
    done = 0
    for _ in range(3):
        process = spawn(argv)
        # Far from the end, and wherever the process happens to be in its step.
        done += int(generator.integers(15, 60))
        wait_for_row(process, tmp_path / "killed", done)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        step = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)["step"]
        assert step % 7 == 0
        assert 0 < step < 400
        done = step + step // 10
    train.start(argv)
    train.start(tiny_argv("flow", tmp_path / "whole", *LONG))
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    steps = [row["step"] for row in rows(tmp_path / "killed", "metrics.jsonl") if "train/loss" in row]
    assert steps == list(range(1, 401))
    assert not [path.name for path in (tmp_path / "killed").iterdir() if "partial" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_by_a_signal_says_so_and_goes_on_to_the_same_bits(
    tiny_argv, reach_dataset, tmp_path, spawn, signum
):
    argv = tiny_argv("dt", tmp_path / "stopped", *LONG)
    process = spawn(argv)
    wait_for_row(process, tmp_path / "stopped", 20)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    said = re.fullmatch(
        rf"error: stopped by {signum.name} after step (\d+); the same command goes on from there\n", errors
    )
    assert said, errors
    assert torch.load(tmp_path / "stopped/checkpoint.pt", weights_only=True)["step"] == int(said[1]) >= 17
    train.start(argv)
    train.start(tiny_argv("dt", tmp_path / "whole", *LONG))
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


# In two processes, by torchrun


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tiny_argv, reach_dataset, tmp_path, spawn):
    options = ("--dropout", "0", "--evaluate-every", "10", "--evaluate-episodes", "1")
    argv = tiny_argv("flow", tmp_path / "two", *options)
    process = spawn(argv, processes=2)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    said = [line for line in out.splitlines() if line.startswith("[flow seed 0]")]
    assert len(said) == 9, out  # dataset, 4 rows, evaluation, final evaluation's announcement and result, done: once
    assert "in 2 processes" in said[0]
    train.start(tiny_argv("flow", tmp_path / "one", *options))

    def losses(run):
        return [(row["step"], row["train/loss"]) for row in rows(run, "metrics.jsonl") if "train/loss" in row]

    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    played = [
        [(row["kind"], row["step"], row["seed"]) for row in rows(tmp_path / run, "evaluations.jsonl")]
        for run in ("one", "two")
    ]
    assert played[0] == played[1]
    kinds = [sorted(re.sub(r"\d.*", "", path.name) for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert kinds[0] == kinds[1]
    assert RunFolder(tmp_path / "two").config()["processes"] == 2

    # One process finds it finished, and so do two.
    before = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    train.start(argv)
    out, errors = (again := spawn(argv, processes=2)).communicate(timeout=300)
    assert (again.returncode, out.count("is finished: nothing to do")) == (0, 1), errors
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["SIGTERM to torchrun", "SIGKILL to one process"])
def test_two_processes_stopped_or_killed_go_on_to_the_same_bits(tiny_argv, reach_dataset, tmp_path, spawn, ended):
    argv = tiny_argv("dt", tmp_path / "stopped", *LONG, "--steps", "120")
    process = spawn(argv, processes=2)
    wait_for_row(process, tmp_path / "stopped", 20)
    if ended == "SIGTERM to torchrun":
        process.send_signal(signal.SIGTERM)
    else:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    step = torch.load(tmp_path / "stopped/checkpoint.pt", weights_only=True)["step"]
    assert 14 <= step < 120
    if ended == "SIGTERM to torchrun":
        said = re.findall(r"error: stopped by SIGTERM after step (\d+); the same command goes on from there", errors)
        assert said == [str(step)], errors
    for run in ("stopped", "whole"):
        again = spawn(tiny_argv("dt", tmp_path / run, *LONG, "--steps", "120"), processes=2)
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, errors[:2000]  # what a process says comes before what torchrun makes of it
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_a_mistake_in_two_processes_is_told_once(tiny_argv, reach_dataset, tmp_path, spawn):
    for options, sentence in [
        (["--batch-size", "9"], "error: batch_size is 9: it must be divisible by the number of processes, 2\n"),
        (["--stepps", "9"], "error: unknown option --stepps; did you mean --steps? (--help lists all)\n"),
    ]:
        process = spawn(tiny_argv("flow", tmp_path / "run", *options), processes=2)
        _, errors = process.communicate(timeout=300)
        assert process.returncode != 0
        assert errors.count("error: ") == errors.count(sentence) == 1, errors
        assert not (tmp_path / "run").exists()


def interrupted(tiny_argv, run, monkeypatch, *options):
    """A run that died after its checkpoint at step 10."""
    argv = tiny_argv("flow", run, "--evaluate-every", "15", *options)
    with monkeypatch.context() as patch:

        def die(*arguments, **keywords):
            raise KeyboardInterrupt

        patch.setattr(train, "play", die)
        with pytest.raises(KeyboardInterrupt):
            train.start(argv)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 10
    return argv


def test_a_run_of_an_older_version_goes_on_and_is_compared_with_new_ones(
    tiny_argv, reach_dataset, tmp_path, monkeypatch
):
    """Before attentions had options, and states could be carried."""
    old = tmp_path / "flow-seed0"
    argv = interrupted(tiny_argv, old, monkeypatch)
    checkpoint = torch.load(old / "checkpoint.pt", weights_only=True)
    config = json.loads((old / "config.json").read_text())
    del checkpoint["carried"]
    for recorded in (checkpoint["config"], config):
        for name in ("attention_options", "convolution", "tokens", "carry_state", "acting_context"):
            del recorded["agent_config"][name]
    torch.save(checkpoint, old / "checkpoint.pt")
    (old / "config.json").write_text(json.dumps(config))
    train.start(argv)
    train.start([*tiny_argv("flow", tmp_path / "flow-seed1", "--evaluate-every", "15"), "--seed", "1"])
    report = Report.of([Run.load(RunFolder(tmp_path / f"flow-seed{seed}"), "flow") for seed in (0, 1)], commands=[])
    assert [len(comparison.common_seeds) for comparison in report.comparisons] == [2]


def test_a_full_disk_ends_in_one_sentence_and_keeps_the_old_checkpoint(
    tiny_argv, reach_dataset, tmp_path, spawn, monkeypatch
):
    run = tmp_path / "run"
    argv = interrupted(tiny_argv, run, monkeypatch)
    before = (run / "checkpoint.pt").read_bytes()
    # No file may grow to the size of a checkpoint: the operating system refuses, as on a full disk.
    limit = len(before) - 1
    process = spawn(argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("error: ")
    assert "File too large" in errors
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not [path.name for path in run.iterdir() if "partial" in path.name]
    # With room again it goes on as if nothing had been.
    train.start(argv)
    train.start(tiny_argv("flow", tmp_path / "whole", "--evaluate-every", "15"))
    assert_same_run(run, tmp_path / "whole")


def test_a_disk_without_any_room_ends_in_one_sentence(tiny_argv, reach_dataset, tmp_path, spawn):
    process = spawn(
        tiny_argv("flow", tmp_path / "run"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert len(errors.splitlines()) == 1, errors
    assert "File too large" in errors
    assert not [path for path in (tmp_path / "run").iterdir() if "partial" in path.name or path.name == "config.json"]


def test_a_run_folder_that_cannot_be_made_ends_in_one_sentence(tiny_argv, reach_dataset, tmp_path, spawn):
    (tmp_path / "file").write_text("")
    process = spawn(tiny_argv("flow", tmp_path / "file/run"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1, errors
    assert str(tmp_path / "file") in errors
    assert "Not a directory" in errors or "File exists" in errors


@pytest.mark.slow
def test_hopper_end_to_end(tmp_path, tiny_argv):
    from flowrl.scripts import collect

    collect.start(["flowrl/hopper/random-v0", "--steps", "600"])
    train.start(tiny_argv("flow", tmp_path, "--dataset", "flowrl/hopper/random-v0", "--targets", "best", "20"))
    found = rows(tmp_path, "evaluations.jsonl")
    assert len(found) == 6
    assert {row["env"] for row in found} == {"Hopper-v5"}
    assert all(row["score_d4rl"] is not None and row["score_measured"] is not None for row in found)
    assert TrajectoryDataset.from_minari("flowrl/hopper/random-v0").observations.shape[1] == 11
    assert RunFolder(tmp_path).config()["env_spec"]

"""scripts.train in real processes: nothing short of finishing a run ends it, and a mistake is one sentence."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest
import torch

from flowrl.data.dataset import TrajectoryDataset
from flowrl.experiments import training_run
from flowrl.scripts import collect, train
from flowrl.training.run_folder import RunFolder


def rows(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def step_of(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)["step"]


@pytest.fixture
def spawn(repository, minari_root):
    """Starts scripts.train in a process; all are ended with the test."""
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
    *("--steps", "400", "--log-every", "1", "--checkpoint-every", "7"),
    *("--evaluate-every", "10", "--evaluate-episodes", "1"),
]


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_in_the_same_bits(tiny_argv, reach_dataset, tmp_path, spawn, assert_same_run):
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
        step = step_of(tmp_path / "killed")
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
    tiny_argv, reach_dataset, tmp_path, spawn, signum, assert_same_run
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
    assert step_of(tmp_path / "stopped") == int(said[1]) >= 17
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
def test_two_processes_stopped_or_killed_go_on_to_the_same_bits(
    tiny_argv, reach_dataset, tmp_path, spawn, ended, assert_same_run
):
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
    step = step_of(tmp_path / "stopped")
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
def test_a_mistake_in_two_processes_is_reported_once(tiny_argv, reach_dataset, tmp_path, spawn):
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

        patch.setattr(training_run, "play", die)
        with pytest.raises(KeyboardInterrupt):
            train.start(argv)
    assert step_of(run) == 10
    return argv


def test_a_full_disk_ends_in_one_sentence_and_keeps_the_old_checkpoint(
    tiny_argv, reach_dataset, tmp_path, spawn, monkeypatch, assert_same_run
):
    run = tmp_path / "run"
    argv = interrupted(tiny_argv, run, monkeypatch)
    before = (run / "checkpoint.pt").read_bytes()
    # No file may grow to the size of a checkpoint: the operating system refuses, as on a full disk.
    limit = len(before) - 1
    process = spawn(argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    warning, sentence = errors.splitlines()
    assert warning.startswith("warning: warmup_steps is 5 and steps is 20")
    assert sentence.startswith("error: ")
    assert "File too large" in sentence
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
    collect.start(["flowrl/hopper/random-v0", "--steps", "600"])
    train.start(tiny_argv("flow", tmp_path, "--dataset", "flowrl/hopper/random-v0", "--targets", "best", "20"))
    found = rows(tmp_path, "evaluations.jsonl")
    assert len(found) == 6
    assert {row["env"] for row in found} == {"Hopper-v5"}
    assert all(row["score_d4rl"] is not None and row["score_measured"] is not None for row in found)
    assert TrajectoryDataset.from_minari("flowrl/hopper/random-v0").observations.shape[1] == 11
    assert RunFolder(tmp_path).config()["env_spec"]

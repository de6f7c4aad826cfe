"""Cells in processes of their own and as Ray tasks: what they compute, and what happens when one of them dies."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig
from flowrl.experiments import cluster
from flowrl.scripts import compare
from flowrl.scripts.compare import Args
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"
TINY = "--width 16 --layers 1 --context 5 --log-every 5 --checkpoint-every 10"
FLOW, BC = f"flow=flow --heads 2 {TINY}", f"bc=bc {TINY}"
LONG = f"{BC} --steps 3000 --log-every 500 --evaluate-every 0"

pytestmark = pytest.mark.slow


@pytest.fixture
def args(reach_dataset, tmp_path):
    """flow and bc with one seed, two at a time."""
    return Args(
        datasets=(REACH,), agents=(FLOW, BC), steps=20, batch_size=8, evaluate_every=10, evaluate_episodes=2,
        evaluation=EvaluationConfig(targets=("r25", "best"), episodes=3), out=tmp_path / "out", device="cpu", jobs=2,
    )  # fmt: skip


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_locked(run):
    try:
        with run.locked():
            return False
    except InputError:
        return True


def process_of(run):
    """The process that its log names last."""
    return int(re.findall(r"process (\d+): python -m scripts.train", (run.path / "train.log").read_text())[-1])


def assert_same_results(one, two):
    for cell in ("flow-seed0", "bc-seed0"):
        first, second = RunFolder(one / NAME / cell), RunFolder(two / NAME / cell)
        assert first.rows("evaluations.jsonl") == second.rows("evaluations.jsonl")
        weights, others = (run.load()["agent"] for run in (first, second))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_one_after_the_other_gives_what_side_by_side_does(args, tmp_path, capfd):
    outs = [tmp_path / f"jobs{jobs}" for jobs in (1, 2)]
    for jobs, out in enumerate(outs, start=1):
        compare.main(replace(args, out=out, jobs=jobs))
    assert_same_results(*outs)
    assert "step 20/20" in (outs[0] / NAME / "flow-seed0/train.log").read_text()
    assert "step 20/20" not in capfd.readouterr().out


def test_a_relative_folder_and_the_environment_reach_the_cells(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare.main(replace(args, agents=(BC,), out=Path("here")))
    assert (tmp_path / "here" / NAME / "bc-seed0/checkpoint.pt").exists()


def test_a_cell_is_trained_by_this_code_wherever_it_is_started(args, tmp_path, repository):
    """Not by packages of the same names in the working directory."""
    (tmp_path / "scripts").mkdir()
    for name in ("__init__.py", "train.py"):
        (tmp_path / "scripts" / name).write_text("open('imported', 'w').close()\n")
    argv = shlex.split(
        f"--datasets {REACH} --agents '{BC}' --steps 5 --targets best --evaluate-every 0 --device cpu --out out"
    )
    start = f"import os; from scripts import compare; os.chdir({str(tmp_path)!r}); compare.start({argv})"
    subprocess.run([sys.executable, "-c", start], cwd=repository, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert (tmp_path / "out" / NAME / "bc-seed0/checkpoint.pt").exists()
    assert not (tmp_path / "imported").exists()


def kill_when_it_has_a_checkpoint(run, times=1):
    """Kill the process of a cell, and the next one after it has gone on from the checkpoint; returns the thread."""

    def kill():
        wait_for(lambda: (run.path / "checkpoint.pt").exists())
        os.kill(process_of(run), signal.SIGKILL)
        if times == 2:
            wait_for(lambda: "goes on from" in (run.path / "train.log").read_text())
            os.kill(process_of(run), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_cell_that_is_killed_is_reported_and_goes_on_later(args):
    run, args = RunFolder(args.out / NAME / "bc-seed0"), replace(args, agents=(LONG, FLOW))
    killer = kill_when_it_has_a_checkpoint(run)
    with pytest.raises(InputError) as caught:
        compare.main(args)
    killer.join()
    assert str(caught.value) == (
        f"1 of 2 runs failed; the same command tries them again:\n  bc seed 0 on {REACH}: its process was killed by"
        f" SIGKILL, as the system does when memory runs out ({run.path / 'train.log'})"
    )
    assert sum(row["kind"] == "final" for row in RunFolder(args.out / NAME / "flow-seed0").rows("evaluations.jsonl"))
    assert (args.out / "report.md").exists()
    compare.main(args)
    assert "goes on from step" in (run.path / "train.log").read_text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_cell_outlives_a_comparison_that_was_stopped(args, signum, repository):
    command = [sys.executable, "-m", "flowrl.scripts.compare", "--datasets", REACH, "--agents", BC, "--seeds", "4"]
    options = shlex.split("--steps 1000000 --batch-size 8 --evaluate-every 0 --jobs 2 --targets best --device cpu")
    running = subprocess.Popen(
        [*command, *options, "--out", str(args.out)], cwd=repository, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    cells = [RunFolder(args.out / NAME / f"bc-seed{seed}") for seed in range(2)]
    wait_for(lambda: all((cell.path / "checkpoint.pt").exists() for cell in cells))
    running.send_signal(signum)
    _, said = running.communicate(timeout=60)
    wait_for(lambda: not any(map(is_locked, cells)))
    assert not (args.out / NAME / "bc-seed2").exists(), "the next cell was begun"
    for cell in cells:
        assert f"stopped by SIGTERM after step {cell.load()['step']:,}" in (cell.path / "train.log").read_text()
    if signum != signal.SIGKILL:
        assert running.returncode == 130
        assert "the same command goes on from them" in said


@pytest.fixture(scope="module")
def ray_cluster():
    """The address of a Ray cluster with two CPUs on this machine."""
    from ray import cluster_utils  # here, so that the fast tests do not wait for it

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        yield head.address
        head.shutdown()


def test_ray_gives_what_a_process_does(args, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare.main(replace(args, out=tmp_path / "here"))
    compare.main(replace(args, out=Path("there"), ray=ray_cluster))
    assert_same_results(tmp_path / "here", tmp_path / "there")


def test_ray_started_for_the_comparison(args):
    compare.main(replace(args, agents=(BC,), ray="local"))
    assert (args.out / NAME / "bc-seed0/checkpoint.pt").exists()


def test_a_cell_whose_ray_worker_dies_is_tried_again(args, ray_cluster):
    run = RunFolder(args.out / NAME / "bc-seed0")
    killer = kill_when_it_has_a_checkpoint(run)
    compare.main(replace(args, agents=(LONG,), ray=ray_cluster))
    killer.join()
    assert "goes on from step" in (run.path / "train.log").read_text()


def test_a_cell_whose_ray_worker_dies_twice_has_failed(args, ray_cluster):
    run = RunFolder(args.out / NAME / "bc-seed0")
    killer = kill_when_it_has_a_checkpoint(run, times=2)
    with pytest.raises(InputError, match="\n  bc seed 0 on .*: its Ray worker failed 2 times, the last time so: .*log"):
        compare.main(replace(args, agents=(LONG, FLOW), ray=ray_cluster))
    killer.join()
    assert (args.out / "report.md").exists()


def test_a_mistake_in_a_ray_task_is_told_as_ever_and_not_tried_again(args, ray_cluster):
    run = args.out / NAME / "bc-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{")
    with pytest.raises(InputError, match="\n  bc seed 0 on .*config.json is damaged"):
        compare.main(replace(args, agents=(BC,), ray=ray_cluster))
    assert (run / "train.log").read_text().count("is damaged") == 1


def test_a_ray_address_that_does_not_answer(args, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match=f"^Ray address 'ray://127.0.0.1:{port}' does not answer as Ray does$"):
            compare.main(replace(args, ray=f"ray://127.0.0.1:{port}"))
    with pytest.raises(InputError, match=f"^Ray address '127.0.0.1:{port}' does not answer: .*refused"):
        compare.main(replace(args, ray=f"127.0.0.1:{port}"))
    with pytest.raises(InputError, match="'head' is none of auto, local, HOST:PORT"):
        compare.main(replace(args, ray="head"))
    assert not args.out.exists()


class LostRay:
    """A Ray that answers until a cell is waited for."""

    class exceptions:
        RayError = RaySystemError = type("RaySystemError", (Exception,), {})

    def init(self, *args, **keywords):
        pass

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **keywords):
        return lambda work: SimpleNamespace(remote=lambda *args: object())

    def wait(self, *args, **keywords):
        raise ConnectionError("the client is disconnected")

    def shutdown(self):
        pass


def test_a_ray_cluster_that_is_lost_ends_in_one_sentence(args, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", LostRay())
    with pytest.raises(
        InputError, match="^the Ray cluster was lost: the client is disconnected; the same command goes"
    ):
        compare.main(replace(args, ray="auto"))


def test_a_ray_cluster_that_asks_for_a_token(args, monkeypatch):
    ray = LostRay()
    ray.init = ray.wait
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match="^Ray address 'auto' cannot be used: .*RAY_AUTH_MODE=token"):
        compare.main(replace(args, ray="auto"))


def test_without_ray(args, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "flowrl\[ray\]"'):
        compare.main(replace(args, ray="local"))
    assert not args.out.exists()

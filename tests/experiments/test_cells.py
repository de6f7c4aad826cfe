"""Cells in processes and as Ray tasks: what they compute, and what happens when one of them dies."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

import flowrl
from flowrl.errors import InputError
from flowrl.experiments import cluster
from flowrl.training.run_folder import RunFolder

REACH = "flowrl/reach/mixed-v0"
NAME = "flowrl-reach-mixed-v0"
FLOW, BC = {"flow": ("flow", {"heads": 2})}, {"bc": ("bc", {})}
LONG = {"bc": ("bc", {"steps": 3000, "log_every": 500, "evaluate_every": 0})}
TINY = {
    **{"steps": 20, "batch_size": 8, "width": 16, "layers": 1, "context": 5, "log_every": 5, "checkpoint_every": 10},
    **{"targets": ("r25", "best"), "episodes": 3, "evaluate_every": 10, "evaluate_episodes": 2},
}

pytestmark = pytest.mark.slow


@pytest.fixture
def out(reach_dataset, tmp_path):
    return tmp_path / "out"


def compare(out, agents=FLOW | BC, *, jobs=2, **options):
    """flow and bc with one seed, two at a time."""
    return flowrl.compare(REACH, agents, out=out, device="cpu", jobs=jobs, **(TINY | options))


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
    return int(re.findall(r"process (\d+): python -m flowrl train", (run.path / "train.log").read_text())[-1])


def assert_same_results(one, two):
    for cell in ("flow-seed0", "bc-seed0"):
        first, second = RunFolder(one / NAME / cell), RunFolder(two / NAME / cell)
        assert first.rows("evaluations.jsonl") == second.rows("evaluations.jsonl")
        weights, others = (run.load()["learner"]["actor"] for run in (first, second))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_one_after_the_other_gives_what_side_by_side_does(out, capfd):
    outs = [out / f"jobs{jobs}" for jobs in (1, 2)]
    for jobs, folder in enumerate(outs, start=1):
        compare(folder, jobs=jobs)
    assert_same_results(*outs)
    assert "step 20/20" in (outs[0] / NAME / "flow-seed0/train.log").read_text()
    assert "step 20/20" not in capfd.readouterr().out


def test_a_relative_folder_and_the_environment_reach_the_cells(reach_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare("here", BC)
    assert (tmp_path / "here" / NAME / "bc-seed0/checkpoint.pt").exists()


def test_a_cell_is_trained_by_this_code_wherever_it_is_started(reach_dataset, tmp_path, repository):
    """Not by packages of the same names in the working directory."""
    for package in ("flowrl", "scripts"):
        (tmp_path / package).mkdir()
        for name in ("__init__.py", "__main__.py", "train.py"):
            (tmp_path / package / name).write_text("open('imported', 'w').close()\n")
    argv = shlex.split(
        f"--datasets {REACH} --agents bc --steps 5 --targets best --evaluate-every 0 --device cpu --out out --no-study"
    )
    start = f"import os; from flowrl.scripts import compare; os.chdir({str(tmp_path)!r}); compare.start({argv})"
    subprocess.run([sys.executable, "-c", start], cwd=repository, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert (tmp_path / "out" / NAME / "bc-seed0/checkpoint.pt").exists()
    assert not (tmp_path / "imported").exists()


MINE = """
from dataclasses import dataclass
from flowrl.agents.bc import BCConfig

@dataclass(frozen=True)
class Mine(BCConfig):
    "An agent of mine."
    width: int = 8
"""


@pytest.mark.parametrize("ray", [[], ["--ray", "local"]], ids=["processes", "ray"])
def test_the_installed_command_trains_an_agent_of_the_working_directory(reach_dataset, tmp_path, repository, ray):
    """As the console script does, it begins without the working directory on the path."""
    (tmp_path / "mine.py").write_text(MINE)
    options = f"--datasets {REACH} --agents mine:Mine --steps 5 --targets best --device cpu --out out --no-study"
    argv = ["flowrl", "compare", *options.split(), *ray]
    start = f"import sys; sys.path.remove(''); sys.argv = {argv}; from flowrl.scripts.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(repository), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / NAME / "mine-Mine-seed0/evaluations.jsonl").exists()


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


def test_a_cell_that_is_killed_is_reported_and_goes_on_later(out):
    run = RunFolder(out / NAME / "bc-seed0")
    killer = kill_when_it_has_a_checkpoint(run)
    with pytest.raises(InputError) as caught:
        compare(out, LONG | FLOW)
    killer.join()
    assert str(caught.value) == (
        f"1 of 2 runs failed; the same command tries them again:\n  bc seed 0 on {REACH}: its process was killed by"
        f" SIGKILL, as the system does when memory runs out ({run.path / 'train.log'})"
    )
    assert sum(row["kind"] == "final" for row in RunFolder(out / NAME / "flow-seed0").rows("evaluations.jsonl"))
    assert (out / "report.md").exists()
    compare(out, LONG | FLOW)
    assert "goes on from step" in (run.path / "train.log").read_text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_cell_outlives_a_comparison_that_was_stopped(out, signum, repository):
    agent = "bc=bc --width 16 --layers 1 --context 5 --log-every 5 --checkpoint-every 10"
    command = [sys.executable, "-m", "flowrl.scripts.compare", "--datasets", REACH, "--agents", agent, "--seeds", "4"]
    options = shlex.split("--steps 1000000 --batch-size 8 --evaluate-every 0 --jobs 2 --targets best --device cpu")
    running = subprocess.Popen(
        [*command, *options, "--out", str(out)], cwd=repository, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    cells = [RunFolder(out / NAME / f"bc-seed{seed}") for seed in range(2)]
    wait_for(lambda: all((cell.path / "checkpoint.pt").exists() for cell in cells))
    running.send_signal(signum)
    _, said = running.communicate(timeout=60)
    wait_for(lambda: not any(map(is_locked, cells)))
    assert not (out / NAME / "bc-seed2").exists(), "the next cell was begun"
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


def test_ray_gives_what_a_process_does(reach_dataset, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare(tmp_path / "here")
    compare("there", ray=ray_cluster)
    assert_same_results(tmp_path / "here", tmp_path / "there")


def test_ray_started_for_the_comparison(out):
    compare(out, BC, ray="local")
    assert (out / NAME / "bc-seed0/checkpoint.pt").exists()


def test_what_ray_is_sent_is_a_whole_package_of_real_files(tmp_path):
    package = cluster._copied_package(tmp_path)
    assert not any(path.is_symlink() for path in package.rglob("*"))
    help_of = [sys.executable, "-m", "flowrl", "train", "flow", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(help_of, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = "import flowrl, flowrl.agents.flow, flowrl.envs, flowrl.scripts.cli; print(flowrl.agents.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(package / "agents/__init__.py")


def test_a_cell_whose_ray_worker_dies_is_tried_again(out, ray_cluster):
    run = RunFolder(out / NAME / "bc-seed0")
    killer = kill_when_it_has_a_checkpoint(run)
    compare(out, LONG, ray=ray_cluster)
    killer.join()
    assert "goes on from step" in (run.path / "train.log").read_text()


def test_a_cell_whose_ray_worker_dies_twice_has_failed(out, ray_cluster):
    run = RunFolder(out / NAME / "bc-seed0")
    killer = kill_when_it_has_a_checkpoint(run, times=2)
    with pytest.raises(
        InputError, match="\n  bc seed 0 on .*: its Ray worker failed 2 times, the last time with: .*log"
    ):
        compare(out, LONG | FLOW, ray=ray_cluster)
    killer.join()
    assert (out / "report.md").exists()


def test_a_mistake_in_a_ray_task_is_reported_and_not_tried_again(out, ray_cluster):
    run = out / NAME / "bc-seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{")
    with pytest.raises(InputError, match="\n  bc seed 0 on .*config.json is damaged"):
        compare(out, BC, ray=ray_cluster)
    assert (run / "train.log").read_text().count("is damaged") == 1


def test_a_ray_address_that_does_not_answer(out, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match=f"^Ray address 'ray://127.0.0.1:{port}' does not answer as Ray does$"):
            compare(out, ray=f"ray://127.0.0.1:{port}")
    with pytest.raises(InputError, match=f"^Ray address '127.0.0.1:{port}' does not answer: .*refused"):
        compare(out, ray=f"127.0.0.1:{port}")
    with pytest.raises(InputError, match="'head' must be auto, local, HOST:PORT"):
        compare(out, ray="head")
    assert not out.exists()


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


def test_a_ray_cluster_that_is_lost_ends_in_one_sentence(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", LostRay())
    with pytest.raises(
        InputError, match="^the Ray cluster was lost: the client is disconnected; the same command goes"
    ):
        compare(out, ray="auto")


def test_a_ray_cluster_that_asks_for_a_token(out, monkeypatch):
    ray = LostRay()
    ray.init = ray.wait
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match="^Ray address 'auto' cannot be used: .*RAY_AUTH_MODE=token"):
        compare(out, ray="auto")


def test_without_ray(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "flowrl\[ray\]"'):
        compare(out, ray="local")
    assert not out.exists()

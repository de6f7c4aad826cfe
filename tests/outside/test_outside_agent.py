"""An agent of another package, named on the command line, has everything that the agents of flowrl have."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import flowrl
from flowrl.errors import InputError
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.training.run_folder import RunFolder

HERE = Path(__file__).parent
AGENT = "my_actor_critic:ActorCriticConfig"
REACH = "flowrl/reach/mixed-v0"
TINY = [
    "--dataset",
    REACH,
    "--batch-size",
    "16",
    "--episodes",
    "4",
    "--width",
    "16",
    "--device",
    "cpu",
    "--threads",
    "1",
]


@pytest.fixture(scope="session")
def larger_reach(tmp_path_factory):
    """A Minari root that holds 6,000 steps of Reach."""
    root = tmp_path_factory.mktemp("larger")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        from flowrl.envs.collecting import collect

        collect(REACH, steps=6_000)
    return root


@pytest.fixture
def module(monkeypatch):
    """The agent's module can be imported."""
    monkeypatch.syspath_prepend(str(HERE))


def flowrl_command(*words, folder):
    """A command line, started where the agent's module is."""
    shutil.copy(HERE / "my_actor_critic.py", folder)
    return subprocess.Popen(
        [sys.executable, "-m", "flowrl", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def same(one, two):
    """Whether two nested states hold the same bits."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.slow
def test_it_learns_reach_to_nine_tenths_of_the_optimum(larger_reach, module, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(larger_reach))
    run = flowrl.train(
        AGENT, dataset=REACH, steps=1_500, batch_size=128, episodes=50, evaluate_every=0, run_dir=tmp_path / "run"
    )
    rows = RunFolder(run).rows("evaluations.jsonl")
    # Played once, not once for each of the two targets.
    assert [(row["target"], row["seed"]) for row in rows] == [(None, 10_000 + i) for i in range(50)]
    optimum = reference_scores("flowrl/Reach-v0").flowrl.expert
    assert sum(row["return"] for row in rows) / 50 > 0.9 * optimum
    metrics = RunFolder(run).rows("metrics.jsonl")[0]
    assert {"train/critic_loss", "train/actor_loss"} <= metrics.keys()
    policy = flowrl.load_policy(run)
    policy.reset(0.0)
    assert policy.act([3.0, -3.0, 1.0]).shape == (2,)


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_bits(reach_dataset, tmp_path):
    words = ["train", AGENT, *TINY, "--steps", "3001", "--checkpoint-every", "100", "--log-every", "100"]
    killed = flowrl_command(*words, "--run-dir", "run", folder=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 100 <= RunFolder(tmp_path / "run").load()["step"] < 3001
    outputs = [flowrl_command(*words, "--run-dir", name, folder=tmp_path).communicate()[0] for name in ("run", "whole")]
    assert "goes on from step" in outputs[0]
    resumed, whole = (RunFolder(tmp_path / name).load() for name in ("run", "whole"))
    assert resumed["step"] == 3001
    assert {"actor", "critics", "target_actor", "target_critics"} <= resumed["learner"].keys()
    for part in ("learner", "sampler", "generators", "metrics"):
        assert same(resumed[part], whole[part]), part


@pytest.mark.slow
def test_it_is_compared_with_bc_in_a_matrix(reach_dataset, tmp_path):
    words = ["--datasets", REACH, "--agents", f"ac={AGENT} --width 16", "b=bc --width 16", "--seeds", "2"]
    few = ["--steps", "20", "--episodes", "4", "--evaluate-every", "0", "--no-study", "--out", "out"]
    process = flowrl_command("compare", *words, *few, folder=tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    (comparison,) = json.loads((tmp_path / "out" / "results.json").read_text())["comparisons"]
    assert {(run["agent"], run["seed"]) for run in comparison["runs"]} == {(a, s) for a in ("ac", "b") for s in (0, 1)}
    assert all(len(run["episodes"]) == 4 for run in comparison["runs"])
    # At each of the comparison's targets, over both training seeds.
    assert [row["seeds"] for row in comparison["differences"]] == [2] * 7


@pytest.mark.parametrize("name", ["nowhere:Config", "my_actor_critic:Nothing", "my_actor_critic:Critics", "os:path"])
def test_a_name_that_is_no_agent_is_refused(module, name):
    with pytest.raises(InputError, match=name):
        flowrl.train(name)


def test_an_agent_may_be_a_preset(module, tmp_path, reach_dataset, monkeypatch):
    import my_actor_critic

    from flowrl.agents import Preset
    from flowrl.training.config import TrainingConfig

    preset = Preset("small", my_actor_critic.ActorCriticConfig(width=8), TrainingConfig(steps=4, batch_size=8))
    monkeypatch.setattr(my_actor_critic, "SMALL", preset, raising=False)
    run = flowrl.train("my_actor_critic:SMALL", dataset=REACH, episodes=2, run_dir=tmp_path / "run")
    config = RunFolder(run).config()
    assert (config["training"]["steps"], config["agent_config"]["width"]) == (4, 8)
    assert flowrl.load_policy(run) is not None


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_every_loss(reach_dataset, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flowrl"]
    words = ["train", AGENT, *TINY, "--steps", "6", "--log-every", "6"]
    shutil.copy(HERE / "my_actor_critic.py", tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *words, "--run-dir", "two"], cwd=tmp_path, check=True, env=environment)
    flowrl_command(*words, "--run-dir", "one", folder=tmp_path).communicate()
    one, two = (RunFolder(tmp_path / name).load()["learner"] for name in ("one", "two"))
    for part in ("actor", "critics", "target_critics"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-4, atol=1e-6)


def test_an_option_of_the_name_of_another_is_refused(module, monkeypatch):
    import my_actor_critic

    @dataclass(frozen=True)
    class Clashing(my_actor_critic.ActorCriticConfig):
        steps: int = 3

    monkeypatch.setattr(my_actor_critic, "Clashing", Clashing, raising=False)
    with pytest.raises(InputError, match="option steps"):
        flowrl.train("my_actor_critic:Clashing")

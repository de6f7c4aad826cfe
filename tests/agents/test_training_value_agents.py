"""Agents with critics in the training loop: repeatable, killed and resumed to the same bits, in bf16, in processes."""

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_problems import AGENTS, BACKBONES, CPU, DISCRETE, batches, built, line, small, walk

import flowrl
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig
from flowrl.training.device import isolated_rng
from flowrl.training.loop import train
from flowrl.training.run_folder import RunFolder

CONFIG = TrainingConfig(steps=12, batch_size=16, log_every=5, checkpoint_every=4)
# What has a state of its own: an averaged actor, a schedule, an actor that is trained at some steps alone.
SETTINGS = {"average_actor": True, "actor_schedule": "cosine", "lower_bound": True, "n_step": 2, "width": 16}
EVERY = [(agent, False) for agent in AGENTS] + [(agent, True) for agent in DISCRETE]


class Dead(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def trained(agent, folder, config=CONFIG, *, discrete=False, dies_at=0, **settings):
    """The learner after training in `folder`, which may hold a run to go on with."""

    def die(step, tracker):
        if step == dies_at:
            raise Dead

    dataset = walk(20) if discrete else line(10, 7)
    folder.mkdir(exist_ok=True)
    with isolated_rng(0, CPU):
        learner = small(agent, **(SETTINGS | settings)).build(Normaliser.of(dataset), config, CPU)
        train(learner, dataset, config, RunFolder(folder), seed=0, name="test", evaluate=die, evaluate_every=1)
    return learner


def metrics(folder):
    """The rows of metrics.jsonl without the speeds."""
    rows = RunFolder(folder).rows("metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in ("steps_per_second", "cpu_seconds")} for row in rows
    ]


def differences(one, two, path=""):
    """Where two trees of dicts, lists, tensors and plain values differ."""
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [path]
        return [place for key in one for place in differences(one[key], two[key], f"{path}.{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, two, strict=True))
        return [place for index, (a, b) in pairs for place in differences(a, b, f"{path}[{index}]")]
    same = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    return [] if same else [path]


@pytest.mark.parametrize(("agent", "discrete"), EVERY)
@pytest.mark.parametrize("dies_at", [5, 11])
def test_a_run_that_died_and_goes_on_ends_in_the_same_bits(agent, discrete, dies_at, tmp_path):
    with pytest.raises(Dead):
        trained(agent, tmp_path / "a", discrete=discrete, dies_at=dies_at)
    assert RunFolder(tmp_path / "a").load()["step"] == (dies_at - 1) // 4 * 4
    resumed = trained(agent, tmp_path / "a", discrete=discrete)
    whole = trained(agent, tmp_path / "b", discrete=discrete)
    one, two = (RunFolder(tmp_path / name).load() for name in "ab")
    assert not differences(one, two)
    assert not differences(resumed.state_dict(), whole.state_dict())
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize(("agent", "discrete"), EVERY)
def test_the_state_holds_everything_that_training_changes(agent, discrete, tmp_path):
    """Every tensor of the learner that a step changes is back when its state is."""
    learner = trained(agent, tmp_path / "a", discrete=discrete)
    other = trained(agent, tmp_path / "b", replace(CONFIG, steps=1), discrete=discrete)
    other.load_state_dict(RunFolder(tmp_path / "a").load()["learner"])
    mine, its = (everything(one) for one in (learner, other))
    assert mine.keys() == its.keys()
    assert len(mine) > 20
    for name in mine:
        assert torch.equal(mine[name], its[name]), name


def everything(learner):
    """All tensors that hang on the learner, by where they are."""
    tensors = {}
    for name, part in vars(learner).items():
        if isinstance(part, torch.nn.Module):
            tensors |= {f"{name}.{inner}": tensor for inner, tensor in part.state_dict().items()}
        elif isinstance(part, torch.optim.Optimizer):
            for number, state in part.state_dict()["state"].items():
                tensors |= {f"{name}.{number}.{inner}": tensor for inner, tensor in state.items()}
        elif isinstance(part, torch.Tensor):
            tensors[name] = part
        elif isinstance(part, torch.Generator):
            tensors[name] = part.get_state()
    return tensors


@pytest.mark.parametrize(("agent", "discrete"), EVERY)
def test_bfloat16_trains_near_float32(agent, discrete, tmp_path):
    config = replace(CONFIG, log_every=4)
    for name, precision in (("a", "fp32"), ("b", "bf16")):
        trained(agent, tmp_path / name, replace(config, precision=precision), discrete=discrete)
    exact, rounded = (metrics(tmp_path / name) for name in "ab")
    assert exact != rounded
    for one, two in zip(exact, rounded, strict=True):
        assert two["train/critic_loss"] == pytest.approx(one["train/critic_loss"], rel=0.1, abs=0.01)
        assert two["train/value"] == pytest.approx(one["train/value"], rel=0.1, abs=0.03)
    state = RunFolder(tmp_path / "b").load()["learner"]
    for part in ("actor", "critics", "target_critics"):
        assert {tensor.dtype for tensor in state[part].values()} == {torch.float32}


@pytest.mark.parametrize(("agent", "discrete"), EVERY)
def test_in_bfloat16_every_weight_is_trained(agent, discrete):
    """Autocast keeps its copies of weights, in some versions of torch even those that were made without gradients."""
    dataset = walk(20) if discrete else line(10, 7)
    learner = built(small(agent), dataset, batch_size=64, steps=2, precision="bf16")
    named = ("policy", "critics", "state_value", "velocity")
    networks = {name: part for name in named if (part := getattr(learner, name, None)) is not None}
    assert len(networks) == (3 if agent in ("iql", "fql") else 2)
    before = copy.deepcopy({name: dict(part.named_parameters()) for name, part in networks.items()})
    for batch, step in batches(learner, dataset, 2):
        learner.update(batch, step)
    for name, part in networks.items():
        for weight, after in part.named_parameters():
            changed = (after != before[name][weight]).double().mean()
            assert changed > 0.5, f"{name}.{weight}"  # a unit that is off for the whole batch is not trained


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """All agents in one launch; the noise is drawn for the whole batch, so that it is the same."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, __file__, str(tmp_path / "two")], check=True, env=environment)
    train_every_agent(tmp_path / "one")
    for name, _ in every_training():
        one, two = (RunFolder(tmp_path / number / name).load()["learner"] for number in ("one", "two"))
        for part in ("actor", "policy", "critics", "target_critics"):
            for weight, tensor in one[part].items():
                # Adam makes up to its rate of a rounding in a gradient near 0: the rate is 3e-3.
                torch.testing.assert_close(
                    two[part][weight], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, p=(name, part): f"{p}: {m}"
                )
        assert torch.equal(one["generator"], two["generator"])
        rows = [metrics(tmp_path / number / name)[0] for number in ("one", "two")]
        assert rows[0].keys() == rows[1].keys()
        assert list(rows[1].values()) == pytest.approx(list(rows[0].values()), rel=1e-3, abs=1e-4)


def every_training():
    """Every agent, and actors that look back, by name."""
    for agent, discrete in EVERY:
        yield f"{agent}-{discrete}", {"agent": agent, "discrete": discrete}
    for agent, backbone, first in (("rebrac", "windows", 0), ("iql", "chunks", 0), ("rebrac", "episodes", 3)):
        yield f"{agent}-{backbone}-{first}", {"agent": agent, "critics_first": first} | BACKBONES[backbone]


def train_every_agent(folder):
    folder.mkdir(exist_ok=True)
    for name, settings in every_training():
        trained(folder=folder / name, config=replace(CONFIG, steps=6), **settings)


TINY = [
    "--dataset",
    "flowrl/reach/mixed-v0",
    "--batch-size",
    "16",
    "--episodes",
    "4",
    "--width",
    "16",
    "--threads",
    "1",
]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["td3-bc", "fql"])
def test_killed_with_signal_9_and_resumed_it_ends_in_the_same_bits(agent, reach_dataset, tmp_path):
    words = [sys.executable, "-m", "flowrl", "train", agent, *TINY, "--layers", "1", "--device", "cpu"]
    words += ["--steps", "601", "--checkpoint-every", "50", "--log-every", "50", "--no-study"]
    killed = subprocess.Popen(
        [*words, "--run-dir", "run"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 50 <= RunFolder(tmp_path / "run").load()["step"] < 601
    for name in ("run", "whole"):
        subprocess.run([*words, "--run-dir", name], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    resumed, whole = (RunFolder(tmp_path / name).load() for name in ("run", "whole"))
    for part in ("step", "learner", "sampler", "generators", "metrics"):
        assert not differences(resumed[part], whole[part])


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_from_its_name_is_played_again(agent, reach_dataset, tmp_path):
    """Played once, not once for each target; loaded it acts within the bounds, the same after each reset."""
    options = {"steps": 3, "batch_size": 16, "width": 16, "layers": 1, "episodes": 2, "device": "cpu", "threads": 1}
    run = flowrl.train(agent, dataset=reach_dataset, run_dir=tmp_path / "run", **options)
    assert [(row["target"], row["seed"]) for row in RunFolder(run).rows("evaluations.jsonl")] == [
        (None, 10_000),
        (None, 10_001),
    ]
    policy, played = flowrl.load_policy(run), []
    for _ in range(2):
        policy.reset()
        played.append([policy.act([3.0, -3.0, 1.0]) for _ in range(3)])
        assert all((-2.0 <= x <= 3.0) and (-1.0 <= y <= 2.0) for x, y in played[-1])
    for one, two in zip(*played, strict=True):
        assert one.tolist() == two.tolist()


if __name__ == "__main__":
    from flowrl.training import distributed

    torch.set_num_threads(1)
    with distributed.group():
        train_every_agent(Path(sys.argv[1]))
    distributed.leave()

"""Detour's stretches: agents with values walk the whole way, which no episode shows; imitation of any kind does not."""

import json

import numpy as np
import pytest

import flowrl
from flowrl.data.dataset import TrajectoryDataset
from flowrl.envs.collecting import collect

STRETCHES = "flowrl/detour/stretches-v0"
EPISODES = 50
VALUES = {
    "awac": {"gamma": 0.95, "temperature": 1 / 30},
    "iql": {"gamma": 0.95, "beta": 30.0},
    "td3-bc": {"gamma": 0.95},
    # The preset's weights are those of robots: here they keep it from arriving.
    "rebrac": {"gamma": 0.95, "actor_cloning": 0.05, "critic_cloning": 0.01, "actor_schedule": "constant"},
}
SEQUENCES = {"context": 6, "layers": 1, "heads": 2, "warmup_steps": 100, "learning_rate": 1e-3}  # 6: whole episodes
IMITATION = {"10 % BC": {"top_fraction": 0.1}, "flow": SEQUENCES, "dt": SEQUENCES}


@pytest.fixture(scope="module")
def stretches(tmp_path_factory):
    """The dataset, in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("stretches")))
        collect(STRETCHES)
        return TrajectoryDataset.from_minari(STRETCHES)


def arrived(agent, dataset, run_dir, updates, **options):
    """Of `EPISODES` from where evaluation starts, the share that reaches the goal, for the best target return."""
    same = {"width": 64, "batch_size": 256, "steps": updates, "checkpoint_every": updates, "evaluate_every": 0}
    run = flowrl.train(
        agent, dataset=dataset, run_dir=run_dir, episodes=EPISODES, device="cpu", seed=0, **(same | options)
    )
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    returns = {}
    for row in rows:
        returns.setdefault(row["target"], []).append(row["return"])
    assert {len(each) for each in returns.values()} == {EPISODES}
    return max(np.mean(each) for each in returns.values())


@pytest.mark.slow
def test_awac_arrives_where_cloning_does_not(stretches, tmp_path):
    """At the same number of updates with as many transitions each."""
    assert arrived("awac", stretches, tmp_path / "awac", 1_500, **VALUES["awac"]) >= 0.9
    assert arrived("bc", stretches, tmp_path / "bc", 1_500, context=1) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(VALUES.keys() - {"awac"}))
def test_values_arrive(agent, stretches, tmp_path):
    assert arrived(agent, stretches, tmp_path / "run", 2_000, **VALUES[agent]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", IMITATION)
def test_imitation_does_not_arrive(name, stretches, tmp_path):
    """64 windows hold more transitions than a batch of the agents above."""
    agent = "bc" if name == "10 % BC" else name
    assert arrived(agent, stretches, tmp_path / "run", 1_500, batch_size=64, **IMITATION[name]) <= 0.1

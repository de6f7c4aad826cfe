"""An agent that sees the cue turns by its target return; one whose context has passed it is left to chance."""

import json
from math import comb

import pytest

from flowrl.envs.corridor import corridor_spec
from flowrl.evaluation.environments import make_env
from flowrl.scripts import collect, train

EPISODES = 200
# A turn that is independent of the cue is right in each episode with probability 1/2, whatever else it depends on. Less
# than 62 or more than 138 of 200 are right with probability 3.5e-8.
LEAST, MOST = 62, 138


def balanced_seed():
    """The first seed from which 200 consecutive ones give each cue 100 times: then a fixed turn gets 1/2 exactly."""
    env = make_env(corridor_spec(10))
    cues = [env.reset(seed=seed)[0][0] for seed in range(2_000)]
    return next(first for first in range(2_000) if sum(cues[first : first + EPISODES]) == 0)


def right_turns(agent, length, run_dir, *options):
    """Collect, train, evaluate: how many of 200 turns go where the cue pointed, by target return."""
    dataset = f"flowrl/corridor/length-{length}-v0"
    collect.main(collect.Args(dataset, if_missing=True))
    train.start([
        agent, "--dataset", dataset, "--run-dir", str(run_dir), "--device", "cpu",
        "--width", "32", "--layers", "2", "--heads", "2", "--dropout", "0",
        "--learning-rate", "3e-3", "--warmup-steps", "20", "--log-every", "50",
        "--targets", "1", "0", "--episodes", str(EPISODES), "--episode-seed", str(balanced_seed()), *options,
    ])  # fmt: skip
    rows = [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    assert {row["length"] for row in rows} == {length}
    return {target: sum(row["return"] for row in rows if row["target"] == target) for target in (1.0, 0.0)}


def test_the_bound_is_rarely_passed_by_chance():
    outside = sum(comb(EPISODES, right) for right in range(LEAST)) * 2 / 2**EPISODES
    assert outside < 1e-7
    assert LEAST + MOST == EPISODES


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["dt", "flow"])
def test_a_context_that_holds_the_cue_is_steered_both_ways(agent, tmp_path):
    right = right_turns(agent, 10, tmp_path / "run", "--context", "10", "--windows", "full", "--steps", "300")
    assert right[1.0] >= 0.95 * EPISODES
    assert right[0.0] <= 0.05 * EPISODES


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["dt", "flow"])
def test_whole_episodes_reach_as_far_as_the_cue(agent, tmp_path):
    right = right_turns(agent, 20, tmp_path / "run", "--context", "episode", "--batch-size", "32", "--steps", "400")
    assert right[1.0] >= 0.95 * EPISODES
    assert right[0.0] <= 0.05 * EPISODES


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["dt", "flow"])
def test_a_context_that_has_passed_the_cue_is_left_to_chance(agent, tmp_path):
    right = right_turns(agent, 20, tmp_path / "run", "--context", "5", "--steps", "200")
    assert LEAST <= right[1.0] <= MOST
    assert LEAST <= right[0.0] <= MOST

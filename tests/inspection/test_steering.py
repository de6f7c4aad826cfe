"""Verdicts on data that are made to deserve them."""

from dataclasses import replace

import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.stored_arrays import StoredArrays
from flowrl.inspection.steering import judge_steering, regression_gain

NONE = {"own": None, "dataset": None, "D4RL": None}


def made_dataset(skill_of_episode, act, lengths=(30,) * 60, seed=0):
    """Episodes whose every reward is their skill, plus luck; `act(observations, skill, generator)` gives actions."""
    generator = np.random.default_rng(seed)
    observations, actions, rewards = [], [], []
    for episode, length in enumerate(lengths):
        skill = skill_of_episode(episode, generator)
        observed = generator.normal(size=(length + 1, 3))
        observations.append(observed)
        actions.append(act(observed[:-1], skill, generator))
        rewards.append(skill + 0.1 * generator.normal(size=length))
    arrays = StoredArrays(
        np.concatenate(observations).astype(np.float32),
        np.concatenate(actions).astype(np.float32),
        np.concatenate(rewards).astype(np.float32),
        np.zeros(sum(lengths), bool),
        np.zeros(sum(lengths), bool),
        np.array(lengths),
    )
    return TrajectoryDataset.from_stored_arrays(
        "made", arrays, action_low=np.full(2, -9.0), action_high=np.full(2, 9.0)
    )


def by_skill(observed, skill, generator):
    return skill * np.tanh(observed[:, :2]) + 0.3 * generator.normal(size=(len(observed), 2))


def by_observation(observed, skill, generator):
    return np.tanh(observed[:, :2]) + 0.3 * generator.normal(size=(len(observed), 2))


def mixed_skill(episode, generator):
    return episode % 3 / 2


def steered(*arguments, references=NONE, **keywords):
    return judge_steering(made_dataset(*arguments, **keywords), references, np.random.default_rng(0))


def test_actions_that_depend_on_the_return_can_be_steered():
    found = steered(mixed_skill, by_skill)
    assert found.verdict == "yes", found.sentence
    assert found.everywhere.low > 0.1
    assert found.low_episodes + found.high_episodes == 60
    assert min(found.low_episodes, found.high_episodes) >= 20
    assert found.scale_name.startswith("the mean size")
    assert found == steered(mixed_skill, by_skill), "the same seed says the same"


@pytest.mark.parametrize("seed", range(5))
def test_luck_cannot_be_steered(seed):
    found = steered(mixed_skill, by_observation, seed=seed)
    # From 60 episodes, it may stay open; never is it a yes.
    assert any(part in found.sentence for part in ("the actions hardly differ", "is open")), found.sentence
    assert found.everywhere.low <= 0
    assert found.start.low <= 0
    assert abs(found.everywhere.gain) < 0.005
    assert found.everywhere.explained > 0.6


def test_a_narrow_band_cannot_be_steered():
    found = steered(mixed_skill, by_skill, references={"own": (0.0, 10_000.0), "D4RL": (0.0, 1.0)})
    assert found.verdict == "no"
    assert "too much alike" in found.sentence
    assert found.scale == 10_000, "the first reference that is known gives the scale"
    assert found.densest_band == 1.0


def test_little_difference_or_few_on_one_side_is_weak():
    found = steered(mixed_skill, by_skill, references={"own": (0.0, 200.0)})
    assert found.verdict == "weakly", found.sentence
    lengths = (10,) * 40 + (300, 300)
    found = steered(lambda episode, _: float(episode >= 40), by_skill, lengths=lengths)
    assert found.verdict == "weakly", found.sentence
    assert found.high_episodes == 2
    assert "too few on one side" in found.sentence or "Uncertain" in found.sentence


def test_few_episodes_equal_returns_and_still_actions():
    assert "too few" in steered(mixed_skill, by_skill, lengths=(30,) * 5).sentence
    dataset = made_dataset(mixed_skill, by_skill)
    for change in ({"returns": dataset.returns * 0 + 1}, {"actions": dataset.actions * 0}):
        assert judge_steering(replace(dataset, **change), NONE, np.random.default_rng(0)).verdict == "no"
    assert regression_gain(replace(dataset, actions=dataset.actions * 0), np.random.default_rng(0)) is None

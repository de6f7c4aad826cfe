"""Each verdict on data that call for it."""

from dataclasses import replace

import numpy as np
import pytest

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.stored_arrays import StoredArrays
from flowrl.inspection.regression import regression_gain
from flowrl.inspection.steering import judge_steering

NONE = {"flowrl": None, "dataset": None, "D4RL": None}


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
    steering = steered(mixed_skill, by_skill)
    assert steering.verdict == "yes", steering.sentence
    assert steering.everywhere.low > 0.1
    assert steering.spread.low_episodes + steering.spread.high_episodes == 60
    assert min(steering.spread.low_episodes, steering.spread.high_episodes) >= 20
    assert steering.spread.scale_name.startswith("the mean size")
    assert steering == steered(mixed_skill, by_skill), "the same seed says the same"


@pytest.mark.parametrize("seed", range(5))
def test_luck_cannot_be_steered(seed):
    steering = steered(mixed_skill, by_observation, seed=seed)
    # From 60 episodes, it may stay open; it is never a yes.
    assert steering.verdict == "no" or steering.sentence.startswith("Uncertain"), steering.sentence
    assert steering.everywhere.low <= 0
    assert steering.start.low <= 0
    assert abs(steering.everywhere.gain) < 0.005
    assert steering.everywhere.explained > 0.6


def test_a_narrow_band_cannot_be_steered():
    steering = steered(mixed_skill, by_skill, references={"flowrl": (0.0, 10_000.0), "D4RL": (0.0, 1.0)})
    assert steering.verdict == "no"
    assert "too much alike" in steering.sentence
    assert steering.spread.scale == 10_000, "the first reference that is known gives the scale"
    assert steering.spread.densest_band == 1.0


def test_little_difference_or_few_on_one_side_is_weak():
    steering = steered(mixed_skill, by_skill, references={"flowrl": (0.0, 200.0)})
    assert steering.verdict == "weakly", steering.sentence
    lengths = (10,) * 40 + (300, 300)
    steering = steered(lambda episode, _: float(episode >= 40), by_skill, lengths=lengths)
    assert steering.verdict == "weakly", steering.sentence
    assert steering.spread.high_episodes == 2


def test_few_episodes_equal_returns_and_still_actions():
    assert "too few" in steered(mixed_skill, by_skill, lengths=(30,) * 5).sentence
    dataset = made_dataset(mixed_skill, by_skill)
    for change in ({"returns": dataset.returns * 0 + 1}, {"actions": dataset.actions * 0}):
        assert judge_steering(replace(dataset, **change), NONE, np.random.default_rng(0)).verdict == "no"
    assert regression_gain(replace(dataset, actions=dataset.actions * 0), np.random.default_rng(0)) is None

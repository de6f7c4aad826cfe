"""One reward that was flipped among many is found and named; rounding and drift are not taken for faults."""

import shutil

import h5py
import numpy as np
import pytest

from flowrl.data.fingerprint_file import NAME
from flowrl.data.minari_store import open_dataset
from flowrl.inspection import inspect_dataset
from flowrl.inspection.answers import answers
from flowrl.inspection.reward_check import Paid, RewardCheck, check_outliers, check_rewards
from flowrl.inspection.simulator import check_alignment


def aligned(dataset_id, transitions):
    dataset = open_dataset(dataset_id)
    return check_alignment(dataset, dataset.env_spec, transitions, np.random.default_rng(0))


@pytest.fixture
def replayed():
    """Stored and replayed rewards (50,), and errors of the observations (51,)."""
    rewards = np.random.default_rng(0).normal(size=50) * 3
    return rewards, rewards.copy(), np.zeros(51)


def flipped(value: float, bit: int) -> float:
    """A float64 with one bit changed."""
    return (np.array(value).view(np.uint64) ^ np.uint64(1 << bit)).view(np.float64).item()


@pytest.mark.parametrize("bit", [63, 62, 52, 51, 48, 40, 36])
@pytest.mark.parametrize("step", [0, 17, 49])
def test_a_flipped_bit_is_found_at_its_step(replayed, bit, step):
    stored, paid, errors = replayed
    stored[step] = flipped(stored[step], bit)
    check = check_rewards(7, stored, paid, errors)
    assert check.checked == 50
    assert check.few
    assert [(fault.episode, fault.step) for fault in check.faults] == [(7, step)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found(replayed, value):
    stored, paid, errors = replayed
    stored[3] = value
    assert [fault.step for fault in check_rewards(0, stored, paid, errors).faults] == [3]


def test_rounding_and_drift_are_no_faults(replayed):
    stored, paid, errors = replayed
    assert not check_rewards(0, stored.astype(np.float32), paid, errors).faults
    assert not check_rewards(0, stored * 1e6, (paid * 1e6).astype(np.float32), errors).faults, "relative to their size"
    drift = np.geomspace(1e-15, 10, 51)  # another build of the simulator
    check = check_rewards(0, stored + 20 * drift[1:], paid, drift)
    assert not check.faults
    assert 0 < check.checked < 50, "what follows the divergence is another episode"
    assert not check_rewards(0, stored + 1.0, paid, np.full(51, np.nan)).checked


def test_another_way_to_reward_is_not_a_few_faults(replayed):
    stored, paid, errors = replayed
    assert not check_rewards(0, stored + 1.0, paid, errors).few
    assert not RewardCheck(50).few


def test_an_outlier_among_transitions_is_beyond_what_is_usual_there():
    generator = np.random.default_rng(0)
    rewards = generator.normal(size=100)
    hidden = generator.uniform(-0.2, 0.2, 100)  # as Ant's, by a state that no observation shows
    compared = [
        (Paid(1, step, float(r + h), float(r)), 1e-9) for step, (r, h) in enumerate(zip(rewards, hidden, strict=True))
    ]
    assert not check_outliers(compared).faults
    compared[5] = (Paid(1, 5, 9.0, 0.5), 1e-9)
    assert [fault.step for fault in check_outliers(compared).faults] == [5]
    exact = [(Paid(1, step, float(r), float(r)), 1e-9) for step, r in enumerate(rewards)]
    exact[9] = (Paid(1, 9, -float(rewards[9]), float(rewards[9])), 1e-9)
    assert [fault.step for fault in check_outliers(exact).faults] == [9]


def flip_sign(folder, episode, step):
    with h5py.File(folder / "data/main_data.hdf5", "r+") as file:
        file[f"episode_{episode}/rewards"][step] *= -1
        return file[f"episode_{episode}/rewards"][step]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_inspect_names_a_flipped_reward(place, reach_dataset, minari_root):
    folder = minari_root / reach_dataset
    episode = {"first": 0, "middle": 17, "last": len(open_dataset(reach_dataset)) - 1}[place]
    value = flip_sign(folder, episode, 1)
    assert value != 0
    refused = inspect_dataset(reach_dataset)
    assert "fingerprint" in refused.refused[0]
    (folder / "data" / NAME).unlink()
    for inspection in (refused, inspect_dataset(reach_dataset)):
        assert inspection.alignment.verdict == "faulty rewards"
        assert f"episode {episode}, step 1: {value:.6g} instead of {-value:.6g}" in inspection.alignment.sentence
        assert f"1 of {inspection.statistics.steps:,} rewards" in inspection.alignment.sentence
        assert any("faulty rewards" in warning for warning in inspection.warnings)
        assert answers(inspection)[2].tone == "bad"


def test_sound_rewards_are_said_to_be_so(reach_dataset):
    alignment = aligned(reach_dataset, 60)
    assert alignment.verdict == "aligned"
    assert alignment.seeded.reward_check == RewardCheck(alignment.seeded.steps)
    assert f"All {alignment.seeded.steps:,} rewards" in alignment.sentence


def test_without_seeds_the_transitions_that_are_drawn_are_compared(reach_dataset, changed):
    def flip(observations, actions, rewards):
        return observations, actions, np.where(np.arange(len(rewards)) == 0, rewards + flip.by.pop(), rewards)

    source = open_dataset(reach_dataset)
    flip.by = [0.0] * len(source)
    flip.by[4] = 0.5
    alignment = aligned(changed(source, flip), 200)
    assert alignment.seeded is None
    assert alignment.verdict == "faulty rewards"
    assert f"episode {len(source) - 5}, step 0" in alignment.sentence


@pytest.mark.slow
def test_a_flipped_reward_of_hopper(hopper_dataset, minari_root):
    folder = minari_root / "test/hopper-v0"
    shutil.copytree(hopper_dataset, folder)
    sound = aligned(str(folder), 60)
    assert sound.verdict == "aligned", sound.sentence
    flip_sign(folder, 0, 40)
    alignment = aligned(str(folder), 60)
    assert alignment.verdict == "faulty rewards", alignment.sentence
    assert "episode 0, step 40" in alignment.sentence

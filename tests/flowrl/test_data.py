"""The arrays of a dataset, its returns-to-go, its statistics and its fingerprint, against figures made by hand."""

from dataclasses import fields, replace

import minari
import numpy as np
import pytest
import torch

from flowrl.data import Normaliser, TrajectoryDataset
from flowrl.errors import InputError
from flowrl.stored_arrays import StoredArrays

BOUNDS = {"action_low": np.array([-2.0, -1.0]), "action_high": np.array([3.0, 2.0])}


def by_hand(**changes):
    """Two episodes of 3 and 2 steps."""
    arrays = StoredArrays(
        observations=np.array([[0, 5], [1, 5], [2, 5], [3, 5], [10, 5], [11, 5], [12, 5]], np.float32),
        actions=np.array([[0, 0], [1, 1], [2, 0], [3, 1], [-2, -1]], np.float32),
        rewards=np.array([1, 2, 3, 10, 20], np.float32),
        terminations=np.array([False, False, True, False, False]),
        truncations=np.array([False, False, False, False, True]),
        lengths=np.array([3, 2]),
    )
    return replace(arrays, **changes)


def load(arrays, **bounds):
    return TrajectoryDataset.from_arrays("by-hand", arrays, **(BOUNDS | bounds))


def test_two_episodes_by_hand():
    dataset = load(by_hand())
    assert dataset.returns_to_go.tolist() == [6, 5, 3, 30, 20]
    assert dataset.returns.tolist() == [6, 30]
    assert dataset.timesteps.tolist() == [0, 1, 2, 0, 1]
    assert dataset.starts.tolist() == [0, 3]
    assert dataset.ends.tolist() == [3, 3, 3, 5, 5]
    assert dataset.lengths.tolist() == [3, 2]
    assert dataset.terminated.tolist() == [True, False]
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 10, 11]
    assert dataset.final_observations[:, 0].tolist() == [3, 12]
    assert (dataset.episodes, dataset.steps) == (2, 5)
    assert dataset.action_low.tolist() == [-2, -1]
    assert dataset.action_high.tolist() == [3, 2]
    for field in fields(dataset):
        value = getattr(dataset, field.name)
        if isinstance(value, torch.Tensor):
            whole = torch.bool if field.name == "terminated" else torch.int64
            index = field.name in ("timesteps", "ends", "starts", "lengths", "terminated")
            assert value.dtype == (whole if index else torch.float32), field.name


def test_returns_to_go_lose_no_digits_over_a_large_dataset(random_arrays):
    lengths = [200] * 200
    arrays = random_arrays(lengths)
    rewards = np.random.default_rng(1).uniform(0, 10, sum(lengths)).astype(np.float32)
    dataset = load(replace(arrays, rewards=rewards))
    backwards = rewards.reshape(200, 200).astype(np.float64)[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(dataset.returns_to_go.numpy(), backwards.ravel(), rtol=2e-7)
    np.testing.assert_array_equal(dataset.returns_to_go.numpy()[199::200], rewards[199::200])


def test_observations_stay_beside_their_actions_to_the_last_episode(write, numbered_episode):
    lengths = [4, 1, 6, 3]
    write("test/numbered-v0", [numbered_episode(e, length) for e, length in enumerate(lengths)])
    dataset = TrajectoryDataset.from_minari("test/numbered-v0")
    assert dataset.lengths.tolist() == lengths
    for episode in (0, 1, 2, 3):
        rows = slice(int(dataset.starts[episode]), int(dataset.starts[episode]) + lengths[episode])
        steps = 100 * episode + np.arange(lengths[episode])
        np.testing.assert_array_equal(dataset.observations[rows, 0], steps)
        np.testing.assert_array_equal(dataset.actions[rows, 0], steps + 0.5)
        np.testing.assert_array_equal(dataset.rewards[rows], steps + 0.25)
        assert dataset.final_observations[episode, 0] == 100 * episode + lengths[episode]
        assert dataset.returns[episode] == steps.sum() + 0.25 * len(steps)
    assert dataset.observations.dtype == torch.float32
    assert dataset.env_spec.id == "flowrl/Reach-v0"


def test_what_is_loaded_is_what_minari_gives(reach, reach_dataset):
    episodes = list(minari.load_dataset(reach_dataset))
    assert reach.episodes == len(episodes) > 10
    for number, start, length in zip(range(len(episodes)), reach.starts, reach.lengths, strict=True):
        rows = slice(int(start), int(start + length))
        np.testing.assert_array_equal(reach.observations[rows], episodes[number].observations[:-1].astype(np.float32))
        np.testing.assert_array_equal(reach.final_observations[number], episodes[number].observations[-1].astype("f4"))
        np.testing.assert_array_equal(reach.actions[rows], episodes[number].actions)
        assert bool(reach.terminated[number]) == bool(episodes[number].terminations[-1])
        np.testing.assert_allclose(reach.returns[number], episodes[number].rewards.sum(), rtol=1e-6)
    np.testing.assert_array_equal(reach.action_low, [-2, -1])
    np.testing.assert_array_equal(reach.action_high, [3, 2])


@pytest.mark.parametrize(("name", "row", "episode"), [("observations", 5, 1), ("actions", 4, 1), ("rewards", 0, 0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_figure_that_is_not_finite_is_refused_with_its_episode(name, row, episode, value):
    array = getattr(by_hand(), name).copy()
    array[row] = value
    with pytest.raises(InputError, match=f"^{name} hold NaN or infinity, first in episode {episode}$"):
        load(by_hand(**{name: array}))


def test_infinities_that_cancel_are_found_too():
    rewards = np.array([np.inf, -np.inf, 0, 0, 0], np.float32)
    with pytest.raises(InputError, match="rewards hold NaN or infinity, first in episode 0"):
        load(by_hand(rewards=rewards))


def test_infinite_action_bounds_become_the_extremes_of_the_data():
    dataset = load(by_hand(), action_low=np.array([-np.inf, -1]), action_high=np.array([np.inf, np.inf]))
    assert dataset.action_low.tolist() == [-2, -1]
    assert dataset.action_high.tolist() == [3, 1]


def test_top_keeps_the_best_episodes_in_their_order(random_arrays):
    lengths = [3, 1, 4, 2, 5]
    rewards = np.concatenate([np.full(n, r / n) for n, r in zip(lengths, [10, 50, 20, 40, 30], strict=True)])
    dataset = load(replace(random_arrays(lengths), rewards=rewards.astype(np.float32)))
    best = dataset.top(0.4)
    assert best.lengths.tolist() == [1, 2]
    assert best.starts.tolist() == [0, 1]
    assert best.ends.tolist() == [1, 3, 3]
    assert best.timesteps.tolist() == [0, 0, 1]
    rows = [3, 8, 9]
    for name in ("observations", "actions", "rewards", "returns_to_go"):
        assert torch.equal(getattr(best, name), getattr(dataset, name)[rows]), name
    assert torch.equal(best.final_observations, dataset.final_observations[[1, 3]])
    assert torch.equal(best.terminated, dataset.terminated[[1, 3]])
    assert torch.equal(best.returns, dataset.returns[[1, 3]])


def test_top_of_everything_and_of_next_to_nothing(random_dataset):
    dataset = random_dataset([3, 1, 4, 2, 5])
    whole = dataset.top(1.0)
    for field in fields(dataset):
        if isinstance(getattr(dataset, field.name), torch.Tensor):
            assert torch.equal(getattr(whole, field.name), getattr(dataset, field.name)), field.name
    least = dataset.top(1e-9)
    assert least.episodes == 1
    assert least.returns[0] == dataset.returns.max()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_is_refused(random_dataset, fraction):
    with pytest.raises(InputError, match=f"top fraction is {fraction}"):
        random_dataset([3]).top(fraction)


def test_the_fingerprint_is_of_every_array_training_reads():
    changes = [
        {"observations": by_hand().observations + np.eye(7, 2, dtype=np.float32) * 1e-3},
        {"actions": by_hand().actions * np.float32(1.001)},
        {"rewards": by_hand().rewards[::-1].copy()},
        {"lengths": np.array([2, 3])},
    ]
    found = {load(by_hand(**change)).fingerprint for change in changes} | {load(by_hand()).fingerprint}
    assert len(found) == 5
    assert load(by_hand()).fingerprint == load(by_hand()).fingerprint
    assert load(by_hand()).top(0.5).fingerprint != load(by_hand()).fingerprint


def test_statistics_count_each_step_once_and_no_final_observation():
    normaliser = Normaliser.of(load(by_hand()))
    steps = np.array([0, 1, 2, 10, 11])
    np.testing.assert_allclose(normaliser.observation_mean, [steps.mean(), 5], rtol=1e-6)
    np.testing.assert_allclose(normaliser.observation_std, [steps.std(), 1], rtol=1e-6)
    np.testing.assert_allclose(normaliser.return_scale, np.std([6, 5, 3, 30, 20]), rtol=1e-6)
    np.testing.assert_allclose(normaliser.action_centre, [0.5, 0.5])
    np.testing.assert_allclose(normaliser.action_half_range, [2.5, 1.5])


def test_scaled_figures_and_back():
    dataset = load(by_hand())
    normaliser = Normaliser.of(dataset)
    scaled = normaliser.observations(dataset.observations)
    np.testing.assert_allclose(scaled.mean(0), [0, 0], atol=1e-6)
    # The standard deviation itself is scaled, not sent through the affine map; a constant feature is zero.
    np.testing.assert_allclose(scaled.std(0, correction=0), [1, 0], atol=1e-6)
    np.testing.assert_allclose(normaliser.actions(torch.tensor([[-2.0, -1], [3, 2]])), [[-1, -1], [1, 1]])
    np.testing.assert_allclose(normaliser.prediction(torch.tensor([[-20.0, -20], [20, 20]])), [[-2, -1], [3, 2]])
    inside = 0.99 * normaliser.actions(dataset.actions)
    torch.testing.assert_close(normaliser.actions(normaliser.prediction(inside.atanh())), inside)
    assert normaliser.returns(torch.tensor(0.0)) == 0


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e4, 1e-3])
def test_a_constant_feature_stays_small(random_arrays, constant):
    arrays = random_arrays([50, 60])
    arrays.observations[:, 1] = constant
    normaliser = Normaliser.of(load(arrays))
    assert normaliser.observation_std[1] == 1
    # A new value at deployment is not blown up either.
    shifted = torch.tensor([[0.0, constant + 0.5, 0.0]])
    assert normaliser.observations(shifted)[0, 1].abs() < 1


def test_large_offsets_do_not_spoil_the_statistics(random_arrays):
    arrays = random_arrays([500])
    arrays.observations[:, 0] = 10_000 + arrays.observations[:, 0]
    normaliser = Normaliser.of(load(arrays))
    np.testing.assert_allclose(
        normaliser.observation_std[0], arrays.observations[:500, 0].astype("f8").std(), rtol=1e-5
    )


@pytest.mark.parametrize("reward", [0.0, 0.1, -3.0])
def test_constant_returns_to_go_stay_moderate(random_arrays, reward):
    """Every step of every episode has one and the same return to go: all reward comes at the last step."""
    lengths = [7] * 40
    rewards = np.zeros(280, np.float32)
    rewards[6::7] = reward
    dataset = load(replace(random_arrays(lengths), rewards=rewards))
    scaled = Normaliser.of(dataset).returns(dataset.returns_to_go)
    assert scaled.isfinite().all()
    assert scaled.abs().max() <= 10


def test_rounding_in_constant_returns_is_not_blown_up(random_dataset):
    dataset = random_dataset([2])
    nearly = torch.tensor([0.1, 0.1 + 1e-8])
    assert nearly[0] != nearly[1]
    scaled = Normaliser.of(replace(dataset, returns_to_go=nearly)).returns(nearly)
    assert scaled.abs().max() <= 10


def test_an_action_that_never_varies_gives_no_division_by_zero():
    normaliser = Normaliser.of(load(by_hand(), action_low=np.array([1.0, -1]), action_high=np.array([1.0, 1])))
    assert normaliser.actions(torch.tensor([1.0, 0.0])).isfinite().all()


def test_another_device(random_dataset):
    dataset = random_dataset([3, 1, 4])
    moved = dataset.to("cpu")
    assert torch.equal(moved.observations, dataset.observations)
    assert moved.fingerprint == dataset.fingerprint

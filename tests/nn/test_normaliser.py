"""The statistics of a dataset, and what is scaled by them, against numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.mixing import mix
from flowrl.data.stored_arrays import StoredArrays
from flowrl.nn.normaliser import Normaliser

BOUNDS = {"action_low": np.array([-2.0, -1.0]), "action_high": np.array([3.0, 2.0])}


def by_hand():
    """Two episodes of 3 and 2 steps."""
    return StoredArrays(
        observations=np.array([[0, 5], [1, 5], [2, 5], [3, 5], [10, 5], [11, 5], [12, 5]], np.float32),
        actions=np.array([[0, 0], [1, 1], [2, 0], [3, 1], [-2, -1]], np.float32),
        rewards=np.array([1, 2, 3, 10, 20], np.float32),
        terminations=np.array([False, False, True, False, False]),
        truncations=np.array([False, False, False, False, True]),
        lengths=np.array([3, 2]),
    )


def load(arrays, **bounds):
    return TrajectoryDataset.from_stored_arrays("by-hand", arrays, **(BOUNDS | bounds))


def test_statistics_count_each_step_once_and_no_final_observation():
    normaliser = Normaliser.of(load(by_hand()))
    steps = np.array([0, 1, 2, 10, 11])
    np.testing.assert_allclose(normaliser.observation_mean, [steps.mean(), 5], rtol=1e-6)
    np.testing.assert_allclose(normaliser.observation_std, [steps.std(), 1], rtol=1e-6)
    np.testing.assert_allclose(normaliser.return_scale, np.std([6, 5, 3, 30, 20]), rtol=1e-6)
    np.testing.assert_allclose(normaliser.action_centre, [0.5, 0.5])
    np.testing.assert_allclose(normaliser.action_half_range, [2.5, 1.5])


def test_scaled_numbers_and_back():
    dataset = load(by_hand())
    normaliser = Normaliser.of(dataset)
    scaled = normaliser.observations(dataset.observations)
    np.testing.assert_allclose(scaled.mean(0), [0, 0], atol=1e-6)
    # The standard deviation itself is scaled, not sent through the affine map; a constant feature is zero.
    np.testing.assert_allclose(scaled.std(0, correction=0), [1, 0], atol=1e-6)
    np.testing.assert_allclose(normaliser.actions(torch.tensor([[-2.0, -1], [3, 2]])), [[-1, -1], [1, 1]])
    np.testing.assert_allclose(normaliser.raw_actions(torch.tensor([[-1.0, -1], [1, 1]])), [[-2, -1], [3, 2]])
    torch.testing.assert_close(normaliser.raw_actions(normaliser.actions(dataset.actions)), dataset.actions)
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


def test_one_hot_rows_enter_a_model_as_plus_and_minus_one(random_dataset):
    dataset = replace(random_dataset([3]), discrete_start=0, action_low=torch.zeros(2), action_high=torch.ones(2))
    normaliser = Normaliser.of(dataset)
    assert normaliser.discrete
    assert normaliser.actions(torch.eye(2)).tolist() == [[1, -1], [-1, 1]]


# A part of the features


def test_statistics_of_the_chosen_columns_alone(random_dataset):
    dataset = random_dataset([40, 3, 17], observation_size=5)
    whole, part = Normaliser.of(dataset), Normaliser.of(dataset, [3, 0])
    assert (part.observation_size, part.input_size) == (5, 2)
    seen = dataset.observations[:, [3, 0]].double()
    np.testing.assert_allclose(part.observation_mean, seen.mean(0), atol=1e-7)
    np.testing.assert_allclose(part.observation_std, seen.std(0, correction=0), rtol=1e-6)
    for name in ("action_centre", "action_half_range", "return_scale"):
        assert torch.equal(getattr(part, name), getattr(whole, name)), name
    # The whole raw observation goes in, whatever its leading axes.
    for raw in (dataset.observations, dataset.observations[0], dataset.observations.view(4, 15, 5)):
        assert torch.equal(part.observations(raw), whole.observations(raw)[..., [3, 0]])
    assert torch.equal(Normaliser.of(dataset, range(5)).observations(dataset.observations),
                       whole.observations(dataset.observations))  # fmt: skip


def test_hidden_features_enter_nowhere(random_dataset):
    dataset = random_dataset([9, 4], observation_size=4)
    hidden = dataset.observations.clone()
    hidden[:, [0, 2]] = 1e6 * torch.rand(13, 2, generator=torch.Generator().manual_seed(0))
    other = replace(dataset, observations=hidden)
    one, two = Normaliser.of(dataset, [1, 3]), Normaliser.of(other, [1, 3])
    assert one.state_dict().keys() == two.state_dict().keys()
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(one.observations(dataset.observations), two.observations(hidden))


def test_columns_follow_to_another_type_and_are_not_in_the_weights(random_dataset):
    normaliser = Normaliser.of(random_dataset([9]), [2, 1])
    assert "columns" not in normaliser.state_dict()
    assert "columns" in dict(normaliser.named_buffers())
    assert normaliser.double().observations(torch.zeros(3, dtype=torch.float64)).dtype == torch.float64


def test_statistics_count_each_step_once_whatever_the_shares():
    one = load(by_hand())
    two = replace(one, observations=one.observations + 100)
    with_shares, without = (Normaliser.of(mix("m", [one, two], shares)) for shares in ([99.0, 1.0], None))
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in with_shares.state_dict().items())

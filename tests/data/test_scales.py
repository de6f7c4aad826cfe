"""What actions and features are scaled by, against numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowrl.data import TrajectoryDataset
from flowrl.data.scales import action_scale, cautions, sentences, spread


def dataset_of(actions, low, high, observations=None):
    steps = len(actions)
    seen = np.random.default_rng(0).normal(size=(steps + 1, 2)) if observations is None else observations
    return TrajectoryDataset.from_arrays(
        [seen], [np.asarray(actions, np.float32)], [np.arange(steps)], [True], action_low=low, action_high=high
    )


@pytest.mark.parametrize(
    ("values", "bound", "centre", "half_range"),
    [
        ([-1, 1], 1.0, 0, 1),
        ([-0.1, 0.11], 1.0, 0, 1),  # no ten times as wide
        ([-1, 1], 1e6, 0, 1),
        ([2, 4], 1e4, 3, 1),
        ([-1e-6, 3e-6], 1.0, 1e-6, 2e-6),
        ([0, 0], 1.0, 0, 1),  # never used, within ordinary bounds
        ([0.05, 0.05], 1.0, 0, 1),
        ([0.5, 0.5], 1e6, 0.5, 1),
        ([3e3, 3e3], 1e6, 3e3, 3e3),
        ([-1, 1], 3.4e38, 0, 1),  # high - low is beyond float32
    ],
)
def test_an_action_is_scaled_by_its_bounds_or_by_far_narrower_data(values, bound, centre, half_range):
    dataset = dataset_of([[values[0], -1], [values[1], 1]], [-bound, -1], [bound, 1])
    got_centre, got_half_range = action_scale(dataset)
    np.testing.assert_allclose(got_centre, [centre, 0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(got_half_range, [half_range, 1], rtol=1e-6)
    assert bool(sentences(dataset)) == (half_range != bound)


def test_one_hot_actions_are_scaled_by_their_bounds():
    actions = [[1.0, 0.0], [1.0, 0.0]]
    dataset = replace(dataset_of(actions, 0, 1), discrete_start=0, action_high=torch.full((2,), 1e6))
    assert action_scale(dataset)[1].tolist() == [5e5, 5e5]
    assert sentences(dataset) == []


@pytest.mark.parametrize("unit", [1e-12, 5e-7, 1.0, 1e6])
def test_the_deviation_of_any_unit_is_kept(unit):
    values = unit * torch.tensor([[-1.0], [1.0], [1.0], [-1.0]])
    torch.testing.assert_close(spread(values, 1.0), torch.tensor([unit], dtype=torch.float64))


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e4, 1e4], [3.0, 3.0 + 2e-7], [1e-17, -1e-17]])
def test_rounding_is_no_deviation(values):
    assert spread(torch.tensor(values), 7.0) == 7.0


def test_a_feature_that_varies_by_rounding_is_named_where_it_is_shown():
    observations = np.zeros((4, 3))
    observations[:, 0] = [1e-17, -1e-17, 1e-17, 0]
    observations[:, 1] = 5.0
    observations[:, 2] = [0, 1, 2, 3]
    dataset = dataset_of(np.ones((3, 1)), -1, 1, observations)
    assert "feature 0 " in cautions(dataset)[0]
    assert cautions(dataset, [1, 2]) == []

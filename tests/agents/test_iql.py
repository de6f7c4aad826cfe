"""IQL: a state's value goes from the mean of the data's action values to the best of them, never beyond the data."""

import numpy as np
import pytest
import torch
from small_problems import batches, built, learned, small

from flowrl.agents.iql import IQLConfig, expectile_loss
from flowrl.data.dataset import TrajectoryDataset

SHARE, OUTSIDE = 0.25, 50.0


def gamble():
    """Two steps: in the first place nothing pays; in the second the first action pays 0 and the second 1, and a quarter
    of the data take the second. No datum takes the third action there, or the second and third before."""
    taken = [[0, int(number < 50)] for number in range(200)]
    places = np.eye(3)[[0, 1, 2]]
    return TrajectoryDataset.from_arrays(
        [places] * 200, [*map(np.array, taken)], [np.array([0.0, last]) for _, last in taken], [True] * 200,
        discrete_actions=3,
    )  # fmt: skip


@pytest.mark.parametrize("expectile", [0.5, 0.9, 0.99])
def test_the_value_is_the_expectile_of_the_datas_actions(expectile):
    """The expectile e of 0 and 1 with shares 1 - p and p has t p (1 - e) = (1 - t) (1 - p) e. A critic that thinks
    much of an action that no datum takes changes nothing."""
    dataset = gamble()
    config = small("iql", expectile=expectile, gamma=0.5, beta=3.0, width=16, learning_rate=1e-2)
    learner = built(config, dataset, steps=400)
    with torch.no_grad():
        for critics in (learner.critics, learner.target_critics):
            critics.ensemble.biases[-1][..., 2] = OUTSIDE
    for batch, step in batches(learner, dataset, 400):
        learner.update(batch, step)
    with torch.no_grad():
        values = learner.state_value(torch.eye(3)[:2])
        outside = learner.target_critics.of_all(torch.eye(3)[1:2])[..., 2]
    high, low = expectile * SHARE, (1 - expectile) * (1 - SHARE)
    expected = high / (high + low)
    torch.testing.assert_close(values, torch.tensor([expected / 2, expected]), rtol=0, atol=0.07)
    assert float(outside.min()) > 10, "the critics' opinion of it is as high as it was"
    assert float(values.max()) <= 1.05


def test_the_expectile_loss_by_hand():
    errors = torch.tensor([-2.0, 0.0, 3.0])
    assert expectile_loss(errors, 0.5).tolist() == [2.0, 0.0, 4.5]
    torch.testing.assert_close(expectile_loss(errors, 0.9), torch.tensor([0.4, 0.0, 8.1]))


@pytest.mark.parametrize(("beta", "likeliest"), [(0.0, 0), (10.0, 1)])
def test_beta_takes_the_actor_from_the_commonest_to_the_best_action_of_the_data(beta, likeliest):
    config = small("iql", expectile=0.7, beta=beta, gamma=0.5, width=16, learning_rate=1e-2, actor_schedule="constant")
    learner = learned(config, gamble(), 200)
    with torch.no_grad():
        probabilities = learner.policy(torch.eye(3)[1:2]).softmax(-1)[0]
    assert int(probabilities.argmax()) == likeliest
    assert float(probabilities[2]) < 0.05
    if beta == 0.0:
        torch.testing.assert_close(probabilities[:2], torch.tensor([1 - SHARE, SHARE]), rtol=0, atol=0.05)


def test_no_weight_is_above_the_largest(random_dataset):
    dataset = random_dataset([9, 4, 17])
    learner = built(small("iql", beta=1e6, max_weight=7.0), dataset, batch_size=16)
    for batch, step in batches(learner, dataset, 3):
        metrics = learner.update(batch, step)
        assert 0 < float(metrics["advantage_weight"]) <= 7.0
        assert metrics["actor_loss"].isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expectile": 1.0}, "expectile is 1.0: it must be above 0 and below 1"),
        ({"expectile": float("nan")}, "expectile is nan"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"max_weight": 0.0}, "max_weight is 0.0"),
        ({"policy": "beta"}, "policy is 'beta'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IQLConfig(**options)

"""FQL: the flow has both modes of the data's actions in their shares; the one-step actor goes to the better one."""

import numpy as np
import pytest
import torch
from small_problems import built, learned, small

from flowrl.agents.fql import FQLConfig
from flowrl.data.dataset import TrajectoryDataset

LOW, HIGH = -0.8, 0.8  # the modes, as scaled actions
SHARE = 0.3  # of the data at the lower one


def two_modes():
    """One step from one place, with actions in [-2, 3]; the lower mode, which is rarer, pays 1 and the other 0."""
    generator = np.random.default_rng(0)
    lower = np.arange(1_000) < 1_000 * SHARE
    scaled = np.where(lower, LOW, HIGH) + 0.02 * generator.standard_normal(1_000)
    return TrajectoryDataset.from_arrays(
        [np.array([[0.0], [1.0]])] * 1_000,
        [np.array([[0.5 + 2.5 * action]]) for action in scaled],
        [np.array([float(pays)]) for pays in lower],
        [True] * 1_000,
        action_low=-2.0,
        action_high=3.0,
    )


@pytest.fixture(scope="module")
def greedy():
    """A learner whose one-step actor is hardly drawn to the flow."""
    return learned(small("fql", alpha=0.05, flow_steps=10, width=64), two_modes(), 600, batch_size=256)


def drawn_noise(count):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(1))


def test_the_flow_has_both_modes_in_their_shares(greedy):
    actions = greedy.clone(torch.zeros(2_000, 1), drawn_noise(2_000))[:, 0]
    near_low, near_high = ((actions - mode).abs() < 0.2 for mode in (LOW, HIGH))
    assert float((near_low | near_high).double().mean()) > 0.9
    assert float(near_low.double().mean()) == pytest.approx(SHARE, abs=0.12)


def test_a_deterministic_clone_is_at_neither(greedy):
    clone = learned(small("td3-bc", alpha=0.0, actor_every=1), two_modes(), 300)
    with torch.no_grad():
        scaled = (float(clone.actor.action(torch.zeros(1, 1))) - 0.5) / 2.5
    assert scaled == pytest.approx(SHARE * LOW + (1 - SHARE) * HIGH, abs=0.1)


def test_the_one_step_actor_goes_to_the_mode_of_the_high_value(greedy):
    with torch.no_grad():
        scaled = greedy.policy(torch.zeros(500, 1), drawn_noise(500))[:, 0].clamp(-1, 1)
        values = greedy.critics(torch.zeros(2, 1), torch.tensor([[0.5 + 2.5 * LOW], [0.5 + 2.5 * HIGH]])).mean(0)
    torch.testing.assert_close(values, torch.tensor([1.0, 0.0]), rtol=0, atol=0.1)
    assert float((scaled < -0.5).double().mean()) > 0.98


@pytest.mark.slow
def test_with_a_large_alpha_it_is_the_flow():
    learner = learned(small("fql", alpha=300.0, flow_steps=10, width=64), two_modes(), 1_000, batch_size=256)
    noise = drawn_noise(1_000)
    with torch.no_grad():
        actions = learner.policy(torch.zeros(1_000, 1), noise)[:, 0]
    assert float((actions < 0).double().mean()) == pytest.approx(SHARE, abs=0.1)
    distance = (actions - learner.clone(torch.zeros(1_000, 1), noise)[:, 0]).square().mean().sqrt()
    assert float(distance) < 0.3


def test_it_plays_within_the_bounds_the_same_in_every_evaluation():
    actor = built(small("fql"), two_modes()).actor.eval()
    with torch.no_grad():
        for weight in actor.network[-1].parameters():
            weight.mul_(50.0)
    observations = torch.linspace(-1, 1, 4)[:, None]
    plays = []
    for _ in range(2):
        carry, actions = actor.initial(torch.zeros(4)), []
        for _ in range(3):
            with torch.no_grad():
                carry, action = actor.act(carry, observations, torch.zeros(4))
            actions.append(action)
        plays.append(torch.stack(actions))
    assert torch.equal(*plays)
    assert not torch.equal(plays[0][0], plays[0][1]), "new noise at every step"
    assert float(plays[0].min()) == -2.0
    assert float(plays[0].max()) == 3.0
    # A slot keeps its noise when others are over.
    carry = actor.initial(torch.zeros(4))
    with torch.no_grad():
        carry, _ = actor.act(carry, observations, torch.zeros(4))
        _, alone = actor.act(actor.select(carry, torch.tensor([2])), observations[2:3], torch.zeros(1))
    torch.testing.assert_close(alone[0], plays[0][1][2])


@pytest.mark.parametrize(
    ("options", "message"), [({"alpha": -1.0}, "alpha is -1.0"), ({"flow_steps": 0}, "flow_steps is 0")]
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FQLConfig(**options)

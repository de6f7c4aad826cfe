"""What the critics learn towards: time limits, endings, unknown observations, several steps and the lower bound."""

import numpy as np
import pytest
import torch
from small_problems import AGENTS, DISCRETE, built, learned, small

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE

PLACE = np.eye(3)
BITS = np.random.default_rng(0)
SETTINGS = {"td3-bc": {"actor_every": 1}, "rebrac": {"actor_every": 1, "critic_cloning": 10.0}, "cql": {"alpha": 0.0}}


def pairs(ends, *, discrete=False, last=None):
    """Two places that follow each other and pay 0 and 3; every step is an episode of its own.

    Args:
        ends: whether the task ends them, or else a time limit.
        last: besides, the reward of steps in the second place whose next observation is not known.
    """
    moves = [(0, 1, 0.0), (1, 0, 3.0)] * 60 + ([] if last is None else [(1, 1, last)] * 60)
    actions = [BITS.integers(2, size=1) if discrete else BITS.uniform(-1, 1, (1, 1)) for _ in moves]
    observations = [PLACE[[now, after]] for now, after, _ in moves]
    limits = {"discrete_actions": 2} if discrete else {"action_low": -1.0, "action_high": 1.0}
    rewards = [np.array([reward]) for *_, reward in moves]
    return TrajectoryDataset.from_arrays(observations, actions, rewards, [ends] * len(moves), **limits)


def values_of(learner, discrete):
    """(members, 2 places, actions) of the target critics."""
    with torch.no_grad():
        places = torch.eye(3)[:2]
        if discrete:
            return learner.target_critics.of_all(places)
        actions = torch.linspace(-0.9, 0.9, 3)
        each = [learner.target_critics(places, action.expand(2, 1)) for action in actions]
        return torch.stack(each, -1)


BOTH = [(agent, False) for agent in AGENTS] + [(agent, True) for agent in DISCRETE]


@pytest.mark.parametrize(("agent", "discrete"), BOTH)
def test_a_time_limit_is_bootstrapped_through_and_an_ending_is_not(agent, discrete):
    """Going on for ever is worth half of 4, and 3 + 2 / 2 = 4.

    A step whose next observation is not known is not learned from. The next action of an episode that is over is no
    other episode's: ReBRAC finds no distance to subtract."""
    config = small(agent, gamma=0.5, tau=0.2, learning_rate=1e-2, width=16, **SETTINGS.get(agent, {}))
    for dataset, expected in [
        (pairs(False, discrete=discrete, last=50.0), [2.0, 4.0]),
        (pairs(True, discrete=discrete), [0.0, 3.0]),
    ]:
        values = values_of(learned(config, dataset, 150, batch_size=32), discrete)
        torch.testing.assert_close(values, torch.tensor(expected)[:, None].expand_as(values), rtol=0, atol=0.35)


def test_rebrac_subtracts_the_distance_where_there_is_a_next_action():
    """Episodes of two steps, from the first place to the second, with actions 0.5 then -0.5; a time limit ends them.
    The actor is frozen: its scaled action in the second place is known."""
    count = 40
    dataset = TrajectoryDataset.from_arrays(
        [PLACE[[0, 1, 2]]] * count, [np.array([[0.5], [-0.5]])] * count, [np.array([0.0, 1.0])] * count, [True] * count,
        action_low=-1.0, action_high=1.0,
    )  # fmt: skip
    settings = {"gamma": 0.5, "critic_cloning": 2.0, "target_noise": 0.0, "actor_learning_rate": 1e-12, "tau": 0.2}
    learner = learned(small("rebrac", actor_every=1, learning_rate=1e-2, **settings), dataset, 300, batch_size=32)
    with torch.no_grad():
        action = learner.policy(torch.eye(3)[1:2])
        second = learner.target_critics(torch.eye(3)[1:2], action).min()
        first = learner.target_critics(torch.eye(3)[:1], torch.tensor([[0.5]]))
        known = learner.target_critics(torch.eye(3)[1:2], torch.tensor([[-0.5]]))
    torch.testing.assert_close(known, torch.ones(2, 1), rtol=0, atol=0.05)  # the last step: nothing follows
    expected = 0.5 * (second - 2.0 * (action - -0.5).square())
    torch.testing.assert_close(first, expected.expand(2, 1), rtol=0, atol=0.05)
    assert float(0.5 * 2.0 * (action + 0.5).square()) > 0.1


# Three episodes of 3, 2 and 3 steps: the task ends the first, a time limit the others; the last observation of the
# last one is not known.
OBSERVATIONS = [[10.0, 11, 12, 13], [20.0, 21, 22], [30.0, 31, 32, 32]]
REWARDS = [[1.0, 2, 4], [8.0, 16], [2.0, 4, 64]]


@pytest.fixture
def by_hand():
    actions = [np.linspace(-1, 1, len(row))[:, None] for row in REWARDS]
    observations = [np.array(row)[:, None] for row in OBSERVATIONS]
    return TrajectoryDataset.from_arrays(observations, actions, [*map(np.array, REWARDS)], [True, False, False])


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        # Every next observation is worth 100, and the discount is 1/2. The last step is never drawn.
        ({}, [51, 52, 4, 58, 66, 52, 54]),
        ({"n_step": 2}, [1 + 1 + 25, 2 + 2, 4, 8 + 8 + 25, 16 + 50, 2 + 2 + 25, 4 + 50]),
        ({"n_step": 5}, [1 + 1 + 1, 2 + 2, 4, 8 + 8 + 25, 16 + 50, 2 + 2 + 25, 4 + 50]),
        # Returns are 1 to 7 and 24, 70: the best is 70, the worst 7.
        (
            {"scale_rewards": "returns"},
            [50 + r * 1000 / 63 for r in (1, 2)] + [4000 / 63] + [50 + r * 1000 / 63 for r in (8, 16, 2, 4)],
        ),
    ],
)
def test_targets_by_hand(agent, settings, targets, by_hand):
    learner = built(small(agent, gamma=0.5, **settings), by_hand)
    rows = torch.arange(7)
    batch = learner.sampler(by_hand, 128, WHOLE).at(rows)
    torch.testing.assert_close(learner.target(batch, torch.full((7,), 100.0)), torch.tensor(targets).float())


@pytest.mark.parametrize("agent", AGENTS)
def test_the_datas_return_is_a_lower_bound(agent, by_hand):
    learner = built(small(agent, gamma=0.5, lower_bound=True), by_hand)
    batch = learner.sampler(by_hand, 128, WHOLE).at(torch.arange(7))
    low = learner.target(batch, torch.full((7,), -100.0))
    torch.testing.assert_close(low, torch.tensor([3.0, 4, 4, 16, 16, 20, 36]))
    high = learner.target(batch, torch.full((7,), 100.0))
    torch.testing.assert_close(high, torch.tensor([51.0, 52, 4, 58, 66, 52, 54]))


def test_the_bound_carries_a_reward_over_a_hundred_steps_at_once():
    """One reward at the end of 100 steps: without the bound so few updates do not carry it to the beginning."""
    length = 100
    observations = [np.linspace(-1, 1, length + 1)[:, None]] * 4
    generator = np.random.default_rng(0)
    actions = [generator.uniform(-1, 1, (length, 1)) for _ in range(4)]
    dataset = TrajectoryDataset.from_arrays(observations, actions, [np.eye(length)[-1]] * 4, [True] * 4)
    first = []
    for lower_bound in (False, True):
        config = small("iql", expectile=0.5, gamma=0.99, tau=0.01, lower_bound=lower_bound)
        learner = learned(config, dataset, 300, batch_size=64)
        with torch.no_grad():
            first.append(float(learner.state_value(torch.tensor([[-0.9]]))))
    assert first[0] < 0.2
    assert first[1] == pytest.approx(0.99**94, abs=0.1)

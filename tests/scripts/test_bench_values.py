"""The textbook updates of value-based agents learn what they should, and matrix products are counted and repeated."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from flowrl.agents import AGENTS
from flowrl.data.dataset import TrajectoryDataset
from flowrl.scripts.benchmarks import textbook_values
from flowrl.scripts.benchmarks.textbook_values import TEXTBOOK_VALUES, Replay, TextbookTD3BC
from flowrl.scripts.benchmarks.values import multiply, of_size, products_of, repeated

CPU = torch.device("cpu")


def dataset_of(observations, actions, rewards, terminated):
    """Episodes of equal lengths; arrays (episodes, steps (+ 1 of observations), size)."""
    return TrajectoryDataset.from_arrays(
        list(observations), list(actions), list(rewards), [terminated] * len(actions), action_low=-1.0, action_high=1.0
    )


@pytest.fixture
def fast(monkeypatch):
    """Rates with which some hundred updates are enough."""
    monkeypatch.setattr(textbook_values, "RATE", 5e-3)
    monkeypatch.setattr(textbook_values, "TAU", 0.1)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TEXTBOOK_VALUES)
@pytest.mark.parametrize("terminated", [True, False])
def test_textbook_values_are_those_of_the_task(name, terminated, fast):
    """Two steps with rewards 1 and 0.5: the first is worth 1 + 0.99 · 0.5. Cut by a time limit in the second state,
    the end is worth as much as that state: 0.5 / (1 - 0.99), which values approach from below."""
    generator = np.random.default_rng(0)
    observations = np.tile(np.array([[-1.0], [1.0], [1.001]]), (50, 1, 1))  # an exact repeat would count as unknown
    actions = generator.uniform(-1, 1, (50, 2, 1))
    rewards = np.tile(np.array([1.0, 0.5]), (50, 1))
    replay = Replay(dataset_of(observations, actions, rewards, terminated), 32)
    agent = TEXTBOOK_VALUES[name](replay, 300, width=16)
    for _ in range(300):
        agent.update()
    states = torch.cat([replay.states[:2]] * 2)
    with torch.no_grad():
        first, second = agent.critics.smaller(states, torch.tensor([[-0.5], [-0.5], [0.5], [0.5]])).view(2, 2).mean(0)
    if terminated:
        assert float(second) == pytest.approx(0.5, abs=0.1)
        assert float(first) == pytest.approx(1 + 0.99 * 0.5, abs=0.15)
    else:
        assert float(second) > 2.0


@pytest.mark.parametrize("name", TEXTBOOK_VALUES)
def test_textbook_policies_prefer_the_better_actions(name, fast):
    """Actions are even in [-1, 1] and the reward is 2 at 0.6, falling with the square of the distance: cloning is 0."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (500, 1, 1))
    observations = generator.standard_normal((500, 2, 1))
    replay = Replay(dataset_of(observations, actions, 2 - 2 * (actions[..., 0] - 0.6) ** 2, True), 64)
    agent = TEXTBOOK_VALUES[name](replay, 300, width=16)
    for _ in range(300):
        agent.update()
    policy = agent.policy(torch.zeros(1, 1))
    chosen = policy if isinstance(policy, torch.Tensor) else policy.mean
    assert 0.2 < float(chosen.detach()) < 0.8


def test_the_textbook_td3_bc_moves_its_policy_at_every_second_update(random_dataset):
    agent = TextbookTD3BC(Replay(random_dataset([9, 9]), 8), 10, width=8)
    seen = []
    for _ in range(4):
        agent.update()
        seen.append(torch.cat([x.detach().flatten().clone() for x in agent.policy.parameters()]))
    same = [torch.equal(before, after) for before, after in pairwise(seen)]
    assert same == [False, True, False]


def test_products_are_those_of_the_layers_and_of_their_gradients():
    layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    counts = products_of(lambda: layers(torch.randn(4, 3)).sum().backward())
    forward = {((4, 3), (3, 5)): 1, ((4, 5), (5, 2)): 1}
    backward = {((5, 4), (4, 3)): 1, ((2, 4), (4, 5)): 1, ((4, 2), (2, 5)): 1}  # the data need no gradient
    assert counts == {(*shapes, torch.float32): count for shapes, count in (forward | backward).items()}


def test_products_alone_are_the_same_products():
    both = Counter({((4, 3), (3, 5), torch.float32): 2, ((2, 4, 3), (2, 3, 5), torch.bfloat16): 3})
    assert products_of(multiply(both, CPU)) == both
    assert products_of(repeated(multiply(both, CPU))) == both + both


def test_under_autocast_products_are_counted_in_their_own_precision():
    layer = nn.Linear(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        counts = products_of(lambda: layer(torch.randn(4, 3)))
    assert counts == {((4, 3), (3, 5), torch.bfloat16): 1}


def test_sizes_are_set_and_nothing_else():
    before = AGENTS["awac-paper"].config
    after = of_size(before, 16)
    assert (after.network.width, after.network.layers) == (16, 2)
    assert replace(after, network=before.network) == before

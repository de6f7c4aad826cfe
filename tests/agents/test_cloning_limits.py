"""Where values do not count, the actors are those of plain cloning with the same batches."""

import copy
import math

import pytest
import torch
from small_problems import DISCRETE, batches, built, line, small, walk

STEPS, RATE = 30, 3e-3
WITHOUT_VALUES = {
    "iql": {"beta": 0.0},
    "awac": {"temperature": 1e30},
    "td3-bc": {"alpha": 0.0},
    "rebrac": {"actor_cloning": 1e7},
}


def gaussian(policy, normaliser, observations, actions):
    """The mean negative log-likelihood of scaled actions."""
    mean, log_std = torch.tanh(policy.network(normaliser.observations(observations))), policy.free.clamp(-5.0, 2.0)
    errors = (normaliser.actions(actions) - mean) / log_std.exp()
    return (0.5 * errors.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(1).mean()


def squared(policy, normaliser, observations, actions):
    """The mean squared error of scaled actions."""
    predicted = torch.tanh(policy.network(normaliser.observations(observations)))
    return (predicted - normaliser.actions(actions)).square().mean()


def cross_entropy(policy, normaliser, observations, actions):
    logits = policy.network(normaliser.observations(observations))
    return torch.nn.functional.cross_entropy(logits, actions.argmax(1))


CASES = [
    ("iql", {}, gaussian),
    ("iql", {"policy": "deterministic"}, squared),
    ("awac", {}, gaussian),
    ("td3-bc", {}, squared),
    ("rebrac", {}, squared),
    ("iql", {}, cross_entropy),
    ("awac", {}, cross_entropy),
]


@pytest.mark.parametrize(("agent", "settings", "loss_of"), CASES)
def test_the_actor_is_that_of_plain_cloning(agent, settings, loss_of):
    discrete = loss_of is cross_entropy
    assert not discrete or agent in DISCRETE
    dataset = walk(20) if discrete else line(20, 10)
    config = small(agent, actor_schedule="constant", **WITHOUT_VALUES[agent], **settings)
    learner = built(config, dataset, batch_size=32, steps=STEPS)
    policy = copy.deepcopy(learner.policy)
    begun = copy.deepcopy(learner.policy)
    # Adam takes no notice of a factor on the loss but for its eps.
    adam = torch.optim.Adam(policy.parameters(), RATE, eps=1e-15 if agent == "rebrac" else 1e-8)
    every = 2 if agent in ("td3-bc", "rebrac") else 1
    for batch, step in batches(learner, dataset, STEPS):
        learner.update(batch, step)
        if step % every:
            continue
        adam.zero_grad()
        loss_of(policy, policy.normaliser, batch.observations, batch.actions).backward()
        adam.step()
    moved = 0.0
    for mine, plain, before in zip(learner.policy.parameters(), policy.parameters(), begun.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=2e-5)
        moved = max(moved, float((plain - before).detach().abs().max()))
    assert moved > 5 * RATE


@pytest.mark.parametrize(("agent", "some"), [("iql", 3.0), ("awac", 0.3), ("td3-bc", 2.5), ("rebrac", 0.1)])
def test_elsewhere_values_do_count(agent, some):
    """The same comparison tells the limit from the agent."""
    dataset, actors = line(20, 10), []
    ((name, limit),) = WITHOUT_VALUES[agent].items()
    for value in (limit, some):
        learner = built(small(agent, **{name: value}), dataset, batch_size=32, steps=STEPS)
        for batch, step in batches(learner, dataset, STEPS):
            learner.update(batch, step)
        actors.append(torch.cat([weight.flatten() for weight in learner.policy.parameters()]).detach())
    assert float((actors[0] - actors[1]).abs().max()) > 1e-3

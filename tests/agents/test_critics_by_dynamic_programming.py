"""The critics learn the values that they claim to learn: against dynamic programming on small problems."""

import numpy as np
import pytest
import torch
from small_problems import (
    CRITIC,
    DISCRETE,
    FROZEN,
    LINE_HIGH,
    LINE_LOW,
    PLACES,
    learned,
    line,
    line_values,
    small,
    walk,
    walk_step,
    walk_values,
)

GAMMA = CRITIC.gamma
UNIFORM = torch.linspace(LINE_LOW, LINE_HIGH, 201), torch.ones(201) / 201


def normal_points(count=41):
    """Points and probabilities that stand for normal noise."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(points).float(), torch.tensor(weights / weights.sum()).float()


def line_policy(agent, learner):
    """What the agent's critics evaluate: states (S, 1) to actions (S, K) and probabilities (K,)."""

    @torch.no_grad()
    def drawn(states):
        if agent == "iql":  # the data's policy, at the expectile 0.5
            return UNIFORM[0].expand(len(states), -1), UNIFORM[1]
        if agent in ("td3-bc", "rebrac"):
            return learner.policy(states), torch.ones(1)
        noise, probabilities = normal_points()
        repeated = states[:, None].expand(-1, len(noise), -1)
        noises = noise[None, :, None].expand(len(states), -1, -1)
        if agent == "fql":
            return learner.raw(learner.policy(repeated, noises))[..., 0], probabilities
        return learner.policy.head.sample(learner.policy(repeated), noises)[..., 0], probabilities

    return drawn


SETTINGS = {
    "awac": {},
    "iql": {"expectile": 0.5},
    "td3-bc": {"target_noise": 0.0, "actor_every": 1},
    "rebrac": {"target_noise": 0.0, "actor_every": 1, "critic_cloning": 0.3},
    "cql": {"alpha": 0.0},
    "fql": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("agent", SETTINGS)
def test_real_actions(agent):
    """The actor stays as it was built, so that there is one policy to evaluate."""
    dataset = line()
    learner = learned(small(agent, actor_learning_rate=FROZEN, **SETTINGS[agent]), dataset, 700)

    def bonus(actions):  # less the distance from the data's next action u, uniform: E (a - u)^2 = a^2 + 1/3, scaled
        return -0.3 * (((actions - 0.5) / 2.5) ** 2 + 1 / 3)

    known = line_values(line_policy(agent, learner), GAMMA, bonus if agent == "rebrac" else None)
    generator = torch.Generator().manual_seed(1)
    states = 1.2 * torch.rand(500, 1, generator=generator) - 0.6
    actions = LINE_LOW + (LINE_HIGH - LINE_LOW) * torch.rand(500, 1, generator=generator)
    expected = known(states, actions)[:, 0]
    with torch.no_grad():
        values = learner.target_critics(states, actions)
    for row in values:
        error = (row - expected).square().mean().sqrt()
        assert error < 0.15 * expected.std()


def behaviour(dataset):
    """(places but the last, 3) shares of the actions that the data hold."""
    counts = dataset.observations.T @ dataset.actions
    return (counts / counts.sum(1, keepdim=True))[:-1].double()


def expectile_of(values, probabilities, expectile):
    """The expectile of each row of `values` (S, K), by bisection."""
    low, high = values.amin(1), values.amax(1)
    for _ in range(80):
        middle = (low + high) / 2
        errors = values - middle[:, None]
        pull = (torch.where(errors > 0, expectile, 1 - expectile) * errors * probabilities).sum(1)
        low, high = torch.where(pull > 0, middle, low), torch.where(pull > 0, high, middle)
    return low


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        ("awac", {}),
        ("iql", {"expectile": 0.5}),
        ("iql", {"expectile": 0.9}),
        ("cql", {"alpha": 0.0}),
        ("iql", {"expectile": 0.5, "n_step": 3}),
    ],
)
def test_discrete_actions(agent, settings):
    assert agent in DISCRETE
    dataset = walk()
    learner = learned(small(agent, actor_learning_rate=FROZEN, **settings), dataset, 500)
    places = torch.eye(PLACES)[:-1]
    data = behaviour(dataset)
    if agent == "iql":
        expected = walk_values(lambda values: expectile_of(values, data, settings["expectile"]), GAMMA)
    else:
        policy = learner.policy(places).softmax(-1).detach().double()
        expected = walk_values(lambda values: (values * policy).sum(1), GAMMA)
    with torch.no_grad():
        values = learner.target_critics.of_all(places).double()
    # With several steps what follows an action is what happened to follow it in these data.
    tolerance = 0.05 if settings.get("n_step", 1) > 1 else 0.03
    for member in values:
        torch.testing.assert_close(member, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("agent", DISCRETE)
def test_a_discrete_actor_learns_the_optimal_walk(agent):
    """Where staying at the first place pays 0.1 a step, it is best to stay there, and elsewhere to go to the end."""
    settings = {
        "awac": {"temperature": 0.02},
        "iql": {"expectile": 0.95, "beta": 30.0},
        "cql": {"alpha": 0.05, "entropy_rate": 0.03},
    }
    learner = learned(small(agent, gamma=0.8, **settings[agent]), walk(), 800)
    optimal = walk_values(lambda values: values.amax(1), 0.8)
    best, second = optimal.topk(2, dim=1).values.unbind(1)
    assert float((best - second).min()) > 0.05
    assert optimal.argmax(1).tolist() == [0, 2, 2, 2, 2]
    with torch.no_grad():
        actions = learner.actor.action(torch.eye(PLACES)[:-1])
    assert actions.argmax(1).tolist() == optimal.argmax(1).tolist()
    place, discounted, steps, over = 3, 0.0, 0, False
    while steps < 60 and not over:
        place, reward, over = walk_step(place, int(actions[place].argmax()))
        discounted += 0.8**steps * reward
        steps += 1
    assert discounted == pytest.approx(float(best[3]), abs=1e-4)

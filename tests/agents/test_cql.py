"""CQL: values outside of the data are too low, never too high, and the penalty is the log-sum-exp over all actions."""

import pytest
import torch
from small_problems import CRITIC, LINE_LOW, batches, built, learned, line, line_values, small, walk

from flowrl.agents.cql import CQLConfig


def policy_of(learner):
    """States (S, 1) to many actions of the actor (S, 200) and their probabilities."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def drawn(states):
        prediction = learner.policy(states)[:, None].expand(-1, len(noise), -1)
        noises = noise[None, :, None].expand(len(states), -1, -1)
        return learner.head.sample(prediction, noises)[..., 0], torch.full_like(noise, 1 / len(noise))

    return drawn


@pytest.mark.slow
def test_values_outside_of_the_data_are_below_the_true_ones():
    """The data take the upper half of the actions alone, where higher is worse: elsewhere a critic extrapolates."""
    dataset = line(low=0.5)
    generator = torch.Generator().manual_seed(1)
    states = torch.rand(300, 1, generator=generator) - 0.25
    outside = LINE_LOW + 1.5 * torch.rand(300, 1, generator=generator)
    inside = 0.5 + 2.5 * torch.rand(300, 1, generator=generator)
    excess = {}
    for alpha in (0.0, 1.0):
        learner = learned(small("cql", alpha=alpha), dataset, 500)
        known = line_values(policy_of(learner), CRITIC.gamma)
        with torch.no_grad():
            excess[alpha] = [
                learner.critics(states, actions).mean(0).double() - known(states, actions)[:, 0]
                for actions in (outside, inside)
            ]
    out, within = excess[1.0]
    assert float(out.max()) < 0
    assert float(out.mean()) < float(within.mean()) - 0.2, "lower outside than inside"
    assert float(out.mean()) < float(excess[0.0][0].mean()) - 0.3, "by the penalty"


def test_the_penalty_is_the_log_sum_exp_over_all_actions():
    """By quadrature over the one scaled action; the estimate draws from three distributions.

    The actor is about as wide as the bounds. Where it is narrow few draws carry huge weights (their variance is
    infinite), in the paper as here, and the estimate is rough."""
    data = line(20, 10)
    learner = built(small("cql", sampled_actions=4_000, learning_rate=1e-3), data, batch_size=8)
    with torch.no_grad():
        learner.critics.ensemble.weights[-1].mul_(40.0)  # values that differ
        learner.policy.network[-1].weight.mul_(0.1)
        learner.policy.network[-1].bias.copy_(torch.tensor([0.3, 0.0]))
    observations, following = torch.linspace(-1, 1, 8)[:, None], torch.linspace(1, -1, 8)[:, None]
    with torch.no_grad():
        ((batch, _),) = batches(learner, data, 1)
        batch = batch._replace(observations=observations, next_observations=following)
        read = learner.read(learner.policy, batch)
        estimate = learner.soft_maximum(observations, read, *learner.candidate_noise(batch))
        scaled = torch.linspace(-1, 1, 2_001)
        values = learner.critics(
            observations.repeat_interleave(len(scaled), 0), (0.5 + 2.5 * scaled).repeat(8)[:, None]
        ).unflatten(1, (8, -1))
    exact = torch.trapezoid(values.double().exp(), scaled.double(), dim=-1).log()
    assert float((values.amax(-1) - values.amin(-1)).mean()) > 1.0
    torch.testing.assert_close(estimate.double(), exact, rtol=0, atol=0.05)


def test_the_penalty_of_discrete_actions_is_exact():
    learner = built(small("cql"), walk(5))
    places = torch.eye(6)
    with torch.no_grad():
        values = learner.critics.of_all(places)
        torch.testing.assert_close(learner.soft_maximum(places, None), values.exp().sum(-1).log())


def test_the_entropy_goes_to_its_target():
    """Minus the size of an action. Real actions; the values do not matter much beside the entropy's weight."""
    dataset = line(20, 10)
    learner = built(small("cql", alpha=0.0, entropy_rate=3e-2), dataset, steps=300)
    entropies = [float(learner.update(batch, step)["entropy"]) for batch, step in batches(learner, dataset, 300)]
    assert abs(entropies[0] + 1.0) > 0.5
    assert sum(entropies[-50:]) / 50 == pytest.approx(-1.0, abs=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"sampled_actions": 0}, "sampled_actions is 0"),
        ({"entropy_rate": 0.0}, "entropy_rate is 0.0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CQLConfig(**options)

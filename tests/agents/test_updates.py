"""Every agent's update is its paper's algorithm: against plain transcriptions in float64, with separate networks."""

import copy
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from small_problems import AGENTS, batches, built, small
from torch import nn
from transcription import RATE, Transcription, assert_same_weights, in_double_precision

from flowrl.agents.actor_critic_config import NetworkConfig


@pytest.fixture
def doubled(monkeypatch, random_dataset):
    """See `in_double_precision`."""
    return partial(in_double_precision, monkeypatch, random_dataset([9, 4, 17, 1, 12]))


def gaussian_log_density(mean, log_std, actions):
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(1)


@pytest.mark.parametrize(("expectile", "beta", "max_weight"), [(0.7, 3.0, 100.0), (0.9, 10.0, 1.5)])
def test_iql(doubled, expectile, beta, max_weight):
    learner, batches, _, dataset = doubled("iql", expectile=expectile, beta=beta, max_weight=max_weight)
    plain = Transcription(learner, dataset)
    value, log_std = plain.plain(learner.state_value.ensemble, 0), nn.Parameter(learner.policy.free.detach().clone())
    value_adam = torch.optim.Adam(value.parameters(), RATE)
    actor_adam = torch.optim.Adam([*plain.actor.parameters(), log_std], RATE)
    for batch, step in batches:
        learner.update(batch, step)
        observations, actions, rewards, following, goes_on = plain.scaled(batch)
        with torch.no_grad():
            next_values = value(following)[:, 0]
            least = plain.values(plain.targets, observations, actions).min(0).values
        advantages = least - value(observations)[:, 0]
        plain.step(value_adam, (abs(expectile - (advantages < 0).double()) * advantages**2).mean())
        errors = plain.values(plain.critics, observations, actions) - (rewards + goes_on * next_values)
        plain.step(plain.critic_adam, (errors**2).mean(1).sum())
        weights = (beta * advantages.detach()).exp().clamp(max=max_weight)
        density = gaussian_log_density(plain.actor(observations).tanh(), log_std.clamp(-5, 2), actions)
        plain.step(actor_adam, -(weights * density).mean())
        plain.follow(plain.targets, plain.critics)
    plain.assert_equal(learner)
    assert_same_weights(learner.state_value.ensemble, nn.ParameterList(_as_ensemble(value)))
    torch.testing.assert_close(learner.policy.free, log_std, rtol=1e-7, atol=1e-9)


def _as_ensemble(network):
    linears = [module for module in network if isinstance(module, nn.Linear)]
    weights = [linear.weight.detach().T[None] for linear in linears]
    return weights + [linear.bias.detach()[None, None] for linear in linears]


def test_awac(doubled):
    learner, batches, drawn, dataset = doubled("awac", temperature=0.5)
    plain = Transcription(learner, dataset)
    log_std = nn.Parameter(learner.policy.free.detach().clone())
    actor_adam = torch.optim.Adam([*plain.actor.parameters(), log_std], RATE)
    for batch, step in batches:
        learner.update(batch, step)
        noise, next_noise = drawn.pop().unbind(1)
        observations, actions, rewards, following, goes_on = plain.scaled(batch)
        with torch.no_grad():
            std = log_std.clamp(-5, 2).exp()
            next_actions = (plain.actor(following).tanh() + std * next_noise).clamp(-1, 1)
            target = rewards + goes_on * plain.values(plain.targets, following, next_actions).min(0).values
            own_actions = (plain.actor(observations).tanh() + std * noise).clamp(-1, 1)
            own_values = plain.values(plain.critics, observations, own_actions).min(0).values
            advantages = plain.values(plain.critics, observations, actions).min(0).values - own_values
        density = gaussian_log_density(plain.actor(observations).tanh(), log_std.clamp(-5, 2), actions)
        plain.step(actor_adam, -((advantages / 0.5).exp().clamp(max=100) * density).mean())
        errors = plain.values(plain.critics, observations, actions) - target
        plain.step(plain.critic_adam, (errors**2).mean(1).sum())
        plain.follow(plain.targets, plain.critics)
    plain.assert_equal(learner)
    torch.testing.assert_close(learner.policy.free, log_std, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("agent", ["td3-bc", "rebrac"])
def test_td3_with_cloning(doubled, agent):
    settings = {"alpha": 1.5} if agent == "td3-bc" else {"actor_cloning": 0.3, "critic_cloning": 0.7}
    learner, batches, drawn, dataset = doubled(agent, target_noise=0.4, **settings)
    plain = Transcription(learner, dataset)
    target_actor = copy.deepcopy(plain.actor)
    actor_adam = torch.optim.Adam(plain.actor.parameters(), RATE)
    for batch, step in batches:
        learner.update(batch, step)
        noise = (0.4 * drawn.pop()).clamp(-0.5, 0.5)
        observations, actions, rewards, following, goes_on = plain.scaled(batch)
        with torch.no_grad():
            next_actions = (target_actor(following).tanh() + noise).clamp(-1, 1)
            next_values = plain.values(plain.targets, following, next_actions).min(0).values
            if agent == "rebrac":
                distances = ((next_actions - (batch.next_actions - plain.centre) / plain.half) ** 2).sum(1)
                next_values -= 0.7 * torch.where(batch.has_next_action, distances, 0.0)
        errors = plain.values(plain.critics, observations, actions) - (rewards + goes_on * next_values)
        plain.step(plain.critic_adam, (errors**2).mean(1).sum())
        if step % 2:
            continue
        own_actions = plain.actor(observations).tanh()
        own_values = plain.values(plain.critics, observations, own_actions)
        if agent == "td3-bc":
            weight = 1.5 / own_values[0].abs().mean().detach()
            loss = -weight * own_values[0].mean() + F.mse_loss(own_actions, actions)
        else:
            own_values = own_values.min(0).values
            weight = 1 / own_values.abs().mean().detach()
            loss = (0.3 * ((own_actions - actions) ** 2).sum(1) - weight * own_values).mean()
        plain.step(actor_adam, loss)
        plain.follow([*plain.targets, target_actor], [*plain.critics, plain.actor])
    plain.assert_equal(learner)
    assert_same_weights(learner.average.network, target_actor)


def test_cql(doubled):
    learner, batches, drawn, dataset = doubled("cql", alpha=2.0, sampled_actions=3, entropy_rate=1e-2)
    plain = Transcription(learner, dataset)
    log_weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
    actor_adam, weight_adam = torch.optim.Adam(plain.actor.parameters(), RATE), torch.optim.Adam([log_weight], 1e-2)

    def sample(observations, noise):
        mean, log_std = plain.actor(observations).chunk(2, 1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        unsquashed = normal.mean + normal.stddev * noise
        squashed = unsquashed.tanh()
        return squashed, (normal.log_prob(unsquashed) - torch.log(1 - squashed**2)).sum(1)

    for batch, step in batches:
        learner.update(batch, step)
        noise, next_noise, uniform, own_noise, following_noise = drawn
        drawn.clear()
        observations, actions, rewards, following, goes_on = plain.scaled(batch)
        with torch.no_grad():
            target = (
                rewards
                + goes_on * plain.values(plain.targets, following, sample(following, next_noise)[0]).min(0).values
            )
        values = plain.values(plain.critics, observations, actions)
        candidates = []
        for number in range(3):
            with torch.no_grad():
                own, own_density = sample(observations, own_noise[:, number])
                other, other_density = sample(following, following_noise[:, number])
            size = actions.shape[1]
            random = 2 * uniform[:, number] - 1
            for drawn_actions, density in ((random, -size * math.log(2)), (own, own_density), (other, other_density)):
                candidates.append(plain.values(plain.critics, observations, drawn_actions) - density)
        largest = torch.stack(candidates).logsumexp(0) - math.log(9)
        critic_loss = ((values - target) ** 2).mean(1).sum() + 2.0 * (largest - values).mean(1).sum()
        squashed, density = sample(observations, noise)
        own_values = plain.values(plain.critics, observations, squashed).min(0).values
        actor_loss = (log_weight.exp().detach() * density - own_values).mean()
        weight_loss = -(log_weight * (density.detach() - size)).mean()
        plain.step(actor_adam, actor_loss)
        plain.step(plain.critic_adam, critic_loss)
        plain.step(weight_adam, weight_loss)
        plain.follow(plain.targets, plain.critics)
    plain.assert_equal(learner)
    torch.testing.assert_close(learner.log_entropy_weight, log_weight, rtol=1e-7, atol=1e-9)


def test_fql(doubled):
    learner, batches, drawn, dataset = doubled("fql", alpha=3.0, flow_steps=4)
    plain, velocity = Transcription(learner, dataset, nn.GELU), copy.deepcopy(learner.velocity)
    actor_adam = torch.optim.Adam([*plain.actor.parameters(), *velocity.parameters()], RATE)

    def one_step(observations, noise):
        return plain.actor(torch.cat([observations, noise], 1))

    def flow(observations, points, time):
        return velocity(torch.cat([observations, points, time], 1))

    for batch, step in batches:
        learner.update(batch, step)
        noises, time = drawn
        drawn.clear()
        next_noise, start, noise = noises.unbind(1)
        observations, actions, rewards, following, goes_on = plain.scaled(batch)
        with torch.no_grad():
            next_actions = one_step(following, next_noise).clamp(-1, 1)
            target = rewards + goes_on * plain.values(plain.targets, following, next_actions).mean(0)
            cloned = noise
            for number in range(4):
                cloned = cloned + flow(observations, cloned, torch.full_like(time, number / 4)) / 4
        errors = plain.values(plain.critics, observations, actions) - target
        flow_loss = F.mse_loss(flow(observations, (1 - time) * start + time * actions, time), actions - start)
        own_actions = one_step(observations, noise)
        own_values = plain.values(plain.critics, observations, own_actions.clamp(-1, 1)).mean(0)
        loss = flow_loss + 3.0 * F.mse_loss(own_actions, cloned.clamp(-1, 1))
        plain.step(actor_adam, loss - own_values.mean() / own_values.abs().mean().detach())
        plain.step(plain.critic_adam, (errors**2).mean(1).sum())
        plain.follow(plain.targets, plain.critics)
    plain.assert_equal(learner)
    assert_same_weights(learner.velocity, velocity)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_averaged_actor_follows_and_plays(agent, random_dataset):
    dataset = random_dataset([9, 4, 17])
    every = {"actor_every": 1} if agent in ("td3-bc", "rebrac") else {}
    learner = built(small(agent, average_actor=True, **every), dataset, steps=5)
    expected = copy.deepcopy(learner.policy)
    for batch, step in batches(learner, dataset, 5):
        learner.update(batch, step)
        for slow, fast in zip(expected.parameters(), learner.policy.parameters(), strict=True):
            slow.data.mul_(0.95).add_(0.05 * fast.data)
    assert learner.actor is learner.average
    for mine, plain in zip(learner.actor.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_actors_rate_falls_by_a_cosine(agent, random_dataset):
    dataset = random_dataset([9, 4, 17])
    learner = built(small(agent, actor_schedule="cosine", actor_learning_rate=0.1), dataset, steps=5)
    rates = []
    for batch, step in batches(learner, dataset, 5):
        learner.update(batch, step)
        rates.append(learner.actor_optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * done / 5)) for done in range(5)])
    assert learner.critic_optimiser.param_groups[0]["lr"] == 3e-3


def test_the_actors_rate_by_hand():
    constant = NetworkConfig(learning_rate=0.5)
    assert [constant.actor_rate(step, 4) for step in (1, 4)] == [0.5, 0.5]
    assert replace(constant, actor_learning_rate=0.125).actor_rate(3, 4) == 0.125
    cosine = replace(constant, actor_schedule="cosine")
    half = 0.5**0.5
    expected = [0.5, 0.25 * (1 + half), 0.25, 0.25 * (1 - half)]
    assert [cosine.actor_rate(step, 4) for step in (1, 2, 3, 4)] == pytest.approx(expected)
    own = replace(cosine, actor_learning_rate=0.8)
    assert own.actor_rate(1, 1) == pytest.approx(0.8)
    rates = [own.actor_rate(step, 1_000) for step in range(1, 1_001)]
    assert all(before > after for before, after in pairwise(rates))
    assert 0 < rates[-1] < 1e-5

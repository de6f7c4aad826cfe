"""The updates of IQL, TD3+BC and AWAC in plain PyTorch, as one writes them from the algorithm boxes of the papers.

Separate networks, one plain Adam each, targets that follow parameter by parameter, float32 on the CPU: the agents'
speed is compared with theirs. Actions lie in [-1, 1].
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.transitions import TransitionSampler

RATE = 3e-4  # of every optimiser
GAMMA = 0.99
TAU = 0.005  # how fast the target networks follow


class Replay:
    """Transitions in a tensor a column; a batch is drawn with replacement by numpy, one index a column."""

    def __init__(self, dataset: TrajectoryDataset, batch_size: int) -> None:
        every = TransitionSampler(dataset, batch_size).at(torch.arange(dataset.steps))
        mean, std = every.observations.mean(0), every.observations.std(0) + 1e-3
        self.states, self.next_states = (every.observations - mean) / std, (every.next_observations - mean) / std
        self.actions = every.actions
        self.rewards, self.dones = every.rewards[:, None], every.terminated[:, None].float()
        self.batch_size, self.generator = batch_size, np.random.default_rng(0)

    def sample(self) -> list[Tensor]:
        """States (B, s), actions (B, a), rewards (B, 1), next states (B, s) and dones (B, 1)."""
        rows = self.generator.integers(0, len(self.states), self.batch_size)
        columns = self.states, self.actions, self.rewards, self.next_states, self.dones
        return [column[rows] for column in columns]

    @property
    def sizes(self) -> tuple[int, int]:
        """s and a."""
        return self.states.shape[1], self.actions.shape[1]


def mlp(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class Gaussian(nn.Module):
    """States to a normal distribution whose deviation does not depend on them."""

    def __init__(self, states: int, actions: int, width: int) -> None:
        super().__init__()
        self.mean = mlp(states, actions, width)
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, states: Tensor) -> Normal:
        return Normal(self.mean(states).tanh(), self.log_std.clamp(-20.0, 2.0).exp())


class TwinCritics:
    """Two values of states and actions as networks of their own, with an optimiser and slowly following targets."""

    def __init__(self, states: int, actions: int, width: int) -> None:
        self.first, self.second = mlp(states + actions, 1, width), mlp(states + actions, 1, width)
        self.first_target, self.second_target = copy.deepcopy(self.first), copy.deepcopy(self.second)
        self.optimiser = torch.optim.Adam([*self.first.parameters(), *self.second.parameters()], lr=RATE)

    def smaller(self, states: Tensor, actions: Tensor) -> Tensor:
        """(B, 1) by the present networks."""
        inputs = torch.cat([states, actions], 1)
        return torch.min(self.first(inputs), self.second(inputs))

    @torch.no_grad()
    def smaller_target(self, states: Tensor, actions: Tensor) -> Tensor:
        """(B, 1) by the targets."""
        inputs = torch.cat([states, actions], 1)
        return torch.min(self.first_target(inputs), self.second_target(inputs))

    def regress(self, states: Tensor, actions: Tensor, targets: Tensor) -> None:
        """A step of both towards targets (B, 1)."""
        inputs = torch.cat([states, actions], 1)
        descend(F.mse_loss(self.first(inputs), targets) + F.mse_loss(self.second(inputs), targets), self.optimiser)

    def follow(self) -> None:
        """A step of the targets."""
        follow(self.first_target, self.first)
        follow(self.second_target, self.second)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """A step of an optimiser."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def follow(target: nn.Module, source: nn.Module) -> None:
    """A step of a target network, parameter by parameter."""
    for mine, other in zip(target.parameters(), source.parameters(), strict=True):
        mine.data.copy_(TAU * other.data + (1 - TAU) * mine.data)


class TextbookIQL:
    """Implicit Q-learning (Kostrikov et al. 2022): expectile 0.7, weights exp(3 A) of at most 100."""

    expectile, beta, most = 0.7, 3.0, 100.0

    def __init__(self, replay: Replay, steps: int, width: int = 256) -> None:
        states, actions = replay.sizes
        self.replay, self.critics = replay, TwinCritics(states, actions, width)
        self.value, self.policy = mlp(states, 1, width), Gaussian(states, actions, width)
        self.value_optimiser = torch.optim.Adam(self.value.parameters(), lr=RATE)
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.policy_optimiser, steps)

    def update(self) -> None:
        """Draw a batch and train everything on it once."""
        states, actions, rewards, next_states, dones = self.replay.sample()
        with torch.no_grad():
            next_value = self.value(next_states)
        advantage = self.critics.smaller_target(states, actions) - self.value(states)
        descend((abs(self.expectile - (advantage < 0).float()) * advantage**2).mean(), self.value_optimiser)
        self.critics.regress(states, actions, rewards + (1 - dones) * GAMMA * next_value)
        self.critics.follow()
        weights = (self.beta * advantage.detach()).exp().clamp(max=self.most)
        log_likelihood = self.policy(states).log_prob(actions).sum(1, keepdim=True)
        descend(-(weights * log_likelihood).mean(), self.policy_optimiser)
        self.schedule.step()


class TextbookTD3BC:
    """TD3+BC (Fujimoto and Gu 2021): alpha 2.5, the policy at every second update."""

    alpha, delay, noise, noise_clip = 2.5, 2, 0.2, 0.5

    def __init__(self, replay: Replay, steps: int, width: int = 256) -> None:
        states, actions = replay.sizes
        self.replay, self.critics, self.updates = replay, TwinCritics(states, actions, width), 0
        self.policy = nn.Sequential(mlp(states, actions, width), nn.Tanh())
        self.policy_target = copy.deepcopy(self.policy)
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=RATE)

    def update(self) -> None:
        """Draw a batch and train the critics on it once, and the policy if it is its turn."""
        self.updates += 1
        states, actions, rewards, next_states, dones = self.replay.sample()
        with torch.no_grad():
            noise = (torch.randn_like(actions) * self.noise).clamp(-self.noise_clip, self.noise_clip)
            next_actions = (self.policy_target(next_states) + noise).clamp(-1.0, 1.0)
            targets = rewards + (1 - dones) * GAMMA * self.critics.smaller_target(next_states, next_actions)
        self.critics.regress(states, actions, targets)
        if self.updates % self.delay:
            return
        chosen = self.policy(states)
        value = self.critics.first(torch.cat([states, chosen], 1))
        scale = self.alpha / value.abs().mean().detach()
        descend(F.mse_loss(chosen, actions) - scale * value.mean(), self.policy_optimiser)
        self.critics.follow()
        follow(self.policy_target, self.policy)


class TextbookAWAC:
    """AWAC (Nair et al. 2020): the data's actions weighted by exp(A / λ), λ = 1/3, weights of at most 100."""

    temperature, most = 1 / 3, 100.0

    def __init__(self, replay: Replay, steps: int, width: int = 256) -> None:
        states, actions = replay.sizes
        self.replay, self.critics = replay, TwinCritics(states, actions, width)
        self.policy = Gaussian(states, actions, width)
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=RATE)

    def update(self) -> None:
        """Draw a batch and train everything on it once."""
        states, actions, rewards, next_states, dones = self.replay.sample()
        with torch.no_grad():
            next_actions = self.policy(next_states).sample().clamp(-1.0, 1.0)
            targets = rewards + (1 - dones) * GAMMA * self.critics.smaller_target(next_states, next_actions)
        self.critics.regress(states, actions, targets)
        policy = self.policy(states)
        with torch.no_grad():
            value = self.critics.smaller(states, policy.sample().clamp(-1.0, 1.0))
            advantage = self.critics.smaller(states, actions) - value
            weights = (advantage / self.temperature).exp().clamp(max=self.most)
        descend(-(weights * policy.log_prob(actions).sum(1, keepdim=True)).mean(), self.policy_optimiser)
        self.critics.follow()


TEXTBOOK_VALUES = {"awac": TextbookAWAC, "iql": TextbookIQL, "td3-bc": TextbookTD3BC}
"""By the name of the agent that each stands beside; called with a `Replay`, the steps of the training and the width of
the networks."""

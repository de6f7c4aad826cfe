"""An agent as another package would write it: TD3 with cloning (Fujimoto and Gu 2021), small.

It has two optimisers, target networks, and an actor that is updated at every second step.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flowrl.data.transitions import TransitionSampler
from flowrl.nn.perceptron import PerceptronActor, perceptron
from flowrl.training import distributed
from flowrl.training.config import AgentConfig


@dataclass(frozen=True)
class ActorCriticConfig(AgentConfig):
    """TD3 with cloning, from outside of flowrl."""

    width: int = 64
    """Features of a hidden layer."""
    learning_rate: float = 1e-3
    """Of both optimisers."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.01
    """How fast the target networks follow."""
    alpha: float = 2.5
    """Weight of the value beside the cloning error."""

    def build(self, normaliser, training, device):
        return ActorCritic(self, normaliser, device)


class Critics(nn.Module):
    """Two values (B,) of raw observations and actions."""

    def __init__(self, normaliser, width):
        super().__init__()
        self.normaliser = normaliser
        inputs = normaliser.input_size + normaliser.action_size
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), perceptron(width, 1, width=width, layers=1))
            for _ in range(2)
        )

    def forward(self, observations, actions):
        inputs = torch.cat([self.normaliser.observations(observations), self.normaliser.actions(actions)], -1)
        return [network(inputs)[:, 0] for network in self.networks]


class ActorCritic:
    def __init__(self, config, normaliser, device):
        self.config = config
        self.actor = PerceptronActor(normaliser, width=config.width).to(device)
        self.critics = Critics(normaliser, config.width).to(device)
        self.target_actor, self.target_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), config.learning_rate)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), config.learning_rate)

    def sampler(self, dataset, batch_size, part):
        return TransitionSampler(dataset, batch_size, gamma=self.config.gamma, part=part)

    def update(self, batch, step):
        loss = self.critic_loss(batch)
        self.descend(loss, self.critic_optimiser, self.critics)
        metrics = {"critic_loss": loss.detach()}
        if step % 2 == 0:
            loss = self.actor_loss(batch)
            self.descend(loss, self.actor_optimiser, self.actor)
            metrics["actor_loss"] = loss.detach()
            self.follow(self.target_actor, self.actor)
            self.follow(self.target_critics, self.critics)
        return metrics

    def critic_loss(self, batch):
        with torch.no_grad():
            following = self.target_actor(batch.next_observations)
            value = torch.minimum(*self.target_critics(batch.next_observations, following))
            target = batch.rewards + batch.discounts * value
            target = target.maximum(
                batch.discounted_returns
            )  # Reach is deterministic, and its rewards are not negative
        return sum(F.mse_loss(value, target) for value in self.critics(batch.observations, batch.actions))

    def actor_loss(self, batch):
        actions = self.actor(batch.observations)
        value = self.critics(batch.observations, actions)[0]
        scale = distributed.mean(value.abs().mean().detach())  # of the whole batch, in however many processes
        return self.actor.head.error(actions, batch.actions).mean() - self.config.alpha * value.mean() / scale

    def descend(self, loss, optimiser, module):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(module.parameters())
        optimiser.step()

    @torch.no_grad()
    def follow(self, target, source):
        for mine, other in zip(target.parameters(), source.parameters(), strict=True):
            mine.lerp_(other, self.config.tau)

    def parts(self):
        names = ("actor", "critics", "target_actor", "target_critics", "actor_optimiser", "critic_optimiser")
        return {name: getattr(self, name) for name in names}

    def state_dict(self):
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state):
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

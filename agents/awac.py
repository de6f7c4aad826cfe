"""Advantage-weighted actor critic (Nair et al. 2020): policy iteration, with cloning weighted by exp(A / lambda)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowrl.agents.actor_critic import ActorCritic, regression
from flowrl.agents.actor_critic_config import (
    SHORT_CRITIC,
    SHORT_NETWORK,
    ActorCriticConfig,
    CriticConfig,
    NetworkConfig,
)
from flowrl.agents.backbone import Backbone
from flowrl.agents.compiling import compilable
from flowrl.data.transitions import Transitions
from flowrl.nn.heads import CategoricalHead, GaussianHead
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class AWACConfig(ActorCriticConfig):
    """Advantage-weighted actor critic."""

    temperature: float = 1 / 3
    """Lambda: the lower, the more the actor prefers actions of a high advantage; a very great one clones all alike."""
    max_weight: float = 100.0
    """Largest weight of an action."""
    critic: CriticConfig = CriticConfig()
    network: NetworkConfig = NetworkConfig(layers=3)
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "max_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0 and finite")

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "AWAC":
        """See `ActorCriticConfig`."""
        return AWAC(self, normaliser, training, device)


class AWAC(ActorCritic):
    """The critics Q(s, a) and a Gaussian actor (categorical for discrete actions)."""

    def __init__(
        self, config: AWACConfig, normaliser: Normaliser, training: TrainingConfig, device: torch.device
    ) -> None:
        head = CategoricalHead(normaliser) if normaliser.discrete else GaussianHead(normaliser, shared_std=True)
        policy = config.backbone.actor(normaliser, head, config.network.width, config.network.layers)
        super().__init__(config, policy, training, device)
        self.config = config

    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """Q by r + gamma Q(s', a') with a' of the actor, then the actor by cloning weighted by exp(A / lambda)."""
        loss, metrics = self.losses(batch, self.noise(batch, 2, self.policy.normaliser.action_size))
        self.descend(loss, self.critic_optimiser, self.actor_optimiser)
        self.follow()
        return metrics

    @compilable
    def losses(self, batch: Transitions, noises: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both losses, and the metrics; noises (B, 2, action size) draw the actions now and next."""
        config, observations, actions = self.config, batch.observations, batch.actions
        noise, next_noise = noises.unbind(1)
        with self.precision():
            read = self.read(self.policy, batch)
            with torch.no_grad():
                next_actions = self.policy.head.sample(read.after, next_noise)
                target = self.target(batch, self.target_critics(batch.next_observations, next_actions).amin(0))
            action_values = self.critics(observations, actions)
            critic_loss = regression(action_values, target)

            prediction = read.here
            with torch.no_grad():
                own_actions = self.policy.head.sample(prediction, noise)
                advantages = action_values.amin(0) - self.critics(observations, own_actions).amin(0)
                weights = (advantages / config.temperature).exp().clamp(max=config.max_weight)
            actor_loss = (weights * self.policy.head.error(prediction, actions).sum(-1)).mean()
        return critic_loss + actor_loss, {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "value": action_values.detach().mean(),
            "advantage_weight": weights.mean(),
        }


AWAC_PAPER = AWACConfig()
AWAC_SHORT = AWACConfig(temperature=1 / 30, critic=SHORT_CRITIC, network=SHORT_NETWORK)

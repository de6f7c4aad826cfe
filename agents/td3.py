"""What TD3+BC and ReBRAC take from TD3 (Fujimoto et al. 2018): a smoothed target action and a rarer actor."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowrl.agents.actor_critic import ActorCritic
from flowrl.agents.actor_critic_config import ActorCriticConfig
from flowrl.data.transitions import Transitions
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """The settings of TD3."""

    takes_discrete = False

    actor_every: int = 2
    """Updates of the critics for one of the actor and of the target networks."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target's action, in units of actions scaled to [-1, 1]."""
    target_noise_clip: float = 0.5
    """Largest noise on the target's action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actor_every < 1:
            raise ValueError(f"actor_every is {self.actor_every}: it must be at least 1")
        self.check_least_zero("target_noise", "target_noise_clip")

    def check_least_zero(self, *names: str) -> None:
        """Raise ValueError where a setting is neither None nor a finite number of at least 0."""
        for name in names:
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: it must be at least 0 and finite")


class TD3(ActorCritic):
    """The critics Q(s, a), a deterministic actor, and the targets of both."""

    def __init__(self, config: Any, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> None:
        policy = config.backbone.actor(normaliser, None, config.network.width, config.network.layers)
        super().__init__(config, policy, training, device, averaged=True)
        self.config = config

    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """The critics; after every `actor_every` updates of theirs the actor and the target networks."""
        loss, metrics = self.critic_losses(batch, self.noise(batch, self.policy.normaliser.action_size))
        self.descend(loss, self.critic_optimiser)
        if step % self.config.actor_every:
            return metrics
        loss, more = self.actor_losses(batch)
        self.descend(loss, self.actor_optimiser)
        self.follow()
        return metrics | more

    @abstractmethod
    def critic_losses(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The critics' loss and metrics; noise (B, action size) is that of the target's actions, see `noise`."""

    @abstractmethod
    def actor_losses(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """The actor's loss and metrics."""

    def target_actions(self, batch: Transitions, noise: Tensor) -> Tensor:
        """Raw next actions (B, action size) of the target actor, with the noise scaled and clipped."""
        noise = self.config.target_noise * noise
        noise = noise.clamp(-self.config.target_noise_clip, self.config.target_noise_clip)
        return self.average.head.sample(self.read(self.average, batch).after, noise)

"""What TD3+BC and ReBRAC take from TD3 (Fujimoto et al. 2018): a smoothed target action and a rarer actor."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowrl.agents.actor_critic import ActorCritic
from flowrl.agents.actor_critic_config import ActorCriticConfig
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import PerceptronActor
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
        policy = PerceptronActor(normaliser, width=config.network.width, layers=config.network.layers)
        super().__init__(config, policy, training, device, averaged=True)
        self.config = config

    def target_actions(self, observations: Tensor) -> Tensor:
        """Raw actions (B, action size) of the target actor with clipped noise."""
        noise = self.config.target_noise * self.noise(self.policy.normaliser.action_size)
        noise = noise.clamp(-self.config.target_noise_clip, self.config.target_noise_clip)
        return self.average.head.sample(self.average(observations), noise)

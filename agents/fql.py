"""Flow Q-learning (Park, Li and Levine 2025): a flow clones the data; a one-step actor is drawn to it and to high Q."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.perceptron import MemorylessActor, perceptron
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class FQLConfig(ActorCriticConfig):
    """Flow Q-learning."""

    takes_discrete = False

    alpha: float = 10.0
    """Weight of the distance from the flow's action, beside the value over its mean magnitude; the paper tunes it for
    every task."""
    flow_steps: int = 10
    """Euler steps of the flow from noise to an action."""
    critic: CriticConfig = CriticConfig(layer_norm=True)
    network: NetworkConfig = NetworkConfig(width=512, layers=4)
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone.looks_back:
            raise ValueError(
                f"backbone is {self.backbone.backbone!r}: it must be mlp, since the one-step actor also reads noise"
            )
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}: it must be at least 0 and finite")
        if self.flow_steps < 1:
            raise ValueError(f"flow_steps is {self.flow_steps}: it must be at least 1")

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "FQL":
        """See `ActorCriticConfig`."""
        return FQL(self, normaliser, training, device)


class OneStepActor(MemorylessActor):
    """A perceptron from the scaled observation and normal noise to an action.

    Each slot draws its own noise, the same in every evaluation.
    """

    def __init__(self, normaliser: Normaliser, width: int, layers: int) -> None:
        super().__init__()
        self.normaliser, size = normaliser, normaliser.action_size
        self.network = perceptron(normaliser.input_size + size, size, width=width, layers=layers, activation=nn.GELU)

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Scaled actions (..., action size), not clipped, for raw observations and noise (..., action size)."""
        return self.network(torch.cat([self.normaliser.observations(observations), noise], dim=-1)).float()

    def initial(self, targets: Tensor) -> Any:
        """A generator a slot."""
        return [torch.Generator().manual_seed(slot) for slot in range(len(targets))]

    def select(self, carry: Any, slots: Tensor) -> Any:
        """See `flowrl.protocols.Actor`."""
        return [carry[slot] for slot in slots.tolist()]

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """See `flowrl.protocols.Actor`."""
        size = self.normaliser.action_size
        noise = torch.stack([torch.randn(size, generator=generator) for generator in carry]).to(observations)
        return carry, self.normaliser.raw_actions(self(observations, noise).clamp(-1.0, 1.0))


class FQL(ActorCritic):
    """The critics Q(s, a), the velocity v(s, x, t) of the cloning flow, and the one-step actor."""

    def __init__(
        self, config: FQLConfig, normaliser: Normaliser, training: TrainingConfig, device: torch.device
    ) -> None:
        width, layers, size = config.network.width, config.network.layers, normaliser.action_size
        policy = OneStepActor(normaliser, width, layers)
        inputs = normaliser.input_size + size + 1
        self.velocity = perceptron(inputs, size, width=width, layers=layers, activation=nn.GELU)
        super().__init__(config, policy, training, device, beside_actor=self.velocity, activation=F.gelu)
        self.config, self.normaliser, self.size = config, normaliser, size

    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """Q by r + gamma Q(s', a'); the flow by flow matching; the actor by alpha (a - flow)^2 - Q / mean |Q|."""
        next_noise, start, noise = self.noise(batch, 3, self.size).unbind(1)
        critic_loss, metrics = self.critic_losses(batch, next_noise)
        actor_loss, more = self.actor_losses(batch.observations, batch.actions, start, noise, self.uniform(batch, 1))
        self.descend(actor_loss, self.actor_optimiser)
        self.descend(critic_loss, self.critic_optimiser)
        self.follow()
        return metrics | more

    @compilable
    def critic_losses(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Q by r + gamma Q(s', a'), where noise (B, action size) draws a'."""
        with self.precision():
            with torch.no_grad():
                next_actions = self.raw(self.policy(batch.next_observations, noise))
                target = self.target(batch, self.target_critics(batch.next_observations, next_actions).mean(0))
            action_values = self.critics(batch.observations, batch.actions)
            critic_loss = regression(action_values, target)
        return critic_loss, {"critic_loss": critic_loss.detach(), "value": action_values.detach().mean()}

    @compilable
    def actor_losses(
        self, observations: Tensor, actions: Tensor, start: Tensor, noise: Tensor, time: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching from start (B, action size) at times (B, 1), and the one-step actor's loss on the noise."""
        with self.precision():
            end = self.normaliser.actions(actions)
            flow_error = self.flow(observations, (1 - time) * start + time * end, time) - (end - start)
            flow_loss = flow_error.square().mean()
            drawn = self.policy(observations, noise)
            distance = (drawn - self.clone(observations, noise)).square().mean()
            own_values = self.critics(observations, self.raw(drawn)).mean(0)
            weight = 1 / self.mean_of_ranks(own_values.abs().mean())
            actor_loss = flow_loss + self.config.alpha * distance - weight * own_values.mean()
        return actor_loss, {
            "flow_loss": flow_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "distance": distance.detach(),
        }

    def flow(self, observations: Tensor, points: Tensor, time: Tensor) -> Tensor:
        """The velocity (B, action size) at points (B, action size) of scaled actions, at times (B, 1) in [0, 1]."""
        return self.velocity(torch.cat([self.normaliser.observations(observations), points, time], dim=-1)).float()

    @torch.no_grad()
    def clone(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Scaled actions (B, action size) of the flow that begins at the noise, within their bounds."""
        points, steps = noise, self.config.flow_steps
        for step in range(steps):
            time = torch.full_like(noise[:, :1], step / steps)
            points = points + self.flow(observations, points, time) / steps
        return points.clamp(-1.0, 1.0)

    def raw(self, scaled: Tensor) -> Tensor:
        """Raw actions within their bounds."""
        return self.normaliser.raw_actions(scaled.clamp(-1.0, 1.0))

    def parts(self) -> Any:
        """See `ActorCritic`."""
        yield from super().parts()
        yield "velocity", self.velocity


FQL_PAPER = FQLConfig()
FQL_SHORT = FQLConfig(critic=SHORT_CRITIC, network=SHORT_NETWORK)

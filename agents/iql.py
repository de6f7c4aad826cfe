"""Implicit Q-learning (Kostrikov et al. 2022): values from the data's actions alone, then weighted cloning."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

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
from flowrl.agents.paper_tasks import paper_task
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.transitions import Transitions
from flowrl.nn.critics import StateValue
from flowrl.nn.heads import CategoricalHead, GaussianHead, TanhHead
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class IQLConfig(ActorCriticConfig):
    """Implicit Q-learning."""

    expectile: float | None = None
    """Which expectile of the data's action values a state's value is: 0.5 the mean, near 1 the best action; None for
    the paper's on this dataset, mostly 0.7."""
    beta: float | None = None
    """How strongly the actor prefers actions of a high advantage; 0 clones all alike; None for the paper's on this
    dataset, mostly 3."""
    max_weight: float = 100.0
    """Largest weight of an action."""
    policy: Literal["gaussian", "deterministic"] | None = None
    """The actor's distribution for real actions: Gaussian with one standard deviation for all observations, or
    deterministic; None for the paper's on this dataset, mostly Gaussian (on Hopper medium and medium-replay
    deterministic). Discrete actions have none."""
    critic: CriticConfig = CriticConfig()
    network: NetworkConfig = NetworkConfig(actor_schedule="cosine")
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expectile is not None and not 0.0 < self.expectile < 1.0:
            raise ValueError(f"expectile is {self.expectile}: it must be above 0 and below 1")
        if self.beta is not None and not 0 <= self.beta < math.inf:
            raise ValueError(f"beta is {self.beta}: it must be at least 0 and finite")
        if not 0 < self.max_weight < math.inf:
            raise ValueError(f"max_weight is {self.max_weight}: it must be above 0 and finite")
        if self.policy not in (None, "gaussian", "deterministic"):
            raise ValueError(f"policy is {self.policy!r}: known are gaussian, deterministic")

    def for_dataset(self, dataset: TrajectoryDataset) -> Self:
        """See `AgentConfig`."""
        task = paper_task(dataset.id)
        expectile, beta = (0.5, 6.0) if task == "hopper-medium-expert" else (0.7, 3.0)
        slow = task in ("hopper-medium", "hopper-medium-replay")
        policy: Literal["gaussian", "deterministic"] = "deterministic" if slow else "gaussian"
        chosen = replace(
            self,
            expectile=expectile if self.expectile is None else self.expectile,
            beta=beta if self.beta is None else self.beta,
            policy=None if dataset.discrete_start is not None else self.policy or policy,
            critic=replace(self.critic, tau=0.001 if slow else 0.005) if self.critic.tau is None else self.critic,
        )
        return super(IQLConfig, chosen).for_dataset(dataset)

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "IQL":
        """See `ActorCriticConfig`."""
        return IQL(self, normaliser, training, device)


class IQL(ActorCritic):
    """Three networks: V(s), the critics Q(s, a), and the actor."""

    def __init__(
        self, config: IQLConfig, normaliser: Normaliser, training: TrainingConfig, device: torch.device
    ) -> None:
        if config.expectile is None or config.beta is None:
            raise ValueError("expectile and beta must be numbers, or come from `for_dataset`")
        width, layers = config.network.width, config.network.layers
        if normaliser.discrete:
            head = CategoricalHead(normaliser)
        else:
            head = (
                TanhHead(normaliser) if config.policy == "deterministic" else GaussianHead(normaliser, shared_std=True)
            )
        policy = config.backbone.actor(normaliser, head, width, layers)
        value = StateValue(normaliser, width=width, layers=layers, layer_norm=config.critic.layer_norm)
        super().__init__(config, policy, training, device, state_value=value)
        self.config, self.expectile, self.beta = config, config.expectile, config.beta

    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """V by expectile regression on the target critics, Q by r + gamma V(s'), the actor by exp(beta A) cloning."""
        loss, metrics = self.losses(batch)
        self.descend(loss, self.critic_optimiser, self.actor_optimiser)
        self.follow()
        return metrics

    @compilable
    def losses(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the three losses, and the metrics."""
        observations, actions = batch.observations, batch.actions
        with self.precision():
            with torch.no_grad():
                action_values = self.target_critics(observations, actions).amin(0)
                target = self.target(batch, self.state_value(batch.next_observations))
            advantages = action_values - self.state_value(observations)
            value_loss = expectile_loss(advantages, self.expectile).mean()
            critic_loss = regression(self.critics(observations, actions), target)

            weights = (self.beta * advantages.detach()).exp().clamp(max=self.config.max_weight)
            errors = self.policy.head.error(self.read(self.policy, batch).here, actions).sum(-1)
            actor_loss = (weights * errors).mean()
        return value_loss + critic_loss + actor_loss, {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "value": action_values.mean(),
            "advantage_weight": weights.mean(),
        }


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """Squared errors, those above 0 weighted by `expectile` and those below by 1 - `expectile`."""
    return torch.where(errors > 0, expectile, 1 - expectile) * errors.square()


IQL_PAPER = IQLConfig(critic=CriticConfig(tau=None, scale_rewards="returns"))
IQL_SHORT = IQLConfig(
    expectile=0.7,
    beta=30.0,
    policy="gaussian",
    critic=SHORT_CRITIC,
    network=replace(SHORT_NETWORK, actor_schedule="cosine"),
)

"""Conservative Q-learning (Kumar et al. 2020): soft actor-critic whose values are lowered outside the data."""

import math
from dataclasses import dataclass
from typing import Any

import torch
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
from flowrl.nn.heads import CategoricalHead, TanhGaussianHead
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class CQLConfig(ActorCriticConfig):
    """Conservative Q-learning."""

    alpha: float = 10.0
    """Weight of the penalty on values outside the data."""
    sampled_actions: int = 10
    """Actions drawn from each of three distributions to estimate the penalty: uniform, and the actor's in this and in
    the next observation. Discrete actions need none: all are counted."""
    entropy_rate: float = 3e-5
    """Learning rate of the entropy's weight, whose target is minus the size of an action, or for discrete actions half
    of the largest entropy."""
    critic: CriticConfig = CriticConfig()
    network: NetworkConfig = NetworkConfig(layers=3, actor_learning_rate=3e-5)
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}: it must be at least 0 and finite")
        if self.sampled_actions < 1:
            raise ValueError(f"sampled_actions is {self.sampled_actions}: it must be at least 1")
        if not self.entropy_rate > 0:
            raise ValueError(f"entropy_rate is {self.entropy_rate}: it must be above 0")

    def judged_actions(self, normaliser: Normaliser) -> int:
        """See `ActorCriticConfig`."""
        return 1 if normaliser.discrete else 3 * self.sampled_actions

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "CQL":
        """See `ActorCriticConfig`."""
        return CQL(self, normaliser, training, device)


class CQL(ActorCritic):
    """The critics Q(s, a), a tanh-Gaussian actor (categorical for discrete actions), and the entropy's weight."""

    def __init__(
        self, config: CQLConfig, normaliser: Normaliser, training: TrainingConfig, device: torch.device
    ) -> None:
        self.head: Any = CategoricalHead(normaliser) if normaliser.discrete else TanhGaussianHead(normaliser)
        width, layers = config.network.width, config.network.layers
        policy = config.backbone.actor(normaliser, self.head, width, layers)
        super().__init__(config, policy, training, device)
        self.config, size = config, normaliser.action_size
        self.target_entropy = math.log(size) / 2 if normaliser.discrete else -float(size)
        self.log_entropy_weight = nn.Parameter(torch.zeros((), device=device))
        self.entropy_optimiser = torch.optim.Adam([self.log_entropy_weight], config.entropy_rate)

    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """The actor by SAC's loss; Q by r + gamma Q(s', a'), plus alpha (log-sum-exp of Q less Q of the data)."""
        size = self.policy.normaliser.action_size
        actor_loss, metrics = self.actor_losses(batch, self.noise(batch, size))
        entropy_loss = -self.log_entropy_weight * (self.target_entropy - metrics["entropy"])
        noise, candidates = self.noise(batch, size), self.candidate_noise(batch)
        critic_loss, more = self.critic_losses(batch, noise, *candidates)
        self.descend(actor_loss, self.actor_optimiser)
        self.descend(critic_loss, self.critic_optimiser)
        self.descend(entropy_loss, self.entropy_optimiser)
        self.follow()
        return metrics | more

    @compilable
    def actor_losses(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """SAC's loss of the actor."""
        with self.precision():
            prediction = self.read(self.policy, batch).here
            own_values, log_density = self.judged(prediction, batch.observations, self.critics, noise)
            entropy_weight = self.log_entropy_weight.detach().exp()
            actor_loss = (entropy_weight * log_density - own_values).mean()
        return actor_loss, {"actor_loss": actor_loss.detach(), "entropy": -log_density.detach().mean()}

    @compilable
    def critic_losses(self, batch: Transitions, noise: Tensor, *candidates: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Q by r + gamma Q(s', a'), plus alpha (log-sum-exp of Q less Q of the data)."""
        observations, following = batch.observations, batch.next_observations
        with self.precision():
            with torch.no_grad():
                read = self.read(self.policy, batch)
                target = self.target(batch, self.judged(read.after, following, self.target_critics, noise)[0])
            action_values = self.critics(observations, batch.actions)
            critic_loss = regression(action_values, target)
            penalty = (self.soft_maximum(observations, read, *candidates) - action_values).mean(-1).sum()
        metrics = {"critic_loss": critic_loss, "penalty": penalty, "value": action_values.mean()}
        return critic_loss + self.config.alpha * penalty, {name: value.detach() for name, value in metrics.items()}

    def candidate_noise(self, batch: Transitions) -> tuple[Tensor, ...]:
        """What `soft_maximum` draws its actions by: uniform numbers, and noise for either observation."""
        count, size = self.config.sampled_actions, self.policy.normaliser.action_size
        if self.policy.normaliser.discrete:
            return ()
        return self.uniform(batch, count, size), self.noise(batch, count, size), self.noise(batch, count, size)

    def judged(
        self, prediction: Tensor, observations: Tensor, critics: nn.Module, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B,) least values of the actor's actions, and their log densities (discrete: the means of both)."""
        if self.policy.normaliser.discrete:
            probabilities, logs = prediction.softmax(-1), prediction.log_softmax(-1)
            return critics(observations, probabilities).amin(0), (probabilities * logs).sum(-1)
        drawn, log_density = self.head.sample_with_log_density(prediction, noise)
        return critics(observations, drawn).amin(0), log_density

    def soft_maximum(self, observations: Tensor, read: Any, *candidates: Tensor) -> Tensor:
        """(M, B) log-sum-exp of each critic's values over all actions, by importance sampling for real ones.

        Args:
            read: the policy's predictions, see `read`.
            candidates: of `candidate_noise`.
        """
        if self.policy.normaliser.discrete:
            return self.critics.of_all(observations).logsumexp(-1)
        count, size = self.config.sampled_actions, self.policy.normaliser.action_size
        with torch.no_grad():
            numbers, *noises = candidates
            uniform = self.policy.normaliser.raw_actions(2 * numbers - 1)
            drawn, densities = [uniform], [torch.full_like(uniform[..., 0], -size * math.log(2))]
            for prediction, noise in zip((read.here, read.after), noises, strict=True):
                prediction = prediction[:, None].expand(-1, count, -1)
                sample, density = self.head.sample_with_log_density(prediction, noise)
                drawn.append(sample)
                densities.append(density)
            judged, log_densities = torch.cat(drawn, 1), torch.cat(densities, 1)
        repeated = observations.repeat_interleave(3 * count, 0)
        values = self.critics(repeated, judged.flatten(0, 1)).unflatten(1, (-1, 3 * count))
        return (values - log_densities).logsumexp(-1) - math.log(3 * count)

    def parts(self) -> Any:
        """See `ActorCritic`."""
        yield from super().parts()
        yield "entropy_optimiser", self.entropy_optimiser

    def state_dict(self) -> dict[str, Any]:
        """See `flowrl.protocols.Learner`."""
        return super().state_dict() | {"log_entropy_weight": self.log_entropy_weight.detach().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Learner`."""
        super().load_state_dict(state)
        with torch.no_grad():
            self.log_entropy_weight.copy_(state["log_entropy_weight"])


CQL_PAPER = CQLConfig()
CQL_SHORT = CQLConfig(alpha=1.0, critic=SHORT_CRITIC, network=SHORT_NETWORK)

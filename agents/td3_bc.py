"""TD3+BC (Fujimoto and Gu 2021): TD3 whose actor also stays near the data's actions."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowrl.agents.actor_critic import regression
from flowrl.agents.actor_critic_config import SHORT_CRITIC, SHORT_NETWORK, CriticConfig, NetworkConfig
from flowrl.agents.backbone import Backbone
from flowrl.agents.compiling import compilable
from flowrl.agents.td3 import TD3, TD3Config
from flowrl.data.transitions import Transitions
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """TD3 with behaviour cloning."""

    alpha: float = 2.5
    """Weight of the value, over its mean magnitude, beside the cloning error; 0 only clones."""
    critic: CriticConfig = CriticConfig()
    network: NetworkConfig = NetworkConfig()
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least_zero("alpha")

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "TD3BC":
        """See `ActorCriticConfig`."""
        return TD3BC(self, normaliser, training, device)


class TD3BC(TD3):
    """The critics Q(s, a), a deterministic actor, and the targets of both."""

    @compilable
    def critic_losses(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Q by TD3's target."""
        observations, actions = batch.observations, batch.actions
        with self.precision():
            with torch.no_grad():
                next_actions = self.target_actions(batch, noise)
                target = self.target(batch, self.target_critics(batch.next_observations, next_actions).amin(0))
            action_values = self.critics(observations, actions)
            critic_loss = regression(action_values, target)
        return critic_loss, {"critic_loss": critic_loss.detach(), "value": action_values.detach().mean()}

    @compilable
    def actor_losses(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """-lambda Q + (pi - a)^2 with lambda = alpha / mean |Q|."""
        with self.precision():
            own_actions = self.read(self.policy, batch).here
            own_values = self.critics(batch.observations, own_actions, members=1)[0]
            weight = self.config.alpha / self.mean_of_ranks(own_values.abs().mean())
            cloning_error = self.policy.head.error(own_actions, batch.actions).mean()
            actor_loss = cloning_error - weight * own_values.mean()
        return actor_loss, {"actor_loss": actor_loss.detach(), "cloning_error": cloning_error.detach()}


TD3_BC_PAPER = TD3BCConfig()
TD3_BC_SHORT = TD3BCConfig(alpha=10.0, critic=SHORT_CRITIC, network=replace(SHORT_NETWORK, actor_schedule="cosine"))

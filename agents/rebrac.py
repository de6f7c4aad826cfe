"""ReBRAC (Tarasov et al. 2023): TD3+BC with a cloning term in the critics' target as well, each with its own weight."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from flowrl.agents.actor_critic import regression
from flowrl.agents.actor_critic_config import (
    SHORT_CRITIC,
    SHORT_NETWORK,
    CriticConfig,
    NetworkConfig,
)
from flowrl.agents.backbone import Backbone
from flowrl.agents.compiling import compilable
from flowrl.agents.paper_tasks import paper_task
from flowrl.agents.td3 import TD3, TD3Config
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.transitions import Transitions
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.training.config import TrainingConfig

# (actor_cloning, critic_cloning) of the authors' CORL
PAPER = {
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-medium-expert": (0.01, 0.1),
    "hopper-medium": (0.01, 0.01),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-medium-expert": (0.1, 0.01),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-medium-expert": (0.01, 0.01),
}


@dataclass(frozen=True)
class ReBRACConfig(TD3Config):
    """TD3 with behaviour cloning in actor and critics."""

    actor_cloning: float | None = None
    """Weight of the squared distance from the data's action in the actor's loss, beside the value over its mean
    magnitude; None for the paper's on this dataset."""
    critic_cloning: float | None = None
    """Weight of the squared distance from the data's next action, which the critics' target subtracts; None for the
    paper's on this dataset."""
    critic: CriticConfig = CriticConfig(layer_norm=True, normalise_observations=False)
    network: NetworkConfig = NetworkConfig(layers=3, learning_rate=1e-3)
    backbone: Backbone = Backbone()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least_zero("actor_cloning", "critic_cloning")

    def for_dataset(self, dataset: TrajectoryDataset) -> Self:
        """See `AgentConfig`."""
        super().for_dataset(dataset)
        actor, critic = PAPER.get(paper_task(dataset.id) or "", (None, None))
        chosen = replace(
            self,
            actor_cloning=actor if self.actor_cloning is None else self.actor_cloning,
            critic_cloning=critic if self.critic_cloning is None else self.critic_cloning,
        )
        missing = [name for name in ("actor_cloning", "critic_cloning") if getattr(chosen, name) is None]
        if missing:
            raise InputError(
                f"the paper has no {' and no '.join(missing)} for {dataset.id}, only for {', '.join(PAPER)}: give a"
                " number for each"
            )
        return chosen

    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> "ReBRAC":
        """See `ActorCriticConfig`."""
        if self.actor_cloning is None or self.critic_cloning is None:
            raise ValueError("actor_cloning and critic_cloning must be numbers, or come from `for_dataset`")
        return ReBRAC(self, normaliser, training, device)


class ReBRAC(TD3):
    """The critics Q(s, a), a deterministic actor, and the targets of both."""

    @compilable
    def critic_losses(self, batch: Transitions, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Q by TD3's target less the weighted distance of its action from the data's."""
        config, observations, actions = self.config, batch.observations, batch.actions
        with self.precision():
            with torch.no_grad():
                next_actions = self.target_actions(batch, noise)
                distances = self.policy.head.error(next_actions, batch.next_actions).sum(-1) * batch.has_next_action
                next_values = self.target_critics(batch.next_observations, next_actions).amin(0)
                target = self.target(batch, next_values - config.critic_cloning * distances)
            action_values = self.critics(observations, actions)
            critic_loss = regression(action_values, target)
        return critic_loss, {"critic_loss": critic_loss.detach(), "value": action_values.detach().mean()}

    @compilable
    def actor_losses(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """-Q / mean |Q| plus the weighted distance from the data's action."""
        with self.precision():
            own_actions = self.read(self.policy, batch).here
            own_values = self.critics(batch.observations, own_actions).amin(0)
            weight = 1 / self.mean_of_ranks(own_values.abs().mean())
            cloning_error = self.policy.head.error(own_actions, batch.actions).sum(-1).mean()
            actor_loss = self.config.actor_cloning * cloning_error - weight * own_values.mean()
        return actor_loss, {"actor_loss": actor_loss.detach(), "cloning_error": cloning_error.detach()}


REBRAC_PAPER = ReBRACConfig()
REBRAC_SHORT = ReBRACConfig(
    actor_cloning=0.02,
    critic_cloning=0.1,
    critic=SHORT_CRITIC,
    network=replace(SHORT_NETWORK, actor_schedule="cosine"),
)

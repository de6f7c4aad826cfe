"""What learners with critics share: networks, targets, optimisers, noise, and what a Bellman target is."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flowrl.agents.actor_critic_config import ActorCriticConfig, reward_scale
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Part
from flowrl.data.transitions import Transitions, TransitionSampler
from flowrl.errors import InputError
from flowrl.nn.critics import ActionValues
from flowrl.nn.perceptron import MemorylessActor
from flowrl.training import distributed
from flowrl.training.config import TrainingConfig

CHECK_EVERY = 100  # training steps between two looks at the size of the values, beside those before a checkpoint
DIVERGED = 100.0  # times what the rewards allow at most


class ActorCritic(ABC):
    """A learner with critics, their target networks, and an actor that may be played by its average.

    Args:
        config: its `critic.tau` is a number.
        policy: the actor that is trained; a `MemorylessActor` with a `normaliser`, whose ``forward`` takes raw
            observations.
        averaged: keep the running average of the actor, even if it does not play.
        state_value: a network that is trained with the critics' optimiser.
        beside_actor: a network that is trained with the actor's optimiser.
        critic_shape: see `flowrl.nn.critics.Ensemble`.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        policy: Any,
        training: TrainingConfig,
        device: torch.device,
        *,
        averaged: bool = False,
        state_value: nn.Module | None = None,
        beside_actor: nn.Module | None = None,
        **critic_shape: Any,
    ) -> None:
        critic, network = config.critic, config.network
        if critic.tau is None:
            raise ValueError("tau is None: it must be a number, or come from `for_dataset`")
        self.critic, self.network, self.device, self.training = critic, network, device, training
        self.compiled: dict[Any, Any] = {}  # by method, see `compilable`
        shape = {"width": network.width, "layers": network.layers, "layer_norm": critic.layer_norm} | critic_shape
        self.policy = policy.to(device)
        self.critics = ActionValues(policy.normaliser, critic.critics, **shape).to(device)
        self.target_critics = _copy(self.critics)
        self.state_value: Any = None if state_value is None else state_value.to(device)
        self.average: Any = _copy(self.policy) if averaged or network.average_actor else None
        self.actor: MemorylessActor = self.average if network.average_actor else self.policy
        trained = [*self.critics.parameters(), *(state_value.parameters() if state_value else ())]
        self.critic_optimiser = torch.optim.Adam(trained, network.learning_rate, fused=True)
        played = [*self.policy.parameters(), *(beside_actor.to(device).parameters() if beside_actor else ())]
        self.actor_optimiser = torch.optim.Adam(played, network.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self.part, self.largest_value = WHOLE, math.inf
        pairs = [(self.target_critics, self.critics), *([] if self.average is None else [(self.average, self.policy)])]
        self._slow = [weight for slow, _ in pairs for weight in slow.parameters()]
        self._fast = [weight for _, fast in pairs for weight in fast.parameters()]
        self._follow = get_ema_multi_avg_fn(1.0 - critic.tau)

    # The data

    def sampler(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> TransitionSampler:
        """See `flowrl.protocols.Learner`."""
        self.part, scale = part, reward_scale(dataset, self.critic)
        steps = float(dataset.lengths.max()) if self.critic.gamma == 1 else 1 / (1 - self.critic.gamma)
        self.largest_value = DIVERGED * max(scale * float(dataset.rewards.abs().max()) * steps, 1.0)
        return TransitionSampler(
            dataset, batch_size, gamma=self.critic.gamma, n_step=self.critic.n_step, reward_scale=scale, part=part
        )

    # The update

    def update(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """One update of critics and actor; see `flowrl.protocols.Learner`.

        Raises:
            InputError: the critics' values have grown beyond what the rewards allow.
        """
        rate = self.network.actor_rate(step, self.training.steps)
        self.actor_optimiser.param_groups[0]["lr"] = rate
        metrics = self.learn(batch, step)
        # Before every checkpoint too, so that a regular one holds no values that diverged since the last look.
        if step % CHECK_EVERY == 0 or step % self.training.checkpoint_every == 0 or step == self.training.steps:
            self._check(metrics, step)
        return metrics

    def _check(self, metrics: dict[str, Tensor], step: int) -> None:
        """Raise InputError where the values, or their errors, are far greater than the rewards allow."""
        error = (metrics["critic_loss"] / self.critic.critics).sqrt()
        largest = float(distributed.mean(torch.maximum(metrics["value"].abs(), error)))
        if largest > self.largest_value:
            raise InputError(
                f"the critics diverged by step {step:,}: their values are about {largest:.3g}, and the rewards of the"
                f" data allow {self.largest_value / DIVERGED:.3g} at most; layer_norm or a lower learning_rate may"
                " help; a checkpoint from before is kept"
            )

    @abstractmethod
    def learn(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """One update, as the paper has it.

        Returns:
            Detached scalars by name, among them ``value``, the mean value of the data's actions, and ``critic_loss``,
            the squared errors summed over the critics.
        """

    def precision(self) -> AbstractContextManager[Any]:
        """The context of a forward pass: autocast in bf16."""
        if self.training.precision == "bf16":
            # Without autocast's cache: in older versions it gave weights cast without gradients to the trained pass.
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return nullcontext()

    def target(self, batch: Transitions, next_values: Tensor) -> Tensor:
        """(B,) what the critics should say of the batch, from the values (B,) of its next observations."""
        target = batch.rewards + batch.discounts * next_values
        return target.maximum(batch.discounted_returns) if self.critic.lower_bound else target

    def noise(self, *shape: int) -> Tensor:
        """(B, *shape) normal noise for a batch of `training.batch_size`: this process's part of it."""
        return self._own(torch.randn(self.training.batch_size, *shape, generator=self.generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) numbers from 0 to 1, likewise."""
        return self._own(torch.rand(self.training.batch_size, *shape, generator=self.generator, device=self.device))

    def _own(self, whole: Tensor) -> Tensor:
        # Every process draws for the whole batch, so that several train as one would.
        return whole.unflatten(0, (self.part.ranks, -1))[self.part.rank]

    def descend(self, loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
        """One step of each of the optimisers; no other weight gets a gradient."""
        parameters = [weight for each in optimisers for weight in each.param_groups[0]["params"]]
        for weight in parameters:
            weight.grad = None
        loss.backward(inputs=parameters)
        distributed.average_gradients(parameters)
        for optimiser in optimisers:
            optimiser.step()

    def follow(self) -> None:
        """Move the target critics and the averaged actor towards the trained ones."""
        self._follow(self._slow, self._fast, 0)

    # The state

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Everything with a `state_dict`, by name."""
        yield "actor", self.actor
        yield "critics", self.critics
        yield "target_critics", self.target_critics
        yield "critic_optimiser", self.critic_optimiser
        yield "actor_optimiser", self.actor_optimiser
        if self.state_value is not None:
            yield "state_value", self.state_value
        if self.average is not None:
            yield ("policy", self.policy) if self.actor is self.average else ("average", self.average)

    def state_dict(self) -> dict[str, Any]:
        """See `flowrl.protocols.Learner`."""
        state = {name: part.state_dict() for name, part in self.parts()}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Learner`."""
        for name, part in self.parts():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())


def regression(values: Tensor, target: Tensor) -> Tensor:
    """The squared error of values (M, B) of M critics: mean over the batch, summed over the critics."""
    return (values - target).square().mean(-1).sum()


def _copy(module: Any) -> Any:
    return copy.deepcopy(module).requires_grad_(False)

"""What learners with critics share: networks, targets, optimisers, noise, and what a Bellman target is."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flowrl.agents.actor_critic_config import ActorCriticConfig, reward_scale
from flowrl.agents.carried import begun_anew, of_all_processes, of_this_process
from flowrl.attention import CausalAttention
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Part
from flowrl.data.transition_windows import TransitionWindows
from flowrl.data.transitions import Past, Transitions, TransitionSampler
from flowrl.errors import InputError
from flowrl.nn.critics import ActionValues
from flowrl.training import distributed
from flowrl.training.config import TrainingConfig

CHECK_EVERY = 100  # training steps between two looks at the size of the values, beside those before a checkpoint
DIVERGED = 100.0  # times what the rewards allow at most


class ActorCritic(ABC):
    """A learner with critics, their target networks, and an actor that may be played by its average.

    Args:
        config: its `critic.tau` is a number.
        policy: the actor that is trained, of `config.backbone`; with a `normaliser`, and with a method ``read`` where
            `ActorCritic.read` is called.
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
        self.backbone = config.backbone
        self.critics = ActionValues(policy.normaliser, critic.critics, **shape).to(device)
        self.target_critics = _copy(self.critics)
        self.state_value: Any = None if state_value is None else state_value.to(device)
        self.average: Any = _copy(self.policy) if averaged or network.average_actor else None
        self.actor: Any = self.average if network.average_actor else self.policy
        trained = [*self.critics.parameters(), *(state_value.parameters() if state_value else ())]
        self.critic_optimiser = torch.optim.Adam(trained, network.learning_rate, fused=True)
        played = [*self.policy.parameters(), *(beside_actor.to(device).parameters() if beside_actor else ())]
        self.actor_optimiser = torch.optim.Adam(played, network.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        self.part, self.largest_value = WHOLE, math.inf
        pairs = [(self.target_critics, self.critics), *([] if self.average is None else [(self.average, self.policy)])]
        self._slow = [weight for slow, _ in pairs for weight in slow.parameters()]
        self._fast = [weight for _, fast in pairs for weight in fast.parameters()]
        self.carried: dict[str, Any] = {}  # by "policy" and "average", the states that the last chunks left
        self.before = 0  # steps of the run before this learner's first
        self.weight: Tensor | float = 1.0  # of this process's means: its windows may have other numbers of transitions
        # The averaged actor is only read where targets ask it.
        self._carrying = [("policy", self.policy), *([("average", self.average)] if averaged else [])]
        actors = self.policy, *(() if self.average is None else (self.average,))
        self._attentions = [x for actor in actors for x in actor.modules() if isinstance(x, CausalAttention)]
        self._follow = get_ema_multi_avg_fn(1.0 - critic.tau)

    # The data

    def sampler(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> TransitionSampler | TransitionWindows:
        """See `flowrl.protocols.Learner`."""
        self.part, scale = part, reward_scale(dataset, self.critic)
        steps = float(dataset.lengths.max()) if self.critic.gamma == 1 else 1 / (1 - self.critic.gamma)
        self.largest_value = DIVERGED * max(scale * float(dataset.rewards.abs().max()) * steps, 1.0)
        transitions = TransitionSampler(
            dataset, batch_size, gamma=self.critic.gamma, n_step=self.critic.n_step, reward_scale=scale, part=part
        )
        if not self.backbone.looks_back:
            return transitions
        if self.backbone.carry_state:
            rows = batch_size // part.ranks
            self.carried = {name: actor.initial_state(rows) for name, actor in self._carrying}
        return TransitionWindows(self.backbone.windows(transitions.drawable, batch_size, part), transitions)

    # The update

    def update(self, batch: Transitions, step: int) -> dict[str, Tensor]:
        """One update of critics and actor; see `flowrl.protocols.Learner`.

        Raises:
            InputError: the critics' values have grown beyond what the rewards allow.
        """
        rate = self.network.actor_rate(step, self.training.steps)
        self.actor_optimiser.param_groups[0]["lr"] = rate
        if batch.past is not None:
            self._prepare(batch.past, step)
        metrics = self.learn(batch, step)
        if self.carried:
            self._advance(batch.past)
        # Before every checkpoint too, so that a regular one holds no values that diverged since the last look.
        at = self.before + step
        if at % CHECK_EVERY == 0 or at % self.training.checkpoint_every == 0 or step == self.training.steps:
            self._check(metrics, at)
        return {name: self.weight * value for name, value in metrics.items()}

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

    def _prepare(self, past: Past, step: int) -> None:
        """What a batch of windows asks for: the average acts as it is played, a carried state begins anew."""
        one = torch.ones((), device=self.device)
        self.weight = distributed.part_of_mean(one, (~past.is_pad).sum())
        for attention in self._attentions:
            attention.prepare_step(step)
        if self.average is not None:
            self.average.eval()
        if past.begins is not None:
            self.carried = {name: begun_anew(state, past.begins) for name, state in self.carried.items()}

    def _advance(self, past: Any) -> None:
        """Take the carried states over the batch, by the updated weights, without dropout as in acting."""
        self.policy.eval()
        with torch.no_grad(), self.precision():
            self.carried = {name: actor.advance(past, self.carried[name]) for name, actor in self._carrying}
        self.policy.train()

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

    def read(self, actor: Any, batch: Transitions) -> Any:
        """What the policy or the average predicts: an object with ``here`` (B, ...), for the observations, and
        ``after`` (B, ...), for the next ones."""
        if not self.carried:
            return actor.read(batch)
        return actor.read(batch, self.carried["average" if actor is self.average else "policy"])

    def noise(self, batch: Transitions, *shape: int) -> Tensor:
        """(B, *shape) normal noise for the batch of this process."""
        return self._drawn(torch.randn, batch.past, shape)

    def uniform(self, batch: Transitions, *shape: int) -> Tensor:
        """(B, *shape) numbers from 0 to 1, likewise."""
        return self._drawn(torch.rand, batch.past, shape)

    def _drawn(self, draw: Callable[..., Tensor], past: Past | None, shape: tuple[int, ...]) -> Tensor:
        # Every process draws for the whole batch, so that several train as one would.
        rows, steps = self.training.batch_size, () if past is None else (past.most_steps,)
        whole = draw(rows, *steps, *shape, generator=self.generator, device=self.device)
        if past is None:
            return whole[self.part.of(rows)]
        return whole[past.own, : past.is_pad.shape[1]][~past.is_pad]

    def mean_of_ranks(self, value: Tensor) -> Tensor:
        """A mean over this process's batch as the mean over the batch of all processes, without gradient."""
        return distributed.mean(self.weight * value.detach())

    def descend(self, loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
        """One step of each of the optimisers; no other weight gets a gradient."""
        parameters = [weight for each in optimisers for weight in each.param_groups[0]["params"]]
        for weight in parameters:
            weight.grad = None
        (self.weight * loss).backward(inputs=parameters)
        distributed.average_gradients(parameters)
        if self.network.actor_clip_norm is not None and self.actor_optimiser in optimisers:
            played = self.actor_optimiser.param_groups[0]["params"]
            nn.utils.clip_grad_norm_(played, self.network.actor_clip_norm)
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
        if self.carried:
            state["carried"] = {name: of_all_processes(each) for name, each in self.carried.items()}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Learner`."""
        for name, part in self.parts():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.carried = {name: of_this_process(each, state["carried"][name]) for name, each in self.carried.items()}


def regression(values: Tensor, target: Tensor) -> Tensor:
    """The squared error of values (M, B) of M critics: mean over the batch, summed over the critics."""
    return (values - target).square().mean(-1).sum()


def _copy(module: Any) -> Any:
    return copy.deepcopy(module).requires_grad_(False)

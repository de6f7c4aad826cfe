"""Settings that agents with critics share, and the checks of data and memory that go with them."""

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch

from flowrl.agents.backbone import Backbone
from flowrl.agents.critics_first import CriticsFirst
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.transitions import discounted_returns
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.protocols import Learner
from flowrl.training import distributed
from flowrl.training.config import AgentConfig, TrainingConfig
from flowrl.training.device import device_memory

SCALED_RANGE = 1_000.0  # of the returns with `scale_rewards` returns
TRANSITIONS = 20  # of an episode, for the size of the batches of the critics that are trained first
SCALED_VALUE = 10.0  # the largest discounted return with `scale_rewards` values


@dataclass(frozen=True)
class CriticConfig:
    """What the critics learn from."""

    gamma: float = 0.99
    """Discount of a step."""
    tau: float | None = 0.005
    """How far the target networks, and an averaged actor, move towards the trained ones at an update (td3-bc, rebrac:
    at an update of the actor). None for the paper's on this dataset, which iql has."""
    critics: int = 2
    """Critics of an action, trained on the same batches from different weights."""
    layer_norm: bool = False
    """Normalise the features of the critics' hidden layers."""
    n_step: int = 1
    """Steps of reward in a target before it bootstraps. With more than one the value is that of the data's policy for
    these steps."""
    lower_bound: bool = False
    """No target is less than the data's discounted return from that step. It carries reward back at once, so it suits
    short trainings. It is wrong where the dynamics are random, since luck counts as value, and where rewards after a
    time limit would have been negative."""
    scale_rewards: Literal["no", "returns", "values"] = "no"
    """returns: multiply rewards by 1000 / (best - worst return of the data), as IQL's release does; values: so that the
    largest discounted return of the data is 10."""
    normalise_observations: bool = True
    """Centre observations and divide them by their standard deviation."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma is {self.gamma}: it must be at least 0 and at most 1")
        if self.tau is not None and not 0.0 < self.tau <= 1.0:
            raise ValueError(f"tau is {self.tau}: it must be above 0 and at most 1")
        if self.scale_rewards not in ("no", "returns", "values"):
            raise ValueError(f"scale_rewards is {self.scale_rewards!r}: known are no, returns, values")
        for name in ("critics", "n_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
class NetworkConfig:
    """The networks of actor and critics, and how fast Adam trains them."""

    width: int = 256
    """Features of a hidden layer."""
    layers: int = 2
    """Hidden layers."""
    learning_rate: float = 3e-4
    """Of Adam."""
    actor_learning_rate: float | None = None
    """Of the actor; by default learning_rate."""
    actor_schedule: Literal["constant", "cosine"] = "constant"
    """The actor's learning rate: constant, or falling to 0 by a cosine."""
    actor_warmup: int = 0
    """Updates over which the actor's learning rate rises linearly from 0."""
    actor_clip_norm: float | None = None
    """Largest norm of the actor's gradient; by default it is not clipped."""
    average_actor: bool = False
    """Act with the running average of the actor's weights, see tau, not with the last weights."""
    compile: bool = False
    """Compile the losses with torch.compile: faster updates in bf16, after up to a minute at the start."""

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("learning_rate", "actor_learning_rate", "actor_clip_norm"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: it must be above 0 and finite")
        if self.actor_warmup < 0:
            raise ValueError(f"actor_warmup is {self.actor_warmup}: it must be at least 0")
        if self.actor_schedule not in ("constant", "cosine"):
            raise ValueError(f"actor_schedule is {self.actor_schedule!r}: known are constant, cosine")

    def actor_rate(self, step: int, steps: int) -> float:
        """The actor's learning rate at `step` (1, 2, ...) of `steps`."""
        rate = self.learning_rate if self.actor_learning_rate is None else self.actor_learning_rate
        rate *= min(1.0, step / max(1, self.actor_warmup))
        return rate if self.actor_schedule == "constant" else rate / 2 * (1 + math.cos(math.pi * (step - 1) / steps))


# What the presets for short trainings share: values that arrive within thousands of updates, and a steady actor.
SHORT_CRITIC = CriticConfig(tau=0.01, layer_norm=True, lower_bound=True, scale_rewards="values")
SHORT_NETWORK = NetworkConfig(learning_rate=1e-3, average_actor=True)


class ActorCriticConfig(AgentConfig):
    """An agent with critics: a frozen dataclass with the fields `critic`, `network` and, if its actor may look back,
    `backbone`."""

    critic: CriticConfig
    network: NetworkConfig
    backbone: Backbone = Backbone()
    takes_discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.backbone.looks_back and self.network.compile:
            raise ValueError(
                f"compile is True and backbone is {self.backbone.backbone!r}: only losses of perceptrons are compiled"
            )

    def judged_actions(self, normaliser: Normaliser) -> int:
        """How many actions the critics judge at once for every transition."""
        return 1

    def check_memory(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> None:
        """See `AgentConfig`."""
        critics, width, layers = self.critic.critics, self.network.width, self.network.layers
        inputs = normaliser.input_size + normaliser.action_size
        weights = (critics + 2) * width * (inputs + width * (layers - 1) + layers)  # an actor and state values too
        steps = self.backbone.context if self.backbone.looks_back and self.backbone.context != "episode" else 1
        activations = critics * training.batch_size * steps * self.judged_actions(normaliser) * width * layers
        need, have = 4 * (5 * weights + 3 * activations), device_memory(device)  # targets, gradients, two moments
        if need > have:
            raise InputError(
                f"critics is {critics:,}, width {width:,} and layers {layers:,}: the networks need about"
                f" {need / 2**30:,.1f} GiB, and the device has {have / 2**30:,.1f} GiB"
            )

    def build(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> Learner:
        """See `AgentConfig`."""
        normaliser, ahead = _own_normaliser(self, normaliser), self.backbone.critics_first
        if not ahead:
            return self.learner(normaliser, training, device)
        if ahead >= training.steps:
            raise InputError(f"critics_first is {ahead:,} and steps is {training.steps:,}: it must be less than steps")
        steps = self.backbone.context if self.backbone.context != "episode" else TRANSITIONS
        training_first = replace(training, steps=ahead, batch_size=training.batch_size * steps)
        with_perceptron: Self = replace(self, backbone=Backbone())  # pyright: ignore[reportArgumentType]
        first = with_perceptron.learner(normaliser, training_first, device)
        then = self.learner(normaliser, replace(training, steps=training.steps - ahead), device)
        return CriticsFirst(first, then)  # pyright: ignore[reportArgumentType]

    @abstractmethod
    def learner(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> Learner:
        """The learner, by a normaliser of its own where observations stay as they are."""

    def for_dataset(self, dataset: TrajectoryDataset) -> Self:
        """See `AgentConfig`."""
        if dataset.discrete_start is not None and not self.takes_discrete:
            raise InputError(
                f"the actions of {dataset.id} are discrete, and this agent needs real ones: awac, cql and iql take both"
            )
        if self.critic.tau is None:
            raise InputError("tau is None: for this agent it must be a number above 0 and at most 1")
        if not bool((dataset.next_known | (dataset.lengths > 1)).any()):
            raise InputError(f"no step of {dataset.id} has a known next observation: values cannot be learned from it")
        reward_scale(dataset, self.critic)
        return self

    def cautions(self, dataset: TrajectoryDataset, training: TrainingConfig, device: torch.device) -> list[str]:
        """See `AgentConfig`."""
        cautions = self.backbone.cautions(dataset, training.batch_size, device)
        if (batch_size := training.batch_size * distributed.world_size()) > dataset.steps:
            cautions.append(
                f"batch_size is {batch_size:,} and the data have {dataset.steps:,} steps: a batch draws each"
                " several times"
            )
        if 10 * self.network.actor_warmup > training.steps:
            cautions.append(
                f"actor_warmup is {self.network.actor_warmup:,} and steps is {training.steps:,}: the actor's learning"
                " rate rises for more than a tenth of the training"
            )
        context, n_step = self.backbone.context, self.critic.n_step
        if self.backbone.looks_back and isinstance(context, int) and 2 * n_step > context:
            cautions.append(
                f"n_step is {n_step} and context is {context}: next actions are predicted from up to"
                f" {context + n_step} steps, more than the actor is trained on"
            )
        if self.critic.gamma == 1 and not bool(dataset.terminated.all()):
            cautions.append("gamma is 1 and a time limit ends episodes: values may grow without end")
        if self.critic.lower_bound and bool((dataset.rewards < 0).any()) and not bool(dataset.terminated.all()):
            cautions.append(
                "lower_bound is True, a time limit ends episodes and some rewards are negative: there the data's return"
                " may be higher than the true value"
            )
        return cautions

    def record(self) -> dict[str, Any]:
        """See `AgentConfig`; runs from before the options of backbones are as those with their defaults."""
        record = super().record()
        if self.backbone.looks_back and "backbone" in record:
            options = list(self.backbone.attention_options)
            record["backbone"] |= {"rollout": self.backbone.sequence.acts, "attention_options": options}
        elif type(self).backbone == Backbone():
            record.pop("backbone", None)
        for name in ("actor_warmup", "actor_clip_norm"):
            if not record["network"][name]:
                del record["network"][name]
        return record

    def acting_cautions(self) -> list[str]:
        """See `AgentConfig`."""
        return self.backbone.sequence.acting_cautions() if self.backbone.looks_back else []

    def acting(self, rollout: str | None, acting_context: int | None) -> Self:
        """See `AgentConfig`."""
        if not self.backbone.looks_back:
            return super().acting(rollout, acting_context)
        backbone = self.backbone.acting(rollout, acting_context)
        return replace(self, backbone=backbone)  # pyright: ignore[reportArgumentType]


def _own_normaliser(config: ActorCriticConfig, normaliser: Normaliser) -> Normaliser:
    """`normaliser`, or a copy that leaves observations as they are."""
    if config.critic.normalise_observations:
        return normaliser
    own = copy.deepcopy(normaliser)
    own.observation_mean.zero_()
    own.observation_std.fill_(1.0)
    return own


def reward_scale(dataset: TrajectoryDataset, critic: CriticConfig) -> float:
    """The factor on rewards.

    Raises:
        InputError: the rewards say nothing.
    """
    reward = float(dataset.rewards[0])
    if bool((dataset.rewards == reward).all()) and (reward == 0 or not bool(dataset.terminated.any())):
        raise InputError(
            f"every reward of {dataset.id} is {reward:g}"
            + (" and no episode terminates" if reward else "")
            + ": no action is better than another, so there are no values to learn"
        )
    if critic.scale_rewards == "values":
        return SCALED_VALUE / float(discounted_returns(dataset, critic.gamma).abs().max())
    if critic.scale_rewards == "no":
        return 1.0
    best, worst = float(dataset.returns.max()), float(dataset.returns.min())
    if best - worst <= 1e-6 * max(abs(best), abs(worst)):  # float32's rounding
        raise InputError(
            f"scale_rewards is returns and every episode of {dataset.id} has the return {best:g}: it must be no or"
            " values, since it divides by best - worst return"
        )
    return SCALED_RANGE / (best - worst)

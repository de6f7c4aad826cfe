"""The sequence agent: a trajectory model trained to repeat actions, steered by the return asked for."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from flowrl.attention import ATTENTION
from flowrl.data import Normaliser
from flowrl.model import ModelConfig, TrajectoryModel
from flowrl.recording import Recording
from flowrl.windows import Batch


@dataclass(frozen=True)
class SequenceConfig(ModelConfig):
    """A trajectory model and the way it acts."""

    rollout: Literal["window", "recurrent"] = "window"
    """How it acts: `window` re-reads the last steps, as in training; `recurrent` keeps a state of the whole past."""
    acting_context: int | None = None
    """Steps that a window rollout re-reads; by default `context`. Training predicts from every beginning of a window,
    so that acting on fewer steps stays within what was learnt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout not in ("window", "recurrent"):
            raise ValueError(f"rollout is {self.rollout!r}: known are window, recurrent")
        if self.rollout == "recurrent" and (reason := ATTENTION[self.attention].why_no_step):
            raise ValueError(reason)
        if self.acting_context is not None and not 1 <= self.acting_context <= self.context:
            raise ValueError(
                f"acting_context is {self.acting_context}: it must be at least 1 and at most context, {self.context}"
            )

    def build(self, normaliser: Normaliser) -> "SequenceAgent":
        """A new agent; its initial weights come from torch's generator."""
        return SequenceAgent(self, normaliser)


class WindowCarry(NamedTuple):
    """The last steps of every slot; the last action is not taken yet."""

    returns_to_go: Tensor  # (slots, T)
    observations: Tensor  # (slots, T, observation size)
    actions: Tensor  # (slots, T, action size)
    timestep: int  # of the next observation


class RecurrentCarry(NamedTuple):
    """The state of every slot's whole past."""

    returns_to_go: Tensor  # (slots,)
    action: Tensor | None  # (slots, action size), the last one
    timestep: Tensor  # () int64, of the next observation; a tensor, so that one compiled step serves for all
    state: list[Any]


class Seen(NamedTuple):
    """What the model read when the agent acted at some steps of an episode: windows, and where these steps stand.

    A window may go on after its step: causality hides the rest.
    """

    returns_to_go: Tensor  # (windows, T)
    observations: Tensor  # (windows, T, observation size)
    actions: Tensor  # (windows, T, action size)
    timesteps: Tensor  # (windows, T)
    window: Tensor  # (steps,) the window of each step
    position: Tensor  # (steps,) its place in there


class SequenceAgent(nn.Module):
    """Loss and acting of a trajectory model; `config.attention` alone tells a Flowformer from a Transformer."""

    def __init__(self, config: SequenceConfig, normaliser: Normaliser) -> None:
        super().__init__()
        self.config = config
        self.context = config.context
        self.model = TrajectoryModel(config, normaliser)

    @property
    def acting_context(self) -> int:
        """Steps that a window rollout re-reads."""
        return self.config.acting_context or self.context

    @property
    def normaliser(self) -> Normaliser:
        """The statistics that scale what enters and leaves."""
        return self.model.normaliser

    def loss(self, batch: Batch) -> Tensor:
        """The mean over real steps of `Normaliser.error`: squared error, or cross-entropy of discrete actions."""
        predicted = self.model(batch.returns_to_go, batch.observations, batch.actions, batch.timesteps)
        return batch.mean(self.normaliser.error(predicted, batch.actions))

    def initial(self, targets: Tensor) -> WindowCarry | RecurrentCarry:
        """See `flowrl.protocols.Agent`."""
        slots = len(targets)
        if self.config.rollout == "recurrent":
            start = torch.zeros((), dtype=torch.int64, device=targets.device)
            return RecurrentCarry(targets, None, start, self.model.initial_state(slots))
        sizes = self.normaliser.observation_size, self.normaliser.action_size
        observations, actions = (targets.new_empty(slots, 0, size) for size in sizes)
        return WindowCarry(targets[:, None], observations, actions, 0)

    def act(
        self, carry: WindowCarry | RecurrentCarry, observations: Tensor, rewards: Tensor
    ) -> tuple[WindowCarry | RecurrentCarry, Tensor]:
        """See `flowrl.protocols.Agent`."""
        if isinstance(carry, RecurrentCarry):
            return self._act_recurrent(carry, observations, rewards)
        return self._act_window(carry, observations, rewards)

    def select(self, carry: WindowCarry | RecurrentCarry, slots: Tensor) -> WindowCarry | RecurrentCarry:
        """See `flowrl.protocols.Agent`."""
        if isinstance(carry, WindowCarry):
            returns_to_go, observations, actions, timestep = carry
            return WindowCarry(returns_to_go[slots], observations[slots], actions[slots], timestep)
        action = None if carry.action is None else carry.action[slots]
        state = [type(layer)(*(tensor[slots] for tensor in layer)) for layer in carry.state]
        return RecurrentCarry(carry.returns_to_go[slots], action, carry.timestep, state)

    def seen(self, recording: Recording, steps: Tensor) -> Seen:
        """What was read at `steps` (n,) int64 of a recorded episode: the last steps, or the whole past if recurrent.

        Steps whose past begins at the same step share a window.
        """
        length = len(recording.returns_to_go)
        context = length if self.config.rollout == "recurrent" else min(self.acting_context, length)
        first, window = (steps - context + 1).clamp(min=0).unique(return_inverse=True)
        timesteps = first[:, None] + torch.arange(context, device=steps.device)
        returns_to_go, observations, actions = (column[timesteps] for column in recording)
        return Seen(returns_to_go, observations, actions, timesteps, window, steps - first[window])

    def act_again(self, seen: Seen) -> Tensor:
        """(n, action size): the actions at the n steps of `seen`."""
        predicted = self.model(seen.returns_to_go, seen.observations, seen.actions, seen.timesteps)
        return self.normaliser.chosen(predicted[seen.window, seen.position])

    def _act_recurrent(
        self, carry: RecurrentCarry, observations: Tensor, rewards: Tensor
    ) -> tuple[RecurrentCarry, Tensor]:
        returns_to_go = carry.returns_to_go - rewards
        predicted, state = self.model.step(carry.action, returns_to_go, observations, carry.timestep, carry.state)
        action = self.normaliser.chosen(predicted)
        return RecurrentCarry(returns_to_go, action, carry.timestep + 1, state), action

    def _act_window(self, carry: WindowCarry, observations: Tensor, rewards: Tensor) -> tuple[WindowCarry, Tensor]:
        returns_to_go = carry.returns_to_go[:, -1:] - rewards[:, None]
        if carry.timestep:
            returns_to_go = torch.cat([carry.returns_to_go, returns_to_go], 1)[:, -self.acting_context :]
        seen = torch.cat([carry.observations, observations[:, None]], 1)[:, -self.acting_context :]
        no_action = carry.actions.new_zeros(
            len(seen), 1, carry.actions.shape[2]
        )  # causality hides it from its own step
        actions = torch.cat([carry.actions, no_action], 1)[:, -self.acting_context :]
        steps = seen.shape[1]
        timesteps = torch.arange(carry.timestep + 1 - steps, carry.timestep + 1, device=seen.device)
        predicted = self.model(returns_to_go, seen, actions, timesteps[None], last=True)[:, -1]
        action = self.normaliser.chosen(predicted)
        actions = torch.cat([actions[:, :-1], action[:, None]], 1)
        return WindowCarry(returns_to_go, seen, actions, carry.timestep + 1), action

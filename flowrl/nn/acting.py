"""The ways in which a trajectory model acts: each keeps another part of the past."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowrl.nn.block import BlockState
from flowrl.nn.state import map_state
from flowrl.nn.trajectory import TrajectoryModel

RolloutMode = Literal["window", "recurrent", "staggered"]


class Acting(ABC):
    """One way to act in many episodes at once, one slot an episode; all of them began together.

    Args:
        model: predicts the actions.
        context: K, steps; None for the whole past.
    """

    def __init__(self, model: TrajectoryModel, context: int | None) -> None:
        self.model, self.context = model, context

    @abstractmethod
    def initial(self, targets: Tensor) -> Any:
        """See `flowrl.protocols.Actor`."""

    @abstractmethod
    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """See `flowrl.protocols.Actor`."""

    def select(self, carry: Any, slots: Tensor) -> Any:
        """See `flowrl.protocols.Actor`."""
        return map_state(lambda x: x[slots], carry)

    @abstractmethod
    def first(self, steps: Tensor) -> Tensor:
        """(n,) the first step that is read when acting at steps (n,)."""

    @staticmethod
    @abstractmethod
    def most_of(context: int | None) -> int | None:
        """The most steps that are read when acting with that K; None for the whole past."""

    @property
    def most(self) -> int | None:
        """The most steps that are read when acting; None for the whole past."""
        return self.most_of(self.context)


class WindowCarry(NamedTuple):
    """The last steps of every slot; the last action is not taken yet."""

    returns_to_go: Tensor  # (slots, T)
    observations: Tensor  # (slots, T, observation size)
    actions: Tensor  # (slots, T, action size)
    timestep: int  # of the next observation


class Window(Acting):
    """Reads the last K steps again at every step, as in training on windows."""

    def initial(self, targets: Tensor) -> WindowCarry:
        sizes = self.model.normaliser.observation_size, self.model.normaliser.action_size
        observations, actions = (targets.new_empty(len(targets), 0, size) for size in sizes)
        return WindowCarry(targets[:, None], observations, actions, 0)

    def act(self, carry: WindowCarry, observations: Tensor, rewards: Tensor) -> tuple[WindowCarry, Tensor]:
        last = slice(None if self.context is None else -self.context, None)
        returns_to_go = carry.returns_to_go[:, -1:] - rewards[:, None]
        if carry.timestep:
            returns_to_go = torch.cat([carry.returns_to_go, returns_to_go], 1)[:, last]
        seen = torch.cat([carry.observations, observations[:, None]], 1)[:, last]
        no_action = carry.actions.new_zeros(len(seen), 1, carry.actions.shape[2])  # causality hides it from its step
        actions = torch.cat([carry.actions, no_action], 1)[:, last]
        steps = seen.shape[1]
        timesteps = torch.arange(carry.timestep + 1 - steps, carry.timestep + 1, device=seen.device)
        predicted = self.model(returns_to_go, seen, actions, timesteps[None], last=True)[:, -1]
        action = self.model.head.action(predicted)
        actions = torch.cat([actions[:, :-1], action[:, None]], 1)
        return WindowCarry(returns_to_go, seen, actions, carry.timestep + 1), action

    def first(self, steps: Tensor) -> Tensor:
        return torch.zeros_like(steps) if self.context is None else (steps - self.context + 1).clamp(min=0)

    @staticmethod
    def most_of(context: int | None) -> int | None:
        return context


class RecurrentCarry(NamedTuple):
    """The state of every slot's whole past."""

    returns_to_go: Tensor  # (slots,)
    action: Tensor | None  # (slots, action size), the last one
    timestep: Tensor  # () int64, of the next observation; a tensor, so that one compiled step serves for all
    state: list[BlockState]


class Recurrent(Acting):
    """Keeps a state of the whole past."""

    def initial(self, targets: Tensor) -> RecurrentCarry:
        start = torch.zeros((), dtype=torch.int64, device=targets.device)
        return RecurrentCarry(targets, None, start, self.model.initial_state(len(targets)))

    def act(self, carry: RecurrentCarry, observations: Tensor, rewards: Tensor) -> tuple[RecurrentCarry, Tensor]:
        returns_to_go = carry.returns_to_go - rewards
        predicted, state = self.model.step(carry.action, returns_to_go, observations, carry.timestep, carry.state)
        action = self.model.head.action(predicted)
        return RecurrentCarry(returns_to_go, action, carry.timestep + 1, state), action

    def first(self, steps: Tensor) -> Tensor:
        return torch.zeros_like(steps)

    @staticmethod
    def most_of(context: int | None) -> None:
        return None


class StaggeredCarry(NamedTuple):
    """Two states of every slot, begun K steps apart."""

    returns_to_go: Tensor  # (slots,)
    action: Tensor | None  # (slots, action size), the last one
    timestep: int  # of the next observation
    older: list[BlockState]
    younger: list[BlockState] | None  # not begun in the first K steps


class Staggered(Acting):
    """Keeps two states, each begun anew every 2 K steps, K steps apart; the older one acts.

    So a constant-size state remembers the last K to 2 K steps, whatever the length of the episode.
    """

    def initial(self, targets: Tensor) -> StaggeredCarry:
        return StaggeredCarry(targets, None, 0, self.model.initial_state(len(targets)), None)

    def act(self, carry: StaggeredCarry, observations: Tensor, rewards: Tensor) -> tuple[StaggeredCarry, Tensor]:
        assert self.context is not None
        returns_to_go, _, timestep, older, younger = carry
        returns_to_go = returns_to_go - rewards
        before = carry.action
        if timestep and timestep % self.context == 0:
            older = older if younger is None else younger
            younger = self.model.initial_state(len(returns_to_go))
            before = None  # the younger one's first token is this step's
        predicted, older = self.model.step(carry.action, returns_to_go, observations, timestep, older)
        if younger is not None:
            _, younger = self.model.step(before, returns_to_go, observations, timestep, younger)
        action = self.model.head.action(predicted)
        return StaggeredCarry(returns_to_go, action, timestep + 1, older, younger), action

    def first(self, steps: Tensor) -> Tensor:
        assert self.context is not None
        return ((steps // self.context - 1) * self.context).clamp(min=0)

    @staticmethod
    def most_of(context: int | None) -> int:
        assert context is not None
        return 2 * context


ACTING: dict[str, type[Acting]] = {"window": Window, "recurrent": Recurrent, "staggered": Staggered}

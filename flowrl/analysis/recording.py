"""Episodes as their actor played them: what it saw and what it did, step by step."""

from typing import Any

import torch
from torch import Tensor

from flowrl.nn.trajectory_actor import Recording
from flowrl.protocols import Actor


class Recorder:
    """Plays as `actor` does, and remembers the last rollout."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.conditioned, self.rollout, self.acting_context = actor.conditioned, actor.rollout, actor.acting_context
        self._targets = torch.empty(0)
        self._steps: list[tuple[Tensor, ...]] = []

    @property
    def training(self) -> bool:
        """The actor's mode."""
        return self.actor.training

    def train(self, mode: bool = True) -> None:
        """Switch the actor's mode."""
        self.actor.train(mode)

    def initial(self, targets: Tensor) -> tuple[Tensor, Any]:
        """See `flowrl.protocols.Actor`; what was recorded before is forgotten."""
        self._targets, self._steps = targets, []
        return torch.arange(len(targets), device=targets.device), self.actor.initial(targets)

    def act(
        self, carry: tuple[Tensor, Any], observations: Tensor, rewards: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        """See `flowrl.protocols.Actor`."""
        slots, inner = carry
        inner, actions = self.actor.act(inner, observations, rewards)
        self._steps.append((slots, rewards, observations, actions))
        return (slots, inner), actions

    def select(self, carry: tuple[Tensor, Any], slots: Tensor) -> tuple[Tensor, Any]:
        """See `flowrl.protocols.Actor`."""
        mine, inner = carry
        return mine[slots], self.actor.select(inner, slots)

    def recordings(self) -> list[Recording]:
        """The episode of every slot."""
        slots, rewards, observations, actions = (torch.cat(column) for column in zip(*self._steps, strict=True))
        episodes = []
        for slot, target in enumerate(self._targets):
            mine = slots == slot
            left = target
            # One subtraction a step, as the actor does it: a running sum would round differently.
            returns_to_go = [left := left - reward for reward in rewards[mine]]
            episodes.append(Recording(torch.stack(returns_to_go), observations[mine], actions[mine]))
        return episodes

"""Episodes as their agent met them: what it was given and what it did, step by step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowrl.data.samplers import Batch, Context
from flowrl.protocols import Agent


class Recording(NamedTuple):
    """One episode of T steps, in raw units."""

    returns_to_go: Tensor  # (T,)  the target, less the rewards so far
    observations: Tensor  # (T, observation size)
    actions: Tensor  # (T, action size), as the agent gave them


class Recorder(nn.Module):
    """Plays as `agent` does, and remembers the last rollout.

    Args:
        agent: an `nn.Module`; the recorder takes over the mode it is in.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        assert isinstance(agent, nn.Module)
        self.agent = agent
        self.context: Context = agent.context
        self.train(agent.training)
        self._targets = torch.empty(0)
        self._steps: list[tuple[Tensor, ...]] = []

    def loss(self, batch: Batch) -> Tensor:
        """See `flowrl.protocols.Agent`."""
        return self.agent.loss(batch)

    def initial(self, targets: Tensor) -> tuple[Tensor, Any]:
        """See `flowrl.protocols.Agent`; what was recorded before is forgotten."""
        self._targets, self._steps = targets, []
        return torch.arange(len(targets), device=targets.device), self.agent.initial(targets)

    def act(
        self, carry: tuple[Tensor, Any], observations: Tensor, rewards: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        """See `flowrl.protocols.Agent`."""
        slots, inner = carry
        inner, actions = self.agent.act(inner, observations, rewards)
        self._steps.append((slots, rewards, observations, actions))
        return (slots, inner), actions

    def select(self, carry: tuple[Tensor, Any], slots: Tensor) -> tuple[Tensor, Any]:
        """See `flowrl.protocols.Agent`."""
        mine, inner = carry
        return mine[slots], self.agent.select(inner, slots)

    def recordings(self) -> list[Recording]:
        """The episode of every slot."""
        slots, rewards, observations, actions = (torch.cat(column) for column in zip(*self._steps, strict=True))
        made = []
        for slot, target in enumerate(self._targets):
            mine = slots == slot
            left = target
            # One subtraction a step, as the agent does it: a running sum would round otherwise.
            returns_to_go = [left := left - reward for reward in rewards[mine]]
            made.append(Recording(torch.stack(returns_to_go), observations[mine], actions[mine]))
        return made

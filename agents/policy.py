"""A trained agent as other programs use it: `reset` with the return asked for, then `act` once a step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowrl.protocols import Agent


class Policy:
    """Acts in one episode, or in several at once that all begin together.

    Args:
        agent: in evaluation mode.
        device: where its weights are.
    """

    def __init__(self, agent: Agent, device: torch.device) -> None:
        self._agent, self._device = agent, device
        self._carry: Any = None
        self._slots: tuple[int, ...] | None = None
        self._first = True

    @torch.inference_mode()
    def reset(self, targets: float | Sequence[float]) -> None:
        """Begin new episodes.

        Args:
            targets: the return asked for; a sequence begins one episode for each.
        """
        array = np.asarray(targets, np.float32)
        if array.ndim > 1 or array.size == 0:
            raise ValueError(f"targets must be a number or a non-empty row of numbers, not of shape {array.shape}")
        self._slots, self._first = array.shape, True
        self._carry = self._agent.initial(torch.as_tensor(np.atleast_1d(array), device=self._device))

    @torch.inference_mode()
    def act(self, observation: ArrayLike, reward: ArrayLike = 0.0) -> NDArray[np.float32]:
        """The next action.

        Args:
            observation: (observation size,), or (episodes, observation size) if `reset` was given a sequence.
            reward: of the last step, per episode; at the first step it is ignored.

        Returns:
            (action size,) or (episodes, action size).

        Raises:
            RuntimeError: `reset` was never called.
            ValueError: the number of episodes is not that of `reset`.
        """
        if self._slots is None:
            raise RuntimeError("call reset(targets) before act(observation, reward)")
        observations = np.asarray(observation, np.float32)
        if observations.shape[:-1] != self._slots:
            raise ValueError(f"observation has shape {observations.shape} for targets of shape {self._slots}")
        rewards = np.broadcast_to(np.asarray(reward, np.float32), self._slots)
        if self._first:
            rewards = np.zeros_like(rewards)
        self._first = False
        self._carry, actions = self._agent.act(
            self._carry,
            torch.as_tensor(np.atleast_2d(observations), device=self._device),
            torch.as_tensor(np.atleast_1d(rewards).copy(), device=self._device),
        )
        return actions.cpu().numpy().reshape(*self._slots, -1)

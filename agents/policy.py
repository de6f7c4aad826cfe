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
        observation_size: features of an observation.
        discrete_start: the number of the first action where they are discrete; None where they are real numbers.
    """

    def __init__(
        self, agent: Agent, device: torch.device, observation_size: int, discrete_start: int | None = None
    ) -> None:
        self._agent, self._device = agent, device
        self._observation_size, self._discrete_start = observation_size, discrete_start
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
    def act(self, observation: ArrayLike, reward: ArrayLike = 0.0) -> NDArray[Any]:
        """The next action.

        Args:
            observation: (observation size,), or (episodes, observation size) if `reset` was given a sequence; of other
                than flat observations the row that `envs.FlatObservation` makes: Dict entries by name.
            reward: of the last step, per episode; at the first step it is ignored.

        Returns:
            (action size,) or (episodes, action size) float32; discrete ones int64, of shape () or (episodes,).

        Raises:
            RuntimeError: `reset` was never called.
            ValueError: the number of episodes is not that of `reset`, or the observation's size not the data's.
        """
        if self._slots is None:
            raise RuntimeError("call reset(targets) before act(observation, reward)")
        observations = np.asarray(observation, np.float32)
        due = (*self._slots, self._observation_size)
        if observations.shape != due:
            raise ValueError(f"observation has shape {observations.shape}: {due} is due")
        rewards = np.broadcast_to(np.asarray(reward, np.float32), self._slots)
        if self._first:
            rewards = np.zeros_like(rewards)
        self._first = False
        self._carry, actions = self._agent.act(
            self._carry,
            torch.as_tensor(np.atleast_2d(observations), device=self._device),
            torch.as_tensor(np.atleast_1d(rewards).copy(), device=self._device),
        )
        if self._discrete_start is not None:
            return actions.argmax(-1).cpu().numpy().reshape(self._slots) + self._discrete_start
        return actions.cpu().numpy().reshape(*self._slots, -1)

"""A trained agent as other programs use it: `reset` with the target return, then `act` once a step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowrl.data.spaces import within
from flowrl.protocols import Actor


class Policy:
    """Acts in one episode, or in several at once that all begin together.

    Args:
        actor: in evaluation mode.
        device: where its weights are.
        observation_size: features of an observation.
        discrete_start: the number of the first action where they are discrete; None where they are real numbers.
        offset: (observation size,) of the data, subtracted from observations in float64; None for none.
        whole_actions: the integer type of actions that are whole numbers, as int64; None for all others.
    """

    def __init__(
        self,
        actor: Actor,
        device: torch.device,
        observation_size: int,
        discrete_start: int | None = None,
        *,
        offset: Sequence[float] | None = None,
        whole_actions: str | None = None,
    ) -> None:
        self._actor, self._device = actor, device
        self._observation_size, self._discrete_start = observation_size, discrete_start
        self._offset = 0.0 if offset is None else np.asarray(offset, np.float64)
        self._whole_actions = whole_actions
        self._carry: Any = None
        self._slots: tuple[int, ...] | None = None
        self._first = True

    @torch.inference_mode()
    def reset(self, targets: float | Sequence[float] | None = None) -> None:
        """Begin new episodes.

        Args:
            targets: the target return in raw units; a sequence begins one episode for each. An agent without targets
                ignores the values and needs none.

        Raises:
            ValueError: the target is missing or not finite, or the sequence is empty or nested.
        """
        array = np.asarray(np.nan if targets is None else targets, np.float32)
        if array.ndim > 1 or array.size == 0:
            raise ValueError(f"targets must be a number or a non-empty row of numbers, not of shape {array.shape}")
        if self._actor.conditioned and not np.isfinite(array).all():
            raise ValueError(f"targets is {targets}: this agent needs a finite target return")
        self._slots, self._first = array.shape, True
        self._carry = self._actor.initial(torch.as_tensor(np.atleast_1d(array), device=self._device))

    @torch.inference_mode()
    def act(self, observation: ArrayLike, reward: ArrayLike = 0.0) -> NDArray[Any]:
        """The next action.

        Args:
            observation: (observation size,), or (episodes, observation size) if `reset` was given a sequence; of
                observations that are not flat, the row that `flowrl.evaluation.environments.FlatObservation` makes.
            reward: of the last step, per episode; at the first step it is ignored.

        Returns:
            (action size,) or (episodes, action size) float32, or whole numbers of the environment's type where it
            takes such; discrete ones int64, of shape () or (episodes,).

        Raises:
            RuntimeError: `reset` was never called.
            ValueError: an array is not of the shape that `reset` and the data ask for.
        """
        if self._slots is None:
            raise RuntimeError("call reset(targets) before act(observation, reward)")
        observations = np.asarray(observation, np.float64)
        expected = (*self._slots, self._observation_size)
        if observations.shape != expected:
            raise ValueError(f"observation has shape {observations.shape}: it must be {expected}")
        rewards = np.asarray(reward, np.float32)
        if rewards.shape not in ((), self._slots):
            raise ValueError(f"reward has shape {rewards.shape}: it must be {self._slots}")
        rewards = np.broadcast_to(rewards, self._slots)
        if self._first:
            rewards = np.zeros_like(rewards)
        self._first = False
        self._carry, actions = self._actor.act(
            self._carry,
            torch.as_tensor(np.atleast_2d(observations - self._offset).astype(np.float32), device=self._device),
            torch.as_tensor(np.atleast_1d(rewards).copy(), device=self._device),
        )
        if self._discrete_start is not None:
            return actions.argmax(-1).cpu().numpy().reshape(self._slots) + self._discrete_start
        played = actions.cpu().numpy().reshape(*self._slots, -1)
        if self._whole_actions is None:
            return played
        fits = np.iinfo(self._whole_actions)
        return within(played, fits.min, fits.max, self._whole_actions)

"""Single transitions for value-based agents, with the right next observation, ending, next action and return.

What a Bellman target needs is easily wrong: a time limit is not the end of the task, so it is bootstrapped through; the
next action never belongs to another episode; and where the data only repeat the last observation, because the true next
one was not stored, nothing can be bootstrapped from, so that step is not drawn.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Part, draw_rows
from flowrl.errors import InputError


class Transitions(NamedTuple):
    """B steps in raw units."""

    observations: Tensor  # (B, observation size)
    actions: Tensor  # (B, action size)
    rewards: Tensor  # (B,)
    next_observations: Tensor  # (B, observation size), the true ones, also at the last step of an episode
    next_actions: Tensor  # (B, action size), zeros where there is none
    has_next_action: Tensor  # (B,) bool, False at the last step of an episode
    terminated: Tensor  # (B,) bool, the task ended here: nothing follows. A time limit is False
    discounted_returns: Tensor  # (B,) the data's rewards from here to the episode's end, discounted


class TransitionSampler:
    """Draws transitions with replacement, by the dataset's `weights`.

    Args:
        batch_size: B of all processes together.
        gamma: the discount of `discounted_returns`, in [0, 1].
        part: which part of the batch is gathered; all of it is drawn.

    Raises:
        InputError: no step of the dataset has a known next observation.
    """

    def __init__(self, dataset: TrajectoryDataset, batch_size: int, *, gamma: float = 0.99, part: Part = WHOLE) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}: it must be at least 0 and at most 1")
        self.dataset, self.batch_size, self.part = dataset, batch_size, part
        last = dataset.ends - 1
        rows = torch.arange(dataset.steps, device=last.device)
        self._is_last = rows == last
        self._episode = torch.repeat_interleave(
            torch.arange(dataset.episodes, device=last.device), dataset.lengths, output_size=dataset.steps
        )
        self._known = (~self._is_last | dataset.next_known[self._episode]).cpu()
        if not bool(self._known.any()):
            raise InputError(f"no step of {dataset.id} has a known next observation: values cannot be learned from it")
        self._discounted = discounted_returns(dataset, gamma)

    def draw(self, generator: torch.Generator) -> Transitions:
        """The next batch; `generator` is on the CPU for any device, so that the order is the same everywhere."""
        rows = draw_rows(self.dataset, self.batch_size, generator)
        while bool((unknown := ~self._known[rows]).any()):
            rows[unknown] = draw_rows(self.dataset, int(unknown.sum()), generator)
        rows = rows.view(self.part.ranks, -1)[self.part.rank].to(self.dataset.rewards.device)
        return self.at(rows)

    def at(self, rows: Tensor) -> Transitions:
        """The transitions at `rows` (B,) int64 of the dataset."""
        data, is_last = self.dataset, self._is_last[rows]
        following, episode = (rows + 1).clamp(max=data.steps - 1), self._episode[rows]
        return Transitions(
            observations=data.observations[rows],
            actions=data.actions[rows],
            rewards=data.rewards[rows],
            next_observations=torch.where(
                is_last[:, None], data.final_observations[episode], data.observations[following]
            ),
            next_actions=data.actions[following].masked_fill(is_last[:, None], 0),
            has_next_action=~is_last,
            terminated=is_last & data.terminated[episode],
            discounted_returns=self._discounted[rows],
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: its draws depend on the generator alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`."""


def discounted_returns(dataset: TrajectoryDataset, gamma: float) -> Tensor:
    """(N,) float32: r_t + gamma r_{t+1} + ... to the end of the episode, summed in float64.

    Where a time limit cut the episode, what would have followed is missing.
    """
    rewards = dataset.rewards.double()
    returns = torch.zeros_like(rewards)
    tail = rewards.new_zeros(dataset.episodes)
    for step in reversed(range(int(dataset.lengths.max()))):
        lasts = torch.nonzero(dataset.lengths > step)[:, 0]
        rows = dataset.starts[lasts] + step
        tail[lasts] = rewards[rows] + gamma * tail[lasts]
        returns[rows] = tail[lasts]
    return returns.float()

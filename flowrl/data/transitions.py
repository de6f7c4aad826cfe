"""Transitions for value-based agents, with the right next observation, ending, next action and return.

What a Bellman target needs is easily wrong: a time limit is not the end of the task, so it is bootstrapped through; the
next action never belongs to another episode; and where the data only repeat the last observation, because the true next
one was not stored, nothing is bootstrapped from it.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Part, draw_rows
from flowrl.errors import InputError


class Past(NamedTuple):
    """What was seen and done before transitions, in windows that reach to their next observations.

    C columns; those beyond an episode's final observation repeat it.
    """

    observations: Tensor  # (W, C, observation size)
    actions: Tensor  # (W, C, action size), zeros at a final observation
    returns_to_go: Tensor  # (W, C) raw, whatever the factor on rewards
    timesteps: Tensor  # (W, C) int64
    here: Tensor  # (B,) int64, the place of each transition's observation among the W C
    after: Tensor  # (B,) int64, that of its next observation
    is_pad: Tensor  # (W, K) bool, True at padding: the other steps are the transitions
    most_steps: int  # K of the process with the longest windows
    own: slice  # which of all processes' windows these are
    begins: Tensor | None  # (W,) bool of chunks that follow each other, True where one begins anew


class Transitions(NamedTuple):
    """B transitions of one step, or of n, in raw units: what was seen, done and paid, and what was seen then.

    A Bellman target is ``rewards + discounts * value(next_observations)``.
    """

    observations: Tensor  # (B, observation size)
    actions: Tensor  # (B, action size)
    rewards: Tensor  # (B,) of one step; of n steps their discounted sum
    next_observations: Tensor  # (B, observation size), the true ones, also at the last step of an episode
    next_actions: Tensor  # (B, action size) of the data in `next_observations`, zeros where there is none
    has_next_action: Tensor  # (B,) bool, False where the episode is over
    terminated: Tensor  # (B,) bool, the task ended here: nothing follows. A time limit is False
    discounts: Tensor  # (B,) gamma, or gamma^n, of what follows; 0 where the task ended
    discounted_returns: Tensor  # (B,) the data's rewards from here to the episode's end, discounted
    past: Past | None = None  # where whoever acts looks back


class TransitionSampler:
    """Draws transitions with replacement, by the dataset's `weights`.

    All columns lie in one table on the dataset's device, so that a batch is gathered at once.

    Args:
        batch_size: B of all processes together.
        gamma: the discount, in [0, 1].
        n_step: steps in a transition, fewer at the end of an episode.
        reward_scale: factor on all rewards and returns.
        part: which part of the batch is gathered; all of it is drawn.

    Raises:
        InputError: no step of the dataset has a known next observation.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        batch_size: int,
        *,
        gamma: float = 0.99,
        n_step: int = 1,
        reward_scale: float = 1.0,
        part: Part = WHOLE,
    ) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}: it must be at least 0 and at most 1")
        if n_step < 1:
            raise ValueError(f"n_step is {n_step}: it must be at least 1")
        self.dataset, self.batch_size, self.part = dataset, batch_size, part
        episode = torch.repeat_interleave(
            torch.arange(dataset.episodes, device=dataset.ends.device), dataset.lengths, output_size=dataset.steps
        )
        # Steps from which the episode can still be followed to an observation that is known.
        left = dataset.ends - torch.arange(dataset.steps, device=episode.device) - (~dataset.next_known[episode]).long()
        known = left > 0
        if not bool(known.any()):
            raise InputError(f"no step of {dataset.id} has a known next observation: values cannot be learned from it")
        self.drawable = dataset if bool(known.all()) else _without_unknown(dataset, known)
        """The dataset without the steps whose next observation is not known."""
        self._on_cpu = _on_cpu(self.drawable)  # rows are drawn there, without waiting for a GPU
        self.spans = spans = left.clamp(max=n_step)
        """(steps,) how many steps of reward a transition has."""
        # The table has one row more an episode than it has steps: its final observation.
        self._first = torch.arange(dataset.steps, device=episode.device) + episode
        self._next = self._first + spans
        self._table = self._fill(episode, spans, gamma, reward_scale)

    def _fill(self, episode: Tensor, spans: Tensor, gamma: float, scale: float) -> Tensor:
        data = self.dataset
        rewards, discounts = torch.zeros_like(data.rewards, dtype=torch.float64), gamma ** spans.double()
        rows = torch.arange(data.steps, device=spans.device)
        for later in range(int(spans.max())):
            following = (rows + later).clamp(max=data.steps - 1)
            rewards += torch.where(later < spans, gamma**later * data.rewards[following].double(), 0.0)
        terminated = data.terminated[episode] & (rows + spans == data.ends)
        discounts = discounts.masked_fill(terminated, 0.0)
        returns = discounted_returns(data, gamma)
        numbers = [rewards * scale, discounts, terminated, torch.ones_like(terminated), returns * scale]
        columns = [data.observations, data.actions, *(each[:, None] for each in numbers)]
        sizes = [column.shape[1] for column in columns]
        table = torch.zeros(data.steps + data.episodes, sum(sizes), device=spans.device)
        # One after the other: joined first, they would take the memory of a second table.
        for place, column in zip(table.split(sizes, dim=1), columns, strict=True):
            place.index_copy_(0, self._first, column.float())
        finals = data.ends[data.starts] + torch.arange(data.episodes, device=spans.device)
        table[finals, : sizes[0]] = data.final_observations.float()
        return table

    def draw(self, generator: torch.Generator) -> Transitions:
        """The next batch; `generator` is on the CPU for any device, so that the order is the same everywhere."""
        rows = draw_rows(self._on_cpu, self.batch_size, generator)
        rows = rows.view(self.part.ranks, -1)[self.part.rank].to(self._table.device)
        return self.at(rows)

    def at(self, rows: Tensor) -> Transitions:
        """The transitions at `rows` (B,) int64 of the dataset, each with a known next observation."""
        sizes = [self.dataset.observations.shape[1], self.dataset.actions.shape[1], 5]
        places = torch.cat([self._first[rows], self._next[rows]])
        now, following = self._table.index_select(0, places).view(2, len(rows), -1)
        observations, actions, numbers = now.split(sizes, dim=1)
        next_observations, next_actions, next_numbers = following.split(sizes, dim=1)
        rewards, discounts, terminated, _, returns = numbers.unbind(1)
        return Transitions(
            observations=observations,
            actions=actions,
            rewards=rewards,
            next_observations=next_observations,
            next_actions=next_actions,
            has_next_action=next_numbers[:, 3] > 0,
            terminated=terminated > 0,
            discounts=discounts,
            discounted_returns=returns,
        )

    def columns(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Raw observations and actions (..., size) at places of all observations, episode after episode; the action at
        a final observation is zeros."""
        found = self._table.index_select(0, places.flatten()).view(*places.shape, -1)
        first, second = self.dataset.observations.shape[1], self.dataset.actions.shape[1]
        return found[..., :first], found[..., first : first + second]

    def state_dict(self) -> dict[str, Any]:
        """Nothing: its draws depend on the generator alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`."""


def _without_unknown(dataset: TrajectoryDataset, known: Tensor) -> TrajectoryDataset:
    """The dataset with the lengths, ends and weights of episodes that end before the step whose next observation is not
    known."""
    shorter = (~known[dataset.ends[dataset.starts] - 1]).long()
    lengths, ends = dataset.lengths - shorter, dataset.ends - shorter.repeat_interleave(dataset.lengths)
    weights = torch.ones_like(lengths, dtype=torch.float64) if dataset.weights is None else dataset.weights
    return replace(dataset, lengths=lengths, ends=ends, weights=weights * (lengths > 0).to(weights.device))


def _on_cpu(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """The dataset with what rows are drawn by on the CPU."""
    weights = None if dataset.weights is None else dataset.weights.cpu()
    return replace(dataset, lengths=dataset.lengths.cpu(), starts=dataset.starts.cpu(), weights=weights)


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

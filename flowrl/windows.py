"""Windows of K consecutive steps, sampled where the data live."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowrl.data import TrajectoryDataset


class Batch(NamedTuple):
    """B windows of K steps in raw units; an episode that ends inside leaves zeros on the right, marked by `is_pad`."""

    observations: Tensor  # (B, K, observation size)
    actions: Tensor  # (B, K, action size)
    rewards: Tensor  # (B, K)
    returns_to_go: Tensor  # (B, K)
    timesteps: Tensor  # (B, K) int64
    is_pad: Tensor  # (B, K) bool, True at padding

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` (B, K, ...) over real steps, each once; padding enters neither sum nor divisor."""
        real = (~self.is_pad).view(
            *self.is_pad.shape, *(1,) * (values.ndim - 2)
        )  # a product: indexing would sync a GPU
        return (values * real).sum() / (real.sum() * (values.numel() // self.is_pad.numel()))


def sample_windows(
    dataset: TrajectoryDataset,
    batch_size: int,
    context: int,
    generator: torch.Generator,
    *,
    full: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> Batch:
    """Windows whose first steps are drawn with replacement from all steps of the dataset, by its `weights`.

    Args:
        context: K, steps in a window.
        generator: the only source of randomness; on the CPU for any device, so that the order is the same everywhere.
        full: a window that would reach over its episode's end begins earlier instead, at the episode's first step where
            it is shorter than K. So the last steps of an episode are not seen with a short past most of the time.
        rank: which of the batch's `ranks` equal parts is wanted. All of it is drawn, so that the order of the data does
            not depend on the number of processes.
    """
    if dataset.weights is None:
        first = torch.randint(dataset.steps, (batch_size,), generator=generator)
    else:
        first = _weighted_rows(dataset, batch_size, generator)
    first = first.view(ranks, -1)[rank].to(dataset.rewards.device)
    if full:
        begin = first - dataset.timesteps[first]
        first = first.minimum(dataset.ends[first] - context).maximum(begin)
    return windows_at(dataset, first, context)


def _weighted_rows(dataset: TrajectoryDataset, batch_size: int, generator: torch.Generator) -> Tensor:
    """Rows drawn by their episodes' weights: a point on the line on which each step is as long as its weight."""
    assert dataset.weights is not None
    weights, lengths = dataset.weights.cpu(), dataset.lengths.cpu()
    ends = (weights * lengths).cumsum(0)
    point = torch.rand(batch_size, generator=generator, dtype=torch.float64) * ends[-1]
    episode = torch.searchsorted(ends, point, right=True).clamp(max=len(ends) - 1)
    before = ends[episode] - weights[episode] * lengths[episode]
    step = ((point - before) / weights[episode]).long().clamp(min=0)
    return dataset.starts.cpu()[episode] + step.minimum(lengths[episode] - 1)


def windows_at(dataset: TrajectoryDataset, first: Tensor, context: int) -> Batch:
    """The windows of K = `context` steps that begin at the rows `first` (B,)."""
    rows = first[:, None] + torch.arange(context, device=first.device)
    end = dataset.ends[first][:, None]
    is_pad = rows >= end
    rows = rows.minimum(end - 1)

    def take(source: Tensor) -> Tensor:
        window = source[rows]
        return window.masked_fill(is_pad.view(*is_pad.shape, *(1,) * (window.ndim - 2)), 0)

    return Batch(
        take(dataset.observations),
        take(dataset.actions),
        take(dataset.rewards),
        take(dataset.returns_to_go),
        take(dataset.timesteps),
        is_pad,
    )

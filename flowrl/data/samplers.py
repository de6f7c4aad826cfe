"""Windows of K consecutive steps, whole episodes, or chunks that follow each other, sampled where the data live."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset

Context = int | Literal["episode"]
"""Steps of a window; episode: as many as an episode has."""

POOL = 8  # batches' worth of episodes that are drawn, so that those of one batch are about equally long


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
    first = _draw_rows(dataset, batch_size, generator)
    first = first.view(ranks, -1)[rank].to(dataset.rewards.device)
    if full:
        begin = first - dataset.timesteps[first]
        first = first.minimum(dataset.ends[first] - context).maximum(begin)
    return windows_at(dataset, first, context)


def sample_episodes(
    dataset: TrajectoryDataset, batch_size: int, generator: torch.Generator, *, rank: int = 0, ranks: int = 1
) -> Batch:
    """Whole episodes of about the same length, K steps being the longest of them.

    Several batches' worth of episodes is drawn with replacement, by the dataset's `weights`, and sorted by length; of
    these batches one is taken. A batch is as likely as it has steps: as the loss is a mean over these, each step counts
    alike, whether its episode is long or short.

    Takes generator, rank and ranks as `sample_windows` does.
    """
    lengths = dataset.lengths.cpu()
    most = POOL * batch_size * int(lengths.max())
    while True:
        episodes = _draw_episodes(dataset, POOL * batch_size, generator)
        if float(torch.rand((), generator=generator)) * most < int(lengths[episodes].sum()):
            break
    batches = episodes[lengths[episodes].argsort(stable=True)].view(POOL, batch_size)
    steps = lengths[batches].sum(1)
    taken = batches[_draw(steps, 1, generator)[0]]
    taken = taken[rank::ranks].to(dataset.rewards.device)  # every rank has long and short ones
    return windows_at(dataset, dataset.starts[taken], int(dataset.lengths[taken].max()))


class Chunks:
    """Chunks of episodes: each row of a batch goes on where that row of the last one ended, or begins an episode.

    A chunk has from half of `context` to half as much again steps, all rows of a batch the same number: where it is
    cut means nothing. Episodes are drawn with replacement by the dataset's `weights` and read from their first step to
    their last, so each step is read equally often. Only the very first chunk of a row begins anywhere in an episode:
    rows do not move in step, however equal the episodes are in length.

    Args:
        context: K, steps of a chunk in the mean.
        rank: as `sample_windows`, with `ranks`.
    """

    rows: Tensor | None = None
    """(batch_size,) int64, the dataset's row at which each row of the next batch goes on; None before the first.
    It is all that there is to keep for going on later."""

    def __init__(
        self, dataset: TrajectoryDataset, batch_size: int, context: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        self.dataset, self.batch_size, self.context, self.rank, self.ranks = dataset, batch_size, context, rank, ranks
        self.ends = dataset.ends.cpu()

    def next(self, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """The next batch, and (B,) bool, True where a row has nothing to do with that of the batch before."""
        dataset, size = self.dataset, self.batch_size
        least, most = -(-self.context // 2), self.context + self.context // 2
        steps = int(torch.randint(least, most + 1, (), generator=generator))
        if self.rows is None:
            rows = _draw_rows(dataset, size, generator)
            begins = torch.ones(size, dtype=torch.bool)
        else:
            # Of the last step: an episode's end is the next one's beginning.
            begins = self.rows == self.ends[self.rows - 1]
            rows = torch.where(begins, dataset.starts.cpu()[_draw_episodes(dataset, size, generator)], self.rows)
        self.rows = (rows + steps).minimum(self.ends[rows])
        rows, begins = (x.view(self.ranks, -1)[self.rank].to(dataset.rewards.device) for x in (rows, begins))
        return windows_at(dataset, rows, steps), begins


def _draw_rows(dataset: TrajectoryDataset, count: int, generator: torch.Generator) -> Tensor:
    """(count,) rows drawn with replacement, by the weights of their episodes."""
    if dataset.weights is None:
        return torch.randint(dataset.steps, (count,), generator=generator)
    weights, lengths = dataset.weights.cpu(), dataset.lengths.cpu()
    # A point on the line on which each step is as long as its weight.
    ends = (weights * lengths).cumsum(0)
    point = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    episode = torch.searchsorted(ends, point, right=True).clamp(max=len(ends) - 1)
    before = ends[episode] - weights[episode] * lengths[episode]
    step = ((point - before) / weights[episode]).long().clamp(min=0)
    return dataset.starts.cpu()[episode] + step.minimum(lengths[episode] - 1)


def _draw_episodes(dataset: TrajectoryDataset, count: int, generator: torch.Generator) -> Tensor:
    """(count,) episodes drawn with replacement, by their weights, whatever their lengths."""
    if dataset.weights is None:
        return torch.randint(dataset.episodes, (count,), generator=generator)
    return _draw(dataset.weights.cpu(), count, generator)


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) places drawn with replacement, by their weights (N,)."""
    ends = weights.double().cumsum(0)
    point = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    return torch.searchsorted(ends, point, right=True).clamp(max=len(ends) - 1)


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

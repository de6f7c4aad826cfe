"""Samplers of trajectory data: windows of K consecutive steps, whole episodes, chunks that follow each other.

Every batch is gathered on the dataset's device. The random numbers come from the generator that `draw` is given.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset

Context = int | Literal["episode"]
"""Steps of a window; episode: as many as an episode has."""

POOL = 8  # batches of episodes that are drawn and sorted by length, so that the episodes of one are about equally long


class Part(NamedTuple):
    """Which of the equal parts of every batch a process trains on."""

    rank: int = 0
    ranks: int = 1

    def of(self, size: int) -> slice:
        """The place of this part among `size` items that are shared out one part after the other."""
        each = size // self.ranks
        return slice(self.rank * each, (self.rank + 1) * each)


WHOLE = Part()


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
        # A product: indexing would wait for a GPU.
        real = (~self.is_pad).view(*self.is_pad.shape, *(1,) * (values.ndim - 2))
        return (values * real).sum() / (real.sum() * (values.numel() // self.is_pad.numel()))


class Places(NamedTuple):
    """Where the windows of a batch lie in the dataset."""

    first: Tensor  # (B,) int64, the dataset's row of each window's first step
    steps: int  # K
    most_steps: int  # K of the process with the longest windows
    own: slice  # which of all processes' windows these are
    begins: Tensor | None = None  # (B,) bool of chunks, True at rows that begin anew


class _Stateless:
    """A sampler whose draws depend on its generator alone."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`."""


class Windows(_Stateless):
    """Windows whose first steps are drawn with replacement from all steps of the dataset, by its `weights`.

    Args:
        batch_size: B, windows in a batch of all processes together.
        context: K, steps in a window.
        full: a window that would reach beyond its episode's end begins earlier instead, at the episode's first step if
            the episode is shorter than K. So the last steps of an episode are rarely seen with a short past.
        part: which part of the batch is gathered. All of it is drawn, so that the order of the data does not depend on
            the number of processes.
    """

    def __init__(
        self, dataset: TrajectoryDataset, batch_size: int, context: int, *, full: bool = False, part: Part = WHOLE
    ) -> None:
        self.dataset, self.batch_size, self.context, self.full, self.part = dataset, batch_size, context, full, part

    def draw(self, generator: torch.Generator) -> Batch:
        """The next batch; `generator` is on the CPU for any device, so that the order is the same everywhere."""
        places = self.places(generator)
        return windows_at(self.dataset, places.first, places.steps)

    def places(self, generator: torch.Generator) -> Places:
        """Where the next batch lies."""
        dataset, context = self.dataset, self.context
        first = draw_rows(dataset, self.batch_size, generator)
        first = first.view(self.part.ranks, -1)[self.part.rank].to(dataset.rewards.device)
        if self.full:
            begin = first - dataset.timesteps[first]
            first = first.minimum(dataset.ends[first] - context).maximum(begin)
        return Places(first, context, context, self.part.of(self.batch_size))


class Episodes(_Stateless):
    """Whole episodes of about the same length, K steps being the longest of them.

    Several batches of episodes are drawn with replacement, by the dataset's `weights`, and sorted by length; one of
    these batches is taken. A batch is as likely as it has steps: the loss is a mean over these, so each step counts
    alike, whether its episode is long or short.

    Args:
        batch_size: B, episodes in a batch of all processes together.
        part: as of `Windows`.
    """

    def __init__(self, dataset: TrajectoryDataset, batch_size: int, *, part: Part = WHOLE) -> None:
        self.dataset, self.batch_size, self.part = dataset, batch_size, part

    def draw(self, generator: torch.Generator) -> Batch:
        """The next batch; takes `generator` as `Windows.draw` does."""
        places = self.places(generator)
        return windows_at(self.dataset, places.first, places.steps)

    def places(self, generator: torch.Generator) -> Places:
        """Where the next batch lies."""
        dataset, size = self.dataset, self.batch_size
        lengths = dataset.lengths.cpu()
        most = POOL * size * int(lengths.max())
        while True:
            episodes = _draw_episodes(dataset, POOL * size, generator)
            if float(torch.rand((), generator=generator)) * most < int(lengths[episodes].sum()):
                break
        batches = episodes[lengths[episodes].argsort(stable=True)].view(POOL, size)
        steps = lengths[batches].sum(1)
        taken = batches[_draw(steps, 1, generator)[0]]
        own = slice(self.part.rank, None, self.part.ranks)  # every rank has long and short ones
        first = dataset.starts[taken[own].to(dataset.rewards.device)]
        return Places(first, int(lengths[taken[own]].max()), int(lengths[taken].max()), own)


class Chunk(NamedTuple):
    """A batch whose rows go on where those of the batch before ended."""

    batch: Batch
    begins: Tensor  # (B,) bool, True at rows that begin anew

    @property
    def is_pad(self) -> Tensor:
        """(B, K) bool, of the batch."""
        return self.batch.is_pad


class Chunks:
    """Chunks of episodes: each row of a batch goes on where that row of the last one ended, or begins an episode.

    A chunk has from half of `context` to half as much again steps, all rows of a batch the same number, so that the
    place of a cut means nothing. Episodes are drawn with replacement by the dataset's `weights` and read from their
    first step to their last, so each step is read equally often. Only the very first chunk of a row begins anywhere in
    an episode: so rows do not move in step, even if all episodes are equally long.

    Args:
        batch_size: B, rows of all processes together.
        context: K, steps of a chunk in the mean.
        part: as of `Windows`.
    """

    def __init__(self, dataset: TrajectoryDataset, batch_size: int, context: int, *, part: Part = WHOLE) -> None:
        self.dataset, self.batch_size, self.context, self.part = dataset, batch_size, context, part
        self.ends = dataset.ends.cpu()
        self.rows: Tensor | None = None
        """(batch_size,) int64, the dataset's row at which each row of the next batch goes on; None before the first."""

    def draw(self, generator: torch.Generator) -> Chunk:
        """The next batch; takes `generator` as `Windows.draw` does."""
        first, steps, *_, begins = self.places(generator)
        assert begins is not None
        return Chunk(windows_at(self.dataset, first, steps), begins)

    def places(self, generator: torch.Generator) -> Places:
        """Where the next batch lies; the rows go on after it."""
        dataset, size = self.dataset, self.batch_size
        least, most = -(-self.context // 2), self.context + self.context // 2
        steps = int(torch.randint(least, most + 1, (), generator=generator))
        if self.rows is None:
            rows = draw_rows(dataset, size, generator)
            begins = torch.ones(size, dtype=torch.bool)
        else:
            # Of the last step: an episode's end is the next one's beginning.
            begins = self.rows == self.ends[self.rows - 1]
            rows = torch.where(begins, dataset.starts.cpu()[_draw_episodes(dataset, size, generator)], self.rows)
        self.rows = (rows + steps).minimum(self.ends[rows])
        rank, ranks = self.part
        rows, begins = (x.view(ranks, -1)[rank].to(dataset.rewards.device) for x in (rows, begins))
        return Places(rows, steps, steps, self.part.of(size), begins)

    def state_dict(self) -> dict[str, Any]:
        """Where each row goes on."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Sampler`.

        Raises:
            KeyError, ValueError: it is of another number of rows, or of other data.
        """
        rows = state["rows"]
        if rows is not None:
            if not isinstance(rows, Tensor) or (rows.shape, rows.dtype) != ((self.batch_size,), torch.int64):
                raise ValueError(f"the rows of the next batch must be {self.batch_size} whole numbers")
            if int(rows.min()) < 1 or int(rows.max()) > self.dataset.steps:
                raise ValueError(f"the rows of the next batch must lie between 1 and {self.dataset.steps}")
        self.rows = rows


def draw_rows(dataset: TrajectoryDataset, count: int, generator: torch.Generator) -> Tensor:
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

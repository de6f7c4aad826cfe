"""A graph of stored steps, joined where one leads to what another one starts from, and the best ways through it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.scales import NOTHING, ROUNDING

__all__ = ["Graph", "best_returns", "near_rows", "step_length"]

GRAPH_STEPS = 16_384
JOINS = 4  # of a step, the nearest ones
BLOCK = 1_024  # rows of distances at a time
CHANGES = 10  # of a way, to another episode


@dataclass(frozen=True)
class Graph:
    """V steps of whole episodes; the last step of an episode, and all joins that a step lacks, lead to vertex V."""

    rows: Tensor
    """(V,) int64, of the dataset."""
    rewards: Tensor
    """(V,) float64."""
    following: Tensor
    """(V, 1 + JOINS) int64: the next step of the episode, and steps of others."""
    cut: Tensor
    """(V,) bool: the last step of an episode that the task did not end."""
    over: Tensor
    """(V,) bool: the last step of an episode that the task ended."""

    @classmethod
    def of(cls, dataset: TrajectoryDataset, radius: float, generator: np.random.Generator) -> "Graph":
        """Of all steps, or of `GRAPH_STEPS`: three quarters from episodes that are drawn, the rest from the best ones.

        Args:
            radius: steps are joined where one leads to within so much of the other's observation; see `step_length`.
        """
        episodes = _chosen(dataset, generator)
        lengths, starts = dataset.lengths[episodes], dataset.starts[episodes]
        first = lengths.cumsum(0) - lengths
        total = int(lengths.sum())
        rows = torch.arange(total) + torch.repeat_interleave(starts - first, lengths)
        episode = torch.repeat_interleave(torch.arange(len(episodes)), lengths)
        last = rows == dataset.ends[rows] - 1
        observed = _scaled(dataset, dataset.observations[rows])
        reached = torch.cat([observed[1:], observed[:1]])
        reached[last] = _scaled(dataset, dataset.final_observations[episodes])
        over = last & dataset.terminated[episodes][episode]
        leads = ~(over | (last & ~dataset.next_known[episodes][episode]))
        following = torch.full((total, 1 + JOINS), total)
        following[:, 0] = torch.where(last, total, torch.arange(total) + 1)
        for block in torch.split(torch.nonzero(leads)[:, 0], BLOCK):
            apart = torch.cdist(reached[block], observed)
            apart[episode[block][:, None] == episode] = torch.inf
            distance, nearest = apart.topk(min(JOINS, total), largest=False)
            following[block, 1 : 1 + nearest.shape[1]] = torch.where(distance <= radius, nearest, total)
        return cls(rows, dataset.rewards[rows].double(), following, last & ~over, over)

    @property
    def touching(self) -> float:
        """Share of the steps that lead to another episode's."""
        return float((self.following[:, 1] < len(self.rows)).double().mean())


def best_returns(graph: Graph, horizon: int, *, lowest: float, changes: int = CHANGES) -> Tensor:
    """(V,) float64: the greatest return of `horizon` steps from each vertex, by dynamic programming.

    Args:
        lowest: what each step counts that would follow where an episode is cut and no other one touches it.
        changes: how often a way may change to another episode, at most. A change skips up to a step's length; without
            a limit, ways of changes alone would be faster than anything in the data.
    """
    vertices = len(graph.rewards)
    values = torch.zeros(vertices + 1, changes + 1, dtype=torch.float64)  # by how many changes are left
    rewards, over = graph.rewards[:, None], torch.nonzero(graph.over)[:, 0]
    cut, (stays, *joined) = torch.nonzero(graph.cut)[:, 0], graph.following.T.contiguous()
    for left in range(horizon):
        values[-1] = -torch.inf
        best = values.index_select(0, stays)
        for other in joined:
            torch.maximum(best[:, 1:], values.index_select(0, other)[:, :-1], out=best[:, 1:])
        best[cut] = best[cut].clamp(min=lowest * left)
        best[over] = 0.0
        values[:-1] = rewards + best
    return values[:-1, -1]


def step_length(dataset: TrajectoryDataset) -> float:
    """The root mean square distance between two observations in a row, each feature over its standard deviation."""
    scaled = _scaled(dataset, dataset.observations)
    inner = torch.arange(1, dataset.steps) < dataset.ends[:-1]
    if not bool(inner.any()):
        return 0.0
    return float((scaled[1:] - scaled[:-1])[inner].square().sum(1).mean().sqrt())


def near_rows(
    dataset: TrajectoryDataset, starts: Tensor, radius: float, *, among: Tensor | None = None
) -> Iterator[Tensor]:
    """For each of the observations `starts` (n, d): the steps within `radius` of it, or the nearest one, (m,) int64.

    Args:
        among: (V,) rows of the dataset; the numbers that are returned count these. None: all.
    """
    observed = _scaled(dataset, dataset.observations if among is None else dataset.observations[among])
    for start in _scaled(dataset, starts):
        apart = (observed - start).norm(dim=1)
        yield torch.nonzero(apart <= torch.clamp(apart.min(), min=radius))[:, 0]


def _scaled(dataset: TrajectoryDataset, observations: Tensor) -> Tensor:
    std = dataset.observations.std(0)
    rounding = (ROUNDING * dataset.observations.abs().amax(0)).clamp(min=NOTHING)
    return observations / torch.where(std > rounding, std, torch.inf)


def _chosen(dataset: TrajectoryDataset, generator: np.random.Generator) -> Tensor:
    """(E,) the episodes of the graph, in their order."""
    if dataset.steps <= GRAPH_STEPS:
        return torch.arange(dataset.episodes)
    drawn, best = torch.from_numpy(generator.permutation(dataset.episodes)), dataset.returns.argsort(descending=True)
    taken = []
    for order, part in ((drawn, 0.75), (best, 0.25)):
        count = int((dataset.lengths[order].cumsum(0) <= part * GRAPH_STEPS).sum())
        taken.append(order[: max(1, count)])
    return torch.cat(taken).unique()

"""Whether the best that a dataset allows needs stitching: parts of several episodes, one after the other.

Two returns are compared, both from where evaluation starts and within an evaluation's number of steps. One follows a
single stored episode to its end. The other may, a few times, go on from a stored step of another episode whose
observation nearly is the one that was reached; the best way through this graph is found by dynamic programming.

It is an estimate. Observations that nearly touch are taken for the same state, so it says too much where observations
hide something (memory tasks) and where they have so many dimensions that few are near each other it says too little.
Of a large dataset it sees some thousand steps, so it may miss a way that few episodes make.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.evaluation.environments import make_env
from flowrl.inspection.references import References
from flowrl.inspection.stitching_graph import Graph, best_returns, near_rows, step_length
from flowrl.text import number, share

__all__ = ["Stitching", "StitchingVerdict", "evaluation_starts", "judge_stitching"]

RESETS = 64
LONGEST = 1_000  # steps of an evaluation, at most
NEED, SOME = 0.5, 0.8  # of what joined episodes gain over the mean, as much as a single one gains
LEAST = 0.1  # of the scale: a smaller gain of joining counts as none

StitchingVerdict = Literal["yes", "partly", "no", "unknown"]


@dataclass(frozen=True)
class Stitching:
    """Whether joined parts of several episodes return much more than any single episode does."""

    verdict: StitchingVerdict
    sentence: str
    """The verdict in a word, a colon, and why."""
    detail: tuple[str, ...] = ()
    """The numbers behind it, a sentence each."""
    mean: float | None = None
    """Mean return of the stored episodes from near where evaluation starts; the three are means over the starts."""
    alone: float | None = None
    """The best return of a stored episode from there."""
    joined: float | None = None
    """The best return of joined parts of episodes from there."""


def evaluation_starts(env: EnvSpec | str, seed: int) -> NDArray[np.float64]:
    """(`RESETS`, observation size) first observations of an environment.

    Raises:
        InputError: the environment cannot be made here.
    """
    made = make_env(env)
    try:
        return np.stack([np.asarray(made.reset(seed=seed + index)[0], np.float64) for index in range(RESETS)])
    finally:
        made.close()


def judge_stitching(
    dataset: TrajectoryDataset,
    starts: NDArray[np.floating] | None,
    horizon: int | None,
    references: References,
    generator: np.random.Generator,
) -> Stitching:
    """Compare the best single episode with the best joined parts; a dataset of 400,000 steps takes seconds.

    Args:
        starts: (n, observation size) where evaluation starts; None takes first observations of the data.
        horizon: steps of an evaluation; None takes those of the longest episode.
        references: returns of a random and of an expert policy, by name; the first that is known gives the scale.
        generator: draws the episodes of the graph, and the starts where they are those of the data.
    """
    horizon = min(horizon or int(dataset.lengths.max()), LONGEST)
    place = "where evaluation starts" if starts is not None else "where its episodes start"
    if starts is None:
        chosen = generator.choice(dataset.episodes, min(RESETS, dataset.episodes), replace=False)
        starts = dataset.observations[dataset.starts][torch.from_numpy(np.sort(chosen))].double().numpy()
    elif starts.shape[1] != dataset.observations.shape[1]:
        return Stitching("unknown", "Not judged: the environment observes something else than the data hold.")
    elif dataset.offset is not None:
        starts = starts - dataset.offset
    radius = step_length(dataset)
    graph = Graph.of(dataset, radius, generator)
    first = torch.from_numpy(starts).float()
    single = _single(dataset, horizon)
    joined = best_returns(graph, horizon, lowest=_lowest(dataset))
    expert = _expert(references)
    means, alone, best = [], [], []
    for rows, vertices in zip(
        near_rows(dataset, first, radius), near_rows(dataset, first, radius, among=graph.rows), strict=True
    ):
        means.append(_mean_of_episodes(dataset, rows, single[rows]))
        alone.append(float(single[rows].max()))
        best.append(max(min(float(joined[vertices].max()), expert), alone[-1]))
    averages = float(np.mean(means)), float(np.mean(alone)), float(np.mean(best))
    return _judged(*averages, graph, _scale(dataset, references), place, expert < np.inf)


def _mean_of_episodes(dataset: TrajectoryDataset, rows: Tensor, returns: Tensor) -> float:
    """The mean over episodes of the best of their `returns` (n,) at `rows` (n,) int64: episodes may come by twice."""
    episodes = torch.searchsorted(dataset.starts, rows, right=True) - 1
    best = torch.full((dataset.episodes,), -torch.inf, dtype=torch.float64).scatter_reduce(0, episodes, returns, "amax")
    return float(best[best > -torch.inf].mean())


def _judged(
    mean: float, alone: float, joined: float, graph: Graph, scale: float, place: str, expert_known: bool
) -> Stitching:
    detail = (
        f"From {place}, the stored episodes return {number(mean)} on average and {number(alone)} at best; parts of"
        f" several, joined where their observations nearly touch, return up to {number(joined)}.",
        f"An estimate: of {len(graph.rows):,} steps {share(graph.touching)} lead to where another episode goes on.",
    )
    gained = (alone - mean) / (joined - mean) if joined > mean else 1.0
    if joined - alone < LEAST * scale or gained >= SOME:
        verdict, sentence = "no", "No: single episodes return about as much as joined parts of several do."
    elif not expert_known:
        verdict, sentence = (
            "unknown",
            "Not judged: joined parts seem to return more, but no expert's return is known to hold that against.",
        )
    elif gained >= NEED:
        verdict, sentence = (
            "partly",
            "Partly: parts of several episodes, joined, may return more than any single one does.",
        )
    else:
        verdict, sentence = (
            "yes",
            (f"Yes: from {place} no single episode returns nearly as much as joined parts of several do."),
        )
    return Stitching(verdict, sentence, detail, mean, alone, joined)


def _scale(dataset: TrajectoryDataset, references: References) -> float:
    for pair in references.values():
        if pair is not None and pair[1] > pair[0]:
            return pair[1] - pair[0]
    return float(dataset.returns.abs().max()) or 1.0


def _expert(references: References) -> float:
    """More than an expert's return is taken for an error of the graph."""
    return next((pair[1] for pair in references.values() if pair is not None), np.inf)


def _lowest(dataset: TrajectoryDataset) -> float:
    """What a step counts that would follow where a time limit cut an episode: nothing better is known."""
    return min(0.0, float(dataset.rewards.min()))


def _single(dataset: TrajectoryDataset, horizon: int) -> Tensor:
    """(N,) the return of following the episode from each step, within `horizon` steps."""
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), dataset.rewards.double().cumsum(0)])
    rows = torch.arange(dataset.steps)
    ends = torch.minimum(dataset.ends, rows + horizon)
    cut = ~torch.repeat_interleave(dataset.terminated, dataset.lengths)
    return sums[ends] - sums[rows] + cut * _lowest(dataset) * (horizon - (ends - rows))

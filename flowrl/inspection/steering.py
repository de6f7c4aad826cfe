"""Whether asking for a return can be expected to change what a policy trained on a dataset does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowrl.data.dataset import TrajectoryDataset
from flowrl.text import figure, share

Floats = NDArray[np.floating]

FEW_EPISODES = 10
FOLDS = 10
# Student's t with FOLDS − 1 degrees of freedom for a 97.5 % interval: the better of two tests counts, so that both
# intervals together should hold in 95 % of cases (Bonferroni).
T_FOLDS = 2.685
# The folds' errors depend on each other, since any two fits share most of their episodes: their scatter alone makes
# an interval too narrow by this factor (Nadeau and Bengio, 2003: 1/FOLDS becomes 1/FOLDS + test/training size).
SHARED = (1.0 + FOLDS / (FOLDS - 1)) ** 0.5
TESTED_STEPS = 12_000
START = 20  # steps from an episode's start, where observations do not tell yet who acts
RANDOM_FEATURES = 192
WIDEST = 200  # dimensions beyond these enter through random features alone
BASE_PENALTIES = (1.0, 10.0, 100.0)
RETURN_PENALTIES = (1e2, 1e3, 1e4, 1e5, 1e6)

WIDE, NARROW = 0.25, 0.10  # of the scale, from the 10th to the 90th percentile of returns over steps
BAND = 0.1  # of the scale
SCALES = {
    "own": "the range from random to expert measured by us",
    "dataset": "the dataset's own range from random to expert",
    "D4RL": "D4RL's range from random to expert",
}
# Relative gain in held-out error from which on the return says something about the action: a rule of thumb, chosen on
# our own Hopper sets. Mixtures gain 1.0 to 3.6 %, the medium and the expert policy alone 0.0 %. The untrained policy
# gains 3 %, since in its short episodes the noise itself decides the return, but its returns are all alike.
TELLING = 0.005
LEVEL_EPISODES = 5


@dataclass(frozen=True)
class Gain:
    """How much better actions are predicted on held-out episodes once the return-to-go is known as well."""

    steps: int
    episodes: int
    explained: float
    """Share of the actions' variance that observation and time explain on held-out episodes."""
    gain: float
    """1 − error with the return / error without."""
    low: float
    """Approximate interval over the folds, wide enough that those of both tests hold together in 95 % of cases."""
    high: float


@dataclass(frozen=True)
class Steering:
    """Whether asking for a return can be expected to change what a policy trained on these data does."""

    verdict: Literal["yes", "weakly", "no"]
    sentence: str
    """The verdict as yes, no or between, a colon, and why."""
    detail: tuple[str, ...] = ()
    """The numbers behind it, a sentence each."""
    scale: float | None = None
    """The returns' spread is measured against this: the reference range, or the mean size of returns without one."""
    scale_name: str | None = None
    spread: float | None = None
    """From the 10th to the 90th percentile of returns over steps, over the scale."""
    densest_band: float | None = None
    """Largest share of the steps whose episodes' returns lie within `BAND` of the scale."""
    low_episodes: int | None = None
    """Episodes below the middle between the two percentiles."""
    high_episodes: int | None = None
    """The others."""
    everywhere: Gain | None = None
    start: Gain | None = None
    """The same on the first `START` steps of the episodes alone."""

    @property
    def reason(self) -> str:
        """Why, for the middle of a sentence."""
        return self.sentence.partition(": ")[2].rstrip(".")


def judge_steering(
    dataset: TrajectoryDataset,
    references: Mapping[str, tuple[float, float] | None],
    generator: np.random.Generator,
) -> Steering:
    """Judge from the data alone whether returns can steer; no policy is trained, so this is an expectation.

    Yes takes both: returns that differ by much over the steps, and a return-to-go that says something about the action
    beyond what observation and time say. The latter is a ridge regression of the action on random Fourier features
    (Rahimi and Recht, 2007) with and without the return-to-go and its products with the observation, compared on
    episodes held out. Returns that vary by luck alone, as one noisy policy's do, pass the first and fail the second.

    Args:
        references: returns of a random and of an expert policy, by name; the first that is known gives the scale.
    """
    lengths, returns = dataset.lengths.cpu().numpy(), dataset.returns.cpu().numpy().astype(np.float64)
    if len(lengths) < FEW_EPISODES:
        return Steering("no", f"No: {len(lengths)} episode(s) are too few to choose between returns.")
    by_step = np.repeat(returns, lengths)
    scale, scale_name = _scale(by_step, references)
    p10, p90 = (float(p) for p in np.percentile(by_step, (10, 90)))
    spread = (p90 - p10) / scale
    middle = (p10 + p90) / 2
    low_episodes = int((returns < middle).sum())
    band = _densest(by_step, BAND * scale)
    facts: dict[str, Any] = {
        "scale": scale,
        "scale_name": scale_name,
        "spread": spread,
        "densest_band": band,
        "low_episodes": low_episodes,
        "high_episodes": len(returns) - low_episodes,
    }
    detail = [
        f"Four fifths of all steps are from episodes that return {figure(p10)} to {figure(p90)}, a range as wide as"
        f" {spread:.0%} of {scale_name} ({figure(scale)}). Up to {band:.0%} of the steps have"
        f" returns that differ by no more than {BAND:.0%} of it."
    ]

    def judged(verdict: Literal["yes", "weakly", "no"], sentence: str) -> Steering:
        return Steering(verdict, sentence, tuple(detail), **facts)

    if returns.max() - returns.min() <= 1e-6 * max(float(np.abs(returns).max()), 1.0):
        return judged("no", "No: all episodes have the same return.")
    everywhere = regression_gain(dataset, generator)
    start = regression_gain(dataset, generator, within=START) if int(lengths.max()) > START else None
    facts |= {"everywhere": everywhere, "start": start}
    gains = [gain for gain in (everywhere, start) if gain is not None]
    if not gains:
        return judged("no", "No: the actions never vary.")
    best = max(gains, key=lambda gain: gain.low)
    told = f"{share(best.gain)} smaller" if best.gain >= 0 else f"{share(-best.gain)} larger"
    detail.append(
        f"Actions predicted on episodes held out{f' (first {START} steps of each)' if best is start else ''} have a"
        f" squared error {told} once the return still to come is known, besides observation and time; 95 % interval of"
        f" the reduction, about: {share(best.low)} to {share(best.high)}."
    )
    if spread < NARROW:
        return judged("no", "No: the returns of most steps are too much alike.")
    if all(gain.high < TELLING for gain in gains):
        return judged(
            "no",
            "No: the returns differ, but given the present observation and time the actions hardly differ with them"
            " (whether they do given the past is not judged).",
        )
    if best.low <= 0:
        return judged("weakly", "Uncertain: the returns differ, but whether the actions differ with them is open.")
    if best.gain < TELLING:
        return judged("weakly", "Weakly: the returns differ, but the actions differ with them only a little.")
    if spread < WIDE:
        return judged("weakly", "Weakly: the actions differ with the returns, but the returns differ little.")
    if min(low_episodes, len(returns) - low_episodes) < LEVEL_EPISODES:
        return judged(
            "weakly",
            f"Weakly: only {low_episodes} episode(s) return less than the middle of that range and"
            f" {len(returns) - low_episodes} more, too few on one side.",
        )
    return judged("yes", "Probably: the returns differ, and the actions differ with them.")


def _scale(by_step: Floats, references: Mapping[str, tuple[float, float] | None]) -> tuple[float, str]:
    for name, pair in references.items():
        if pair is not None and pair[1] > pair[0]:
            return pair[1] - pair[0], SCALES.get(name, name)
    return float(np.abs(by_step).mean()) or 1.0, "the mean size of the returns (no reference is known)"


def _densest(values: Floats, width: float) -> float:
    """Largest share of the values in any closed interval of that width."""
    values = np.sort(values)
    return float((np.searchsorted(values, values + width, side="right") - np.arange(len(values))).max() / len(values))


def regression_gain(
    dataset: TrajectoryDataset, generator: np.random.Generator, *, within: int | None = None
) -> Gain | None:
    """How much a return-to-go tells of the action beyond observation and time, on episodes held out.

    Args:
        within: only an episode's first so many steps.

    Returns:
        None where the actions never vary.
    """
    timesteps = dataset.timesteps.cpu().numpy()
    lengths = dataset.lengths.cpu().numpy()
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(timesteps)) if within is None else np.flatnonzero(timesteps < within)
    if len(rows) > TESTED_STEPS:
        rows = np.sort(generator.choice(rows, TESTED_STEPS, replace=False))
    sampled, episode_of = np.unique(episode_of[rows], return_inverse=True)
    fold = (generator.permutation(len(sampled)) % FOLDS)[episode_of]
    actions = _standardised(dataset.actions.cpu().numpy()[rows])
    actions = actions[:, actions.any(0)]
    if not actions.shape[1]:
        return None
    returns = _standardised(dataset.returns_to_go.cpu().numpy()[rows, None])
    known = _standardised(np.column_stack([dataset.observations.cpu().numpy()[rows], timesteps[rows]]))
    weights = generator.normal(size=(known.shape[1], RANDOM_FEATURES)) * 0.7 / np.sqrt(known.shape[1])
    random_features = np.sqrt(2.0) * np.cos(known @ weights + generator.uniform(0, 2 * np.pi, RANDOM_FEATURES))
    linear = known[:, :WIDEST]
    base = np.concatenate([np.ones((len(rows), 1)), linear, random_features], 1)
    more = np.concatenate([base, returns, returns**2, linear * returns], 1)

    size = base.shape[1]
    without = _held_out(base, actions, fold, [np.full(size, p) for p in BASE_PENALTIES])
    with_return = _held_out(
        more,
        actions,
        fold,
        [np.r_[np.full(size, p), np.full(more.shape[1] - size, q)] for p in BASE_PENALTIES for q in RETURN_PENALTIES],
    )
    gain = 1.0 - with_return.sum() / without.sum()
    # The standard error of a ratio of sums over folds.
    residual = (without - with_return) - gain * without
    error = SHARED * np.sqrt(FOLDS / (FOLDS - 1) * (residual**2).sum()) / without.sum()
    return Gain(
        steps=len(rows),
        episodes=len(sampled),
        explained=float(1.0 - without.sum() / (actions**2).sum()),
        gain=float(gain),
        low=float(gain - T_FOLDS * error),
        high=float(gain + T_FOLDS * error),
    )


def _standardised(array: Floats) -> NDArray[np.float64]:
    """Columns with mean 0 and deviation 1, far outliers cut; those that never vary become 0."""
    array = array.astype(np.float64)
    array -= array.mean(0)
    std = array.std(0)
    return np.clip(array / np.where(std > 1e-6, std, np.inf), -5.0, 5.0)


def _held_out(
    inputs: NDArray[np.float64],
    outputs: NDArray[np.float64],
    fold: NDArray[np.int64],
    penalties: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """(FOLDS,) squared error of ridge regressions, each on the fold that it was not fitted to.

    The penalty of a fold is the one that does best on all the others. Their fits have seen the fold, so it has a say
    in its own penalty, if a small one; in its own weights it has none.
    """
    parts = [(inputs[fold == k], outputs[fold == k]) for k in range(FOLDS)]
    grams = np.stack([x.T @ x for x, _ in parts])
    moments = np.stack([x.T @ y for x, y in parts])
    squares = np.array([(y**2).sum() for _, y in parts])
    gram, moment = grams.sum(0), moments.sum(0)
    errors = np.empty((len(penalties), FOLDS))
    for row, penalty in enumerate(penalties):
        for k in range(FOLDS):
            weights = np.linalg.solve(gram - grams[k] + np.diag(penalty), moment - moments[k])
            errors[row, k] = squares[k] - 2 * (weights * moments[k]).sum() + (weights * (grams[k] @ weights)).sum()
    others = errors.sum(1, keepdims=True) - errors
    return errors[others.argmin(0), np.arange(FOLDS)]

"""How much better a regression predicts actions once it knows the return-to-go, on held-out episodes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.scales import NOTHING, ROUNDING

__all__ = ["FOLDS", "Gain", "regression_gain"]

FOLDS = 10
# Student's t with FOLDS − 1 degrees of freedom for a 97.5 % interval: the better of two tests counts, so that both
# intervals together should hold in 95 % of cases (Bonferroni).
T_FOLDS = 2.685
# The folds' errors depend on each other, since any two fits share most of their episodes: their scatter alone makes
# an interval too narrow by this factor (Nadeau and Bengio, 2003: 1/FOLDS becomes 1/FOLDS + test/training size).
SHARED = (1.0 + FOLDS / (FOLDS - 1)) ** 0.5
TESTED_STEPS = 12_000
RANDOM_FEATURES = 192
WIDEST = 200  # dimensions beyond these enter through random features alone
BASE_PENALTIES = (1.0, 10.0, 100.0)
RETURN_PENALTIES = (1e2, 1e3, 1e4, 1e5, 1e6)

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


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


def regression_gain(
    dataset: TrajectoryDataset, generator: np.random.Generator, *, within: int | None = None
) -> Gain | None:
    """How much a return-to-go says about the action beyond observation and time, on held-out episodes.

    Ridge regressions of the action on random Fourier features (Rahimi and Recht, 2007), without and with the
    return-to-go and its products with the observation, on at most `TESTED_STEPS` steps.

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
    linear = known[:, :WIDEST]
    base = np.concatenate([np.ones((len(rows), 1)), linear, _random_features(known, generator)], 1)
    extra = np.concatenate([returns, returns**2, linear * returns], 1)

    without, with_return = held_out_errors(base, extra, actions, fold)
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


def _random_features(inputs: Doubles, generator: np.random.Generator) -> Doubles:
    """(N, RANDOM_FEATURES) whose inner products approximate a Gaussian kernel of the inputs (N, d)."""
    weights = generator.normal(size=(inputs.shape[1], RANDOM_FEATURES)) * 0.7 / np.sqrt(inputs.shape[1])
    phases = inputs @ weights + generator.uniform(0, 2 * np.pi, RANDOM_FEATURES)
    # torch's cosine of doubles is vectorised: half of the time of NumPy's.
    return np.sqrt(2.0) * torch.cos(torch.from_numpy(phases)).numpy()


def _standardised(array: Floats) -> Doubles:
    """Columns with mean 0 and deviation 1, outliers cut at 5; those that never vary become 0."""
    array = array.astype(np.float64)
    rounding = np.maximum(ROUNDING * np.abs(array).max(0), NOTHING)
    array -= array.mean(0)
    std = array.std(0)
    return np.clip(array / np.where(std > rounding, std, np.inf), -5.0, 5.0)


def held_out_errors(
    base: Doubles, extra: Doubles, outputs: Doubles, fold: NDArray[np.int64]
) -> tuple[Doubles, Doubles]:
    """Squared errors of ridge regressions, each on the fold that it was not fitted to.

    The penalties of a fold, one on the `base` weights and one on the `extra` weights, are those that do best on all
    the other folds. Their fits have seen the fold, so it has a say in its own penalty, if a small one; in its own
    weights it has none.

    Args:
        base: (N, n) inputs of both regressions.
        extra: (N, m) inputs of the second one alone.
        outputs: (N, a).
        fold: (N,) 0 to FOLDS − 1.

    Returns:
        (FOLDS,) errors on `base` alone, and on both.
    """
    size, inputs = base.shape[1], np.concatenate([base, extra], 1)
    parts = [(inputs[fold == k], outputs[fold == k]) for k in range(FOLDS)]
    grams = np.stack([x.T @ x for x, _ in parts])
    moments = np.stack([x.T @ y for x, y in parts])
    squares = np.array([(y**2).sum() for _, y in parts])
    # What each fold's regression is fitted to: all the others.
    fitted_grams, fitted_moments = grams.sum(0) - grams, moments.sum(0) - moments

    def errors(weights: Doubles) -> Doubles:
        gram, moment = grams[:, : weights.shape[1], : weights.shape[1]], moments[:, : weights.shape[1]]
        return squares + (weights * (gram @ weights - 2 * moment)).sum((1, 2))

    base_gram, cross = fitted_grams[:, :size, :size], fitted_grams[:, :size, size:]
    extra_gram, extra_moment = fitted_grams[:, size:, size:], fitted_moments[:, size:]
    without, with_extra = [], []
    for base_penalty in BASE_PENALTIES:
        # One elimination of the base weights serves the regression without extras and every penalty on them.
        solved = np.linalg.solve(
            base_gram + base_penalty * np.eye(size), np.concatenate([fitted_moments[:, :size], cross], 2)
        )
        base_weights, per_extra = np.split(solved, [outputs.shape[1]], axis=2)
        without.append(errors(base_weights))
        schur = extra_gram - cross.mT @ per_extra
        remaining = extra_moment - cross.mT @ base_weights
        for penalty in RETURN_PENALTIES:
            extra_weights = np.linalg.solve(schur + penalty * np.eye(extra.shape[1]), remaining)
            with_extra.append(errors(np.concatenate([base_weights - per_extra @ extra_weights, extra_weights], 1)))
    return _chosen(np.stack(without)), _chosen(np.stack(with_extra))


def _chosen(errors: Doubles) -> Doubles:
    """(FOLDS,) the errors (penalties, FOLDS) of the penalty that is best on the sum of all other folds."""
    others = errors.sum(1, keepdims=True) - errors
    return errors[others.argmin(0), np.arange(FOLDS)]

"""What every agent returns at every target, and how it differs from the baseline: rows with intervals."""

from typing import Any

import numpy as np

from flowrl.evaluation.statistics import Estimate, interquartile_mean, mean_return, paired_difference
from flowrl.report.matched import MatchedRuns
from flowrl.report.runs import Row


def generator() -> np.random.Generator:
    """A new generator for every bootstrap: no interval depends on what else a report holds."""
    return np.random.default_rng(0)


def score_rows(runs: MatchedRuns) -> list[Row]:
    """One row per target and label: mean return with an interval over seeds and episodes, and normalised scores.

    One training seed has no interval: low and high are None, here and in all rows.
    """
    return [_score_row(runs, target, label) for target in runs.targets for label in runs.labels]


def _score_row(runs: MatchedRuns, target: float, label: str) -> Row:
    returns = runs.returns(label, target)
    row = {
        "dataset": runs.dataset,
        "target": target,
        "agent": label,
        "seeds": len(returns),
        "episodes": returns.shape[1],
        **columns("mean", mean_return(returns, generator()), len(returns)),
        "std_of_seeds": float(returns.mean(1).std(ddof=1)) if len(returns) > 1 else None,
        "iqm": float(interquartile_mean(returns.ravel())),
        "length": float(runs.returns(label, target, "length").mean()),
    }
    for name in ("score_d4rl", "score_measured", "score_dataset"):
        scores = runs.returns(label, target, name)
        row[name] = None if np.isnan(scores).any() else float(scores.mean())
    return row


def difference_rows(runs: MatchedRuns) -> list[Row]:
    """One row per target and rival of the baseline: the paired difference over common seeds, and its interval."""
    rows = []
    for target in runs.targets:
        for label in runs.rivals:
            if (pair := runs.paired(label, target)) is not None:
                estimate, seeds = paired_difference(*pair, generator()), len(pair[0])
                names = {"dataset": runs.dataset, "target": target, "agent": label, "baseline": runs.baseline}
                rows.append({**names, "seeds": seeds, **columns("difference", estimate, seeds)})
    return rows


def columns(name: str, estimate: Estimate, seeds: int) -> dict[str, Any]:
    """An estimate as columns of a row; the ends of its interval are None where it is of one training seed."""
    low, high = (estimate.low, estimate.high) if seeds > 1 else (None, None)
    return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}

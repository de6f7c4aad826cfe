"""Training curves of the runs, and their time and memory: rows."""

import numpy as np

from flowrl.report.matched import MatchedRuns
from flowrl.report.runs import Row


def curve_rows(runs: MatchedRuns) -> list[Row]:
    """One row per run and evaluation: the mean return at the headline target against steps and training time."""
    rows = []
    for run in runs.runs:
        minutes = run.minutes()
        for step, value in run.curve(runs.headline).items():
            rows.append(
                {
                    "dataset": runs.dataset,
                    "agent": run.label,
                    "seed": run.seed,
                    "target": runs.headline,
                    "step": step,
                    "minutes": float(np.interp(step, list(minutes), list(minutes.values()))),
                    "mean": value,
                }
            )
    return rows


def best_over_training_rows(runs: MatchedRuns) -> list[Row]:
    """One row per label: the best evaluation of every seed, picked by its outcome, beside the last."""
    rows = []
    for label in runs.labels:
        mine = runs.runs_of(label).values()
        curves = [run.curve(runs.headline) for run in mine]
        rows.append(
            {
                "dataset": runs.dataset,
                "agent": label,
                "last": float(np.mean([curve[max(curve)] for curve in curves])),
                "best": float(np.mean([max(curve.values()) for curve in curves])),
                "evaluations": min(len(curve) for curve in curves),
                "episodes": min((n for run in mine if (n := run.config.get("evaluate_episodes"))), default=None),
            }
        )
    return rows


def cost_rows(runs: MatchedRuns) -> list[Row]:
    """One row per run: training speed and time, time of the final evaluation, peak memory."""
    rows = []
    for run in runs.runs:
        speeds = [row["steps_per_second"] for row in run.metrics if "steps_per_second" in row]
        rows.append(
            {
                "dataset": runs.dataset,
                "agent": run.label,
                "seed": run.seed,
                "steps": run.config["training"]["steps"],
                "steps_per_second": float(np.median(speeds)) if speeds else None,
                "minutes": max(run.minutes().values()),
                "evaluation_seconds": run.metric("eval/seconds"),
                "peak_bytes": run.metric("memory/peak_bytes"),
                "peak_gpu_bytes": run.metric("memory/peak_gpu_bytes"),
            }
        )
    return rows

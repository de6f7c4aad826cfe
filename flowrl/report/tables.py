"""The rows of a report as tables of text, header first."""

from collections.abc import Callable, Sequence

import numpy as np

from flowrl.report.comparison import Comparison
from flowrl.report.maps import KINDS, attention_rows
from flowrl.report.overview import SCORES, Report
from flowrl.report.pivots import differences_by_target, result_table, returns_by_target
from flowrl.report.runs import Row
from flowrl.text import DASH, interval, number, share, span

Table = list[list[str]]

_SCORES = ("score_d4rl", "score_measured")  # columns that are always there


def score_table(comparison: Comparison) -> Table:
    """What every agent returned at every target."""
    stored = any(row["score_dataset"] is not None for row in comparison.score_rows)
    scores = (*_SCORES, "score_dataset") if stored else _SCORES
    table = [
        [
            "target",
            "agent",
            "seeds",
            "mean",
            "95 % interval",
            "std of seeds",
            "IQM",
            "length",
            *(SCORES[name] for name in scores),
        ]
    ]
    for row in comparison.score_rows:
        table.append(
            [
                number(row["target"]),
                row["agent"],
                str(row["seeds"]),
                number(row["mean"]),
                interval(row["mean_low"], row["mean_high"]),
                number(row["std_of_seeds"]),
                number(row["iqm"]),
                f"{row['length']:,.0f}",
                *(_or_dash(row[name], _score) for name in scores),
            ]
        )
    return table


def difference_table(comparison: Comparison) -> Table:
    """Paired differences to the baseline at every target."""
    table = [["target", "difference", "pairs", "mean", "95 % interval"]]
    for row in comparison.difference_rows:
        table.append(
            [
                number(row["target"]),
                f"{row['agent']} − {row['baseline']}",
                str(row["seeds"]),
                number(row["difference"], sign=True),
                interval(row["difference_low"], row["difference_high"]),
            ]
        )
    return table


def dataset_table(comparison: Comparison) -> Table:
    """The returns of the dataset's episodes."""
    returns = comparison.dataset_returns
    percentiles = returns["percentiles"]
    header = ["episodes", "steps", "mean of episodes", "mean of steps", "worst", "p50", "p75", "p90", "best"]
    means = returns["mean"], returns["mean_by_step"]
    numbers = [number(value) for value in (*means, *(percentiles[p] for p in (0, 50, 75, 90, 100)))]
    return [header, [f"{returns['episodes']:,}", f"{returns['steps']:,}", *numbers]]


def calibration_table(comparison: Comparison) -> Table:
    """How closely the return follows the target, of the agents that take one."""
    table = [["agent", "slope", "distance", "change of action"]]
    for row in comparison.calibration_rows:
        slope, change = (
            _or_dash(row["slope"], lambda slope: f"{round(slope, 2) + 0.0:.2f}"),
            _or_dash(row["change"], "{:.3f}".format),
        )
        table.append([row["agent"], slope, share(row["error"]), change])
    return table


def attention_table(comparison: Comparison) -> Table:
    """What the token from which the action is read looks at, layer by layer."""
    table = [["agent", "layer", "tokens looked at", "on returns", "on observations", "on actions", "sum of weights"]]
    for row in attention_rows(comparison):
        shares = [share(row[name]) for name in KINDS]
        table.append([row["agent"], str(row["layer"]), f"{row['tokens']:.1f}", *shares, f"{row['gain']:.2f}"])
    return table


def best_over_training_table(comparison: Comparison) -> Table:
    """The best evaluation of each run, picked by its outcome: not the result."""
    table = [["agent", "last (the result)", "best over training", "evaluations"]]
    for row in comparison.best_over_training_rows:
        table.append([row["agent"], number(row["last"]), number(row["best"]), str(row["evaluations"])])
    return table


def cost_table(comparison: Comparison) -> Table:
    """Training speed and time, evaluation time and memory per agent, medians over training seeds."""
    table = [["agent", "training steps", "steps/s", "training", "final evaluation", "peak memory", "peak GPU memory"]]
    for label in comparison.labels:
        rows = [row for row in comparison.cost_rows if row["agent"] == label]
        table.append([label, *_costs(rows)])
    return table


def run_table(comparison: Comparison) -> Table:
    """The same of every run."""
    table = [["agent", "seed", *cost_table(comparison)[0][1:]]]
    return table + [[row["agent"], str(row["seed"]), *_costs([row])] for row in comparison.cost_rows]


def _costs(rows: Sequence[Row]) -> list[str]:
    def median(name: str, text: Callable[[float], str]) -> str:
        known = [row[name] for row in rows if row[name] is not None]
        return text(float(np.median(known))) if known else DASH

    return [
        span([row["steps"] for row in rows]),
        median("steps_per_second", "{:.2f}".format),
        median("minutes", "{:,.1f} min".format),
        median("evaluation_seconds", "{:,.0f} s".format),
        *(median(name, lambda size: f"{size / 2**20:,.0f} MiB") for name in ("peak_bytes", "peak_gpu_bytes")),
    ]


def task_table(report: Report) -> Table:
    """One row per dataset, one column per agent: score ± standard deviation over seeds at the headline target."""
    labels = report.labels
    table = [["dataset", "target", *labels]]
    for comparison in report.comparisons:
        rows = {row["agent"]: row for row in report.task_rows if row["dataset"] == comparison.dataset}
        table.append(
            [
                comparison.dataset,
                number(comparison.headline),
                *(_task_cell(rows[label], report.score) if label in rows else DASH for label in labels),
            ]
        )
    return table


def _task_cell(row: Row, score: str | None) -> str:
    value, spread = (row["mean"], row["std_of_seeds"]) if score is None else (row["score"], row["score_std_of_seeds"])
    return number(value) if spread is None else f"{number(value)} ± {number(spread)}"


def aggregate_table(report: Report) -> Table:
    """IQM and mean over tasks and seeds, and the median of several tasks' means."""
    shown = {"iqm": "IQM", "mean": "mean"} | ({"median": "median"} if len(report.comparisons) > 1 else {})
    table = [["agent", "datasets", "runs", *(cell for name in shown.values() for cell in (name, "95 % interval"))]]
    for row in report.aggregate_rows:
        values = []
        for name in shown:
            values += [number(row[name]), interval(row[f"{name}_low"], row[f"{name}_high"])]
        table.append([row["agent"], str(row["tasks"]), str(row["runs"]), *values])
    return table


def improvement_table(report: Report) -> Table:
    """Paired difference and probability of improvement over tasks."""
    table = [["difference", "datasets", "pairs", "points of score", "95 % interval", "P(better)", "95 % interval"]]
    for row in report.improvement_rows:
        table.append(
            [
                f"{row['agent']} − {row['baseline']}",
                str(row["tasks"]),
                str(row["pairs"]),
                number(row["difference"], sign=True),
                interval(row["difference_low"], row["difference_high"]),
                f"{row['probability']:.2f}",
                _or_dash(row["probability_low"], lambda low, high=row["probability_high"]: f"[{low:.2f}, {high:.2f}]"),
            ]
        )
    return table


def tables_of(comparison: Comparison) -> list[tuple[str, Table]]:
    """The tables of one dataset for the console, each with its title."""
    shown = [
        ("returns in the dataset", dataset_table(comparison)),
        (f"result at target {number(comparison.headline)} (the last checkpoint)", result_table(comparison)),
    ]
    if pivot := returns_by_target(comparison):
        shown.append(("returns of the agents by target", pivot.rows))
    if pivot := differences_by_target(comparison):
        shown.append(("paired differences by target", pivot.rows))
    if comparison.calibration_rows:
        shown.append(("following the target within the range of the data", calibration_table(comparison)))
    return [*shown, ("cost", cost_table(comparison))]


def overview_tables(report: Report) -> list[tuple[str, Table]]:
    """The tables of all runs together for the console, each with its title."""
    shown = []
    if len(report.comparisons) > 1:
        shown.append(("all datasets, each at the target in the second column", task_table(report)))
    if report.pooled:
        shown.append((f"scores over {report.pooled_over}", aggregate_table(report)))
        if report.improvement_rows:
            shown.append(("paired differences and probability of improvement", improvement_table(report)))
    return shown


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return DASH if value is None else text(value)


def _score(score: float) -> str:
    return f"{round(score, 1) + 0.0:.1f}"  # no -0.0

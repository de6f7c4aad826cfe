"""How closely agents follow their target return, and whether their data allow it."""

import numpy as np

from flowrl.report.matched import MatchedRuns
from flowrl.report.runs import Row, Run
from flowrl.text import number

NARROW = 0.1  # returns that spread over less than this share of the largest cannot steer
FOLLOWS = 0.5  # an agent whose return rises by at least this much per target return is steered


def calibration_rows(runs: MatchedRuns) -> list[Row]:
    """One row per label that takes a target: how closely its mean return follows it within the range of the data.

    `slope` is of the least-squares line of mean return over target; `error` the distance of the mean return from
    the target, as a share of the range and averaged over targets; `change` how far actions move between the worst and
    the best return as target, from the study of the label's first seed, in the study's `unit`.
    """
    low, high = runs.dataset_returns["percentiles"][0], runs.dataset_returns["percentiles"][-1]
    inside = np.array([target for target in runs.targets if low <= target <= high])
    rows = []
    for label in runs.labels:
        if not all(run.conditioned for run in runs.runs_of(label).values()):
            continue
        means = np.array([runs.returns(label, target).mean() for target in inside])
        studied = runs.studied(label)
        sensitivity = studied.study["sensitivity"] if studied and studied.study else {}
        rows.append(
            {
                "dataset": runs.dataset,
                "agent": label,
                "targets": len(inside),
                "slope": float(np.polyfit(inside, means, 1)[0]) if len(set(inside)) > 1 else None,
                "error": float(np.abs(means - inside).mean() / (high - low)) if len(inside) and high > low else None,
                "change": sensitivity.get("worst_to_best"),
                "unit": sensitivity.get("unit"),
            }
        )
    return rows


def steering_warning(runs: MatchedRuns) -> str | None:
    """Why a target return cannot steer the agents that take one; None where it can, or no agent takes one.

    Runs carry a verdict on the data that they were trained on. One agent that follows its target refutes the verdict
    for all that were trained on the same data.
    """
    conditioned = [run for run in runs.runs if run.conditioned]
    judged = [run for run in conditioned if "steering" in run.config["dataset_returns"]]
    if conditioned and not judged:  # runs of earlier versions have no verdict
        return _narrow_returns(runs.dataset_returns["percentiles"])
    slopes = {row["agent"]: row["slope"] or 0.0 for row in calibration_rows(runs)}
    steered = {run.config["fingerprint"] for run in conditioned if slopes.get(run.label, 0.0) >= FOLLOWS}
    return _verdicts([run for run in judged if run.config["fingerprint"] not in steered], conditioned)


def _verdicts(judged: list[Run], conditioned: list[Run]) -> str | None:
    """The reasons of all verdicts that are no, each with the agents it is about."""
    labels_by_reason: dict[str, list[str]] = {}
    for run in judged:
        steering = run.config["dataset_returns"]["steering"]
        if steering["verdict"] == "no":
            labels = labels_by_reason.setdefault(steering["reason"], [])
            labels += [run.label] * (run.label not in labels)
    everyone = {run.label for run in conditioned}
    sentences = []
    for reason, labels in labels_by_reason.items():
        data = "these data" if {*labels} == everyone else f"the data of {', '.join(labels)}"
        sentences.append(f"On {data} an agent is not expected to follow a target return: {reason}.")
    return " ".join(sentences) or None


def _narrow_returns(percentiles: list[float]) -> str | None:
    low, high = percentiles[10], percentiles[90]
    if high - low >= NARROW * max(abs(percentiles[0]), abs(percentiles[-1])):
        return None
    return (
        f"Four fifths of the dataset's returns lie between {number(low)} and {number(high)}: they hardly vary, so a"
        " target return cannot steer an agent here."
    )

"""What a report says first: who is better, by how much, and whether noise alone could explain it; and its origin."""

from collections.abc import Sequence
from datetime import date

from flowrl.report.comparison import Comparison
from flowrl.report.overview import SCORES, Report
from flowrl.report.runs import Row
from flowrl.report.sentences import estimate, fewest_seeds, seed_caution
from flowrl.text import counted, joined, number

TIE = "no significant difference; 95 % interval includes 0"
_SHORT = 12  # digits of a commit that name it


def origin(report: Report, written: date) -> str:
    """The day of the report, and the commits of the code that trained its runs."""
    runs = [run for comparison in report.comparisons for run in comparison.runs]
    commits = dict.fromkeys(run.config.get("commit") for run in runs)
    named = [_short(commit) for commit in commits if commit]
    code = f"commit{'s' * (len(named) > 1)} {', '.join(named)}" if named else "commit not recorded"
    if named and None in commits:
        code += " (some runs have none recorded)"
    return f"{written.isoformat()} · {code}"


def _short(commit: str) -> str:
    name, *changed = commit.split("-", 1)
    return name[:_SHORT] + (" with uncommitted changes" if changed else "")


def verdict(report: Report) -> list[str]:
    """The result in a few sentences, ties as ties."""
    failed = len(report.failures)
    warning = [f"{counted(failed, 'run')} failed in training or in the study."] if failed else []
    if len(report.comparisons) == 1:
        return [*comparison_verdict(report.comparisons[0]), *warning]
    caution = seed_caution(report.fewest_seeds())
    return [*_over_datasets(report), *([caution] if caution else []), *warning]


def _over_datasets(report: Report) -> list[str]:
    if report.score is None:
        each = [f"{c.dataset}: {comparison_verdict(c)[0]}" for c in report.comparisons]
        return ["Not every dataset has reference returns of one kind, so there is no score over all of them.", *each]
    if not report.aggregate_rows:
        return ["No dataset has a training seed of every agent, so there is no score over all of them."]
    values = "; ".join(f"{row['agent']} {estimate(row, 'iqm')}" for row in report.aggregate_rows)
    across = f"Interquartile mean of the {SCORES[report.score]} over {counted(len(report.shared), 'dataset')}"
    return [*_judgements(report.improvement_rows, " points of score"), f"{across}: {values}."]


def comparison_verdict(comparison: Comparison) -> list[str]:
    """The same of one dataset, at the target that agents are judged at."""
    scores = [row for row in comparison.score_rows if row["target"] == comparison.headline]
    differences = [row for row in comparison.difference_rows if row["target"] == comparison.headline]
    values = "; ".join(f"{row['agent']} returns {estimate(row, 'mean')}" for row in scores)
    best = number(comparison.dataset_returns["percentiles"][-1])
    at = f"At target {number(comparison.headline)}, " if any(run.conditioned for run in comparison.runs) else ""
    caution = seed_caution(fewest_seeds(comparison))
    return [
        *_judgements(differences, ""),
        f"{at}{values} (the dataset's best return is {best}).",
        *([caution] if caution else []),
    ]


def _judgements(differences: Sequence[Row], unit: str) -> list[str]:
    """Who is better or worse than the baseline, and who ties with it, as one entry; none without intervals."""
    sentences, ties = [], []
    for row in differences:
        if row["difference_low"] is None:
            continue
        if row["difference_low"] <= 0 <= row["difference_high"]:
            ties.append(row)
            continue
        kind = "better" if row["difference_low"] > 0 else "worse"
        by = estimate(row, "difference", sign=True)
        sentences.append(f"{row['agent']} is {kind} than {row['baseline']}: {by}{unit}.")
    if len(ties) == 1:
        by = estimate(ties[0], "difference", sign=True)
        sentences.append(
            f"No significant difference between {ties[0]['agent']} and {ties[0]['baseline']}: {by}{unit}; 95 % interval"
            " includes 0."
        )
    elif ties:
        rivals = joined([row["agent"] for row in ties])
        sentences.append(
            f"No significant difference between {ties[0]['baseline']} and {rivals}: each 95 % interval includes 0."
        )
    return [" ".join(sentences)] if sentences else []


def judgement(row: Row | None) -> str:
    """A paired difference as a cell of a table."""
    if row is None:
        return "no training seed in common"
    if row["difference_low"] is None:
        return "one training seed: no interval"
    if row["difference_low"] <= 0 <= row["difference_high"]:
        return TIE
    return "better" if row["difference_low"] > 0 else "worse"

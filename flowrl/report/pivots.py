"""Tables with a row a target and a column an agent, and the first table of a report."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowrl.report.comparison import Comparison
from flowrl.report.overview import SCORES
from flowrl.report.runs import Row
from flowrl.report.sentences import estimate
from flowrl.report.verdict import judgement
from flowrl.text import DASH, number

JUDGED = " (judged)"


@dataclass(frozen=True)
class Pivot:
    """A table of text, header first, with the row of the judged target."""

    rows: list[list[str]]
    judged: int
    """Its place below the header."""


def unconditioned(comparison: Comparison) -> list[str]:
    """The labels without a target: their episodes are the same at every target."""
    return [
        label
        for label in comparison.labels
        if not any(run.conditioned for run in comparison.runs_of(label).values())
    ]  # fmt: skip


def result_table(comparison: Comparison) -> list[list[str]]:
    """What every agent returns at the judged target, and what its difference to the baseline says."""
    scores = {row["agent"]: row for row in comparison.score_rows if row["target"] == comparison.headline}
    differences = {row["agent"]: row for row in comparison.difference_rows if row["target"] == comparison.headline}
    known = [name for name in SCORES if all(row[name] is not None for row in scores.values())]
    paired = bool(comparison.rivals) and comparison.baseline in comparison.labels
    paired_header = [f"minus {comparison.baseline}", "verdict"] if paired else []
    table = [["agent", "return", *paired_header, *(SCORES[name] for name in known), "seeds"]]
    for label, row in scores.items():
        line = [label, estimate(row, "mean")]
        if paired and label == comparison.baseline:
            line += [DASH, "baseline"]
        elif paired:
            line += [_difference(differences.get(label)), judgement(differences.get(label))]
        table.append([*line, *(number(row[name]) for name in known), str(row["seeds"])])
    return table


def returns_by_target(comparison: Comparison) -> Pivot | None:
    """Mean returns of the agents that take a target; None without any."""
    cells = {(row["target"], row["agent"]): estimate(row, "mean") for row in comparison.score_rows}
    return _pivot(comparison, {label: label for label in comparison.labels}, cells)


def differences_by_target(comparison: Comparison) -> Pivot | None:
    """Paired differences of the agents that take a target to the baseline; None without any."""
    cells = {(row["target"], row["agent"]): _difference(row) for row in comparison.difference_rows}
    heads = {label: f"{label} − {comparison.baseline}" for label in comparison.rivals if comparison.pairs[label]}
    return _pivot(comparison, heads, cells)


def without_target(comparison: Comparison) -> str | None:
    """What the agents return that take no target, in a sentence; None where all take one."""
    rows = {row["agent"]: row for row in comparison.score_rows if row["target"] == comparison.headline}
    values = [f"{label} returns {estimate(rows[label], 'mean')}" for label in unconditioned(comparison)]
    return f"Without a target: {'; '.join(values)}." if values else None


def _pivot(comparison: Comparison, heads: Mapping[str, str], cells: Mapping[tuple[float, str], str]) -> Pivot | None:
    labels = [label for label in heads if label not in unconditioned(comparison)]
    if not labels:
        return None
    table = [["target", *(heads[label] for label in labels)]]
    for target in comparison.targets:
        name = number(target) + (JUDGED if target == comparison.headline else "")
        table.append([name, *(cells[target, label] for label in labels)])
    return Pivot(table, comparison.targets.index(comparison.headline))


def _difference(row: Row | None) -> str:
    return DASH if row is None else estimate(row, "difference", sign=True)

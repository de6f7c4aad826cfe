"""The report for a pull request: tables and the main pictures in Markdown."""

from collections.abc import Mapping, Sequence

from flowrl.report.comparison import JUDGED_AT, Comparison
from flowrl.report.overview import Report
from flowrl.report.protocol import best_over_training_told, calibration_told, protocol
from flowrl.report.style import Picture
from flowrl.report.tables import (
    aggregate_table,
    best_over_training_table,
    calibration_table,
    cost_table,
    dataset_table,
    difference_table,
    improvement_table,
    markdown,
    score_table,
    task_table,
)
from flowrl.report.wording import number


def markdown_page(
    report: Report, overall: Sequence[Picture], pictures: Mapping[str, Sequence[Picture]], folder: str
) -> str:
    """The whole page.

    Args:
        overall: pictures of all runs together.
        pictures: those of each dataset.
        folder: where the pictures' PNG files lie, as a link from the page.
    """
    lines = ["# Comparison", "", report.summary(), ""]
    if report.failures:
        lines += ["Failed runs:", "", *(f"- {failure}" for failure in report.failures), ""]
    if len(report.comparisons) > 1:
        of_what = "return" if report.score is None else "normalised score"
        lines += [
            f"Mean {of_what}, ± standard deviation over training seeds, when asked for the return in the second column:"
            f" {JUDGED_AT}.",
            "",
            markdown(task_table(report)),
            "",
            *_pooled(report, overall, folder),
        ]
    for comparison in report.comparisons:
        lines += _section(comparison, pictures[comparison.dataset], folder, alone=len(report.comparisons) == 1)
    if len(report.comparisons) == 1:
        lines += _pooled(report, overall, folder)
    lines += ["## Protocol", "", *(f"- {sentence}" for sentence in protocol(report)), ""]
    if report.commands:
        lines += ["## Commands", "", "```", *report.commands, "```", ""]
    return "\n".join(lines)


def _pooled(report: Report, pictures: Sequence[Picture], folder: str) -> list[str]:
    if not report.pooled:
        return []
    lines = [f"Scores over {report.pooled_over}:", "", markdown(aggregate_table(report)), ""]
    if report.improvement_rows:
        lines += ["Paired differences and probability of improvement:", "", markdown(improvement_table(report)), ""]
    return [*lines, *_pictures(pictures, folder)]


def _section(comparison: Comparison, pictures: Sequence[Picture], folder: str, *, alone: bool) -> list[str]:
    lines = [f"## {comparison.dataset}", ""]
    if not alone:
        lines += [comparison.summary(), ""]
    if warning := comparison.steering_warning():
        lines += [f"**{warning}**", ""]
    lines += ["Returns in the dataset:", "", markdown(dataset_table(comparison)), ""]
    lines += ["Returns of the agents:", "", markdown(score_table(comparison)), ""]
    if comparison.difference_rows:
        title = "Paired differences (same training seed, same environment seed):"
        lines += [title, "", markdown(difference_table(comparison)), ""]
    lines += [calibration_told(comparison), "", markdown(calibration_table(comparison)), ""]
    lines += _pictures([picture for picture in pictures if not picture.aside], folder)
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        best = (
            f"Best over training when asked for {number(comparison.headline)}, which is not the result."
            f" {best_over_training_told(comparison)}"
        )
        lines += [best, "", markdown(best_over_training_table(comparison)), ""]
    return [*lines, "Cost:", "", markdown(cost_table(comparison)), ""]


def _pictures(pictures: Sequence[Picture], folder: str) -> list[str]:
    return [
        line
        for picture in pictures
        for line in (f"![{picture.title}]({folder}/{picture.name}.png)", "", f"*{picture.caption}*", "")
    ]

"""The contents of a report, in order: which sections it has and what is in each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flowrl.report.comparison import Comparison
from flowrl.report.document import (
    Clip,
    Clips,
    Commands,
    Detail,
    Document,
    Grid,
    Heading,
    Items,
    Paragraph,
    Part,
    Pictures,
    Section,
)
from flowrl.report.matched import JUDGED_AT
from flowrl.report.method import best_over_training_choice, calibration_columns, method
from flowrl.report.overview import Report
from flowrl.report.style import Picture
from flowrl.report.tables import (
    aggregate_table,
    attention_table,
    best_over_training_table,
    calibration_table,
    cost_table,
    dataset_table,
    difference_table,
    improvement_table,
    run_table,
    score_table,
    task_table,
)
from flowrl.text import number


def document(report: Report, overall: Sequence[Picture], pictures: Mapping[str, Sequence[Picture]]) -> Document:
    """The whole report.

    Args:
        overall: pictures of all runs together.
        pictures: those of each dataset.
    """
    alone = len(report.comparisons) == 1
    sections = [] if not report.failures else [Section("Failed runs", [Items(report.failures)])]
    if not alone:
        sections.append(_all_datasets(report, overall))
    for comparison in report.comparisons:
        parts = _of_dataset(comparison, pictures[comparison.dataset])
        if alone:
            parts += _pooled(report, overall)
        else:
            parts.insert(0, Paragraph(comparison.summary()))
        sections.append(Section(comparison.dataset, parts))
    sections.append(Section("Method", [Items(method(report))]))
    if report.commands:
        sections.append(Section("Commands", [Commands(report.commands)]))
    return Document(_title(report), [Paragraph(report.summary(), "summary")], sections)


def _title(report: Report) -> str:
    about = report.comparisons[0].dataset if len(report.comparisons) == 1 else f"{len(report.comparisons)} datasets"
    return f"{', '.join(report.labels)} on {about}"


def _all_datasets(report: Report, pictures: Sequence[Picture]) -> Section:
    what = "return" if report.score is None else "normalised score"
    explanation = (
        f"Mean {what}, ± standard deviation over training seeds, at the target in the second column: {JUDGED_AT}."
    )
    return Section(
        "All datasets", [Paragraph(explanation), Grid(task_table(report)), *_pooled(report, pictures)]
    )  # fmt: skip


def _pooled(report: Report, pictures: Sequence[Picture]) -> list[Part]:
    """Scores of all runs together, where there are some."""
    if not report.pooled:
        return []
    parts: list[Part] = [Heading(f"Scores over {report.pooled_over}"), Grid(aggregate_table(report))]
    if report.improvement_rows:
        parts += [Heading("Paired differences and probability of improvement"), Grid(improvement_table(report))]
    return [*parts, Pictures(pictures)]


def _of_dataset(comparison: Comparison, pictures: Sequence[Picture]) -> list[Part]:
    warning = comparison.steering_warning()
    parts: list[Part] = [
        *([Paragraph(warning, "warning")] if warning else []),
        Heading("Returns in the dataset"),
        Grid(dataset_table(comparison)),
        Heading("Returns of the agents, the last checkpoint of every run"),
        Grid(score_table(comparison)),
    ]
    if comparison.difference_rows:
        parts += [
            Heading("Paired differences (same training seed, same environment seed)"),
            Grid(difference_table(comparison)),
        ]
    if comparison.calibration_rows:
        parts += [
            Heading("Following the target"),
            Paragraph(calibration_columns(comparison)),
            Grid(calibration_table(comparison)),
        ]
    parts.append(Pictures([picture for picture in pictures if not picture.aside]))
    parts += _clips(comparison)
    if aside := [picture for picture in pictures if picture.aside]:
        parts.append(_attention(comparison, aside))
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        parts += [
            Heading(f"Best over training at target {number(comparison.headline)}: not the result"),
            Paragraph(best_over_training_choice(comparison)),
            Grid(best_over_training_table(comparison)),
        ]
    parts += [Heading("Cost"), Grid(cost_table(comparison))]
    return [*parts, Detail("Cost of every run", [Grid(run_table(comparison))])]


def _attention(comparison: Comparison, pictures: Sequence[Picture]) -> Detail:
    explanation = (
        "The token from which the action is read, means over heads and the steps of one episode: exp(entropy) of its"
        " weights, their shares on each kind of token, and their sum (1 for softmax)."
    )
    parts = [Paragraph(explanation), Grid(attention_table(comparison)), Pictures(pictures)]
    return Detail("What the agents attend to", parts)


def _clips(comparison: Comparison) -> list[Part]:
    """A clip of the first studied seed of every label, side by side."""
    clips = []
    for label in comparison.labels:
        if (run := comparison.studied(label)) is None or not run.study:
            continue
        name = run.study["clip"]["file"]
        if not name or not (file := run.path / Path(name).name).is_file():
            continue
        episode = next(e for e in run.study["episodes"] if e["target"] == run.study["best"])
        caption = f"{label}, seed {run.seed}: return {number(episode['return'])}"
        if (steps := run.study["clip"]["steps"]) < episode["length"]:
            caption += f", the first {steps:,} of {episode['length']:,} steps"
        clips.append(Clip(file, f"{caption}; this episode is in no table"))
    if not clips:
        return []
    best = number(comparison.dataset_returns["percentiles"][-1])
    return [Detail(f"Clips at target {best}, the dataset's best return", [Clips(clips)], folded=False)]

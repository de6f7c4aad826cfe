"""The contents of a report, in order: first the result, then what it rests on, then detail."""

from collections.abc import Mapping, Sequence
from datetime import date
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
    Verdict,
)
from flowrl.report.matched import JUDGED_AT
from flowrl.report.method import best_over_training_choice, calibration_columns, method
from flowrl.report.overview import Report
from flowrl.report.pivots import differences_by_target, result_table, returns_by_target, without_target
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
from flowrl.report.verdict import comparison_verdict, origin, verdict
from flowrl.text import number


def document(
    report: Report, overall: Sequence[Picture], pictures: Mapping[str, Sequence[Picture]], written: date
) -> Document:
    """The whole report.

    Args:
        overall: pictures of all runs together.
        pictures: those of each dataset.
        written: the day that the report bears.
    """
    alone = report.comparisons[0] if len(report.comparisons) == 1 else None
    opening: list[Part] = [Paragraph(origin(report, written), "note"), Verdict(verdict(report))]
    opening += _result(alone, pictures[alone.dataset]) if alone else _all_datasets(report, overall)
    opening.append(Detail("The result in sentences", [Paragraph(report.summary())]))
    sections = [Section("Failed runs", [Items(report.failures)])] if report.failures else []
    if report.pooled:
        sections.append(Section(f"Scores over {report.pooled_over}", _pooled(report, overall)))
    for comparison in report.comparisons:
        shown = pictures[comparison.dataset]
        lead: list[Part] = []
        if not alone:
            lead = [Verdict(comparison_verdict(comparison)), *_result(comparison, shown)]
            lead.append(Detail("The result in sentences", [Paragraph(comparison.summary())]))
        sections.append(Section(comparison.dataset, [*lead, *_of_dataset(comparison, shown)]))
    sections.append(Section("Method", [Detail("How these numbers came about", [Items(method(report))])]))
    if report.commands:
        sections.append(Section("Commands", [Detail("What to type for these runs", [Commands(report.commands)])]))
    return Document(_title(report), opening, sections)


def _title(report: Report) -> str:
    about = report.comparisons[0].dataset if len(report.comparisons) == 1 else f"{len(report.comparisons)} datasets"
    return f"{', '.join(report.labels)} on {about}"


def _result(comparison: Comparison, pictures: Sequence[Picture]) -> list[Part]:
    """The table and the picture of one dataset that hold its result."""
    return [Grid(result_table(comparison)), Pictures(_at(pictures, "lead"))]


def _all_datasets(report: Report, overall: Sequence[Picture]) -> list[Part]:
    """The table and the picture of several datasets that hold their result."""
    what = "return" if report.score is None else "normalised score"
    explanation = (
        f"Mean {what}, ± standard deviation over training seeds, at the target in the second column: {JUDGED_AT}."
    )
    return [Grid(task_table(report)), Paragraph(explanation, "note"), Pictures(_at(overall, "lead"))]


def _pooled(report: Report, pictures: Sequence[Picture]) -> list[Part]:
    """Scores of all runs together."""
    parts: list[Part] = [Heading("Interquartile mean"), Grid(aggregate_table(report))]
    if report.improvement_rows:
        parts += [Heading("Paired differences and probability of improvement"), Grid(improvement_table(report))]
    return [*parts, Pictures(_at(pictures, "section"))]


def _of_dataset(comparison: Comparison, pictures: Sequence[Picture]) -> list[Part]:
    warning = comparison.steering_warning()
    parts: list[Part] = [Paragraph(warning, "warning")] if warning else []
    if pivot := returns_by_target(comparison):
        parts += [Heading("Mean returns by target"), Grid(pivot.rows, pivot.judged)]
        parts += [Paragraph(sentence, "note")] if (sentence := without_target(comparison)) else []
    if pivot := differences_by_target(comparison):
        parts += [Heading("Paired differences (same training seed, same environment seed)")]
        parts.append(Grid(pivot.rows, pivot.judged))
    if comparison.calibration_rows:
        parts += [Heading("Following the target"), Grid(calibration_table(comparison))]
        parts.append(Paragraph(calibration_columns(comparison), "note"))
    parts += [Pictures(_at(pictures, "section")), *_clips(comparison)]
    parts += [Heading("Cost"), Grid(cost_table(comparison))]
    if of_cost := _at(pictures, "cost"):
        parts.append(Pictures(of_cost))
    return [*parts, Heading("Details"), *_details(comparison, _at(pictures, "attention"))]


def _details(comparison: Comparison, attention: Sequence[Picture]) -> list[Part]:
    every: list[Part] = [Grid(score_table(comparison))]
    if comparison.difference_rows:
        every += [Heading("Paired differences"), Grid(difference_table(comparison))]
    parts: list[Part] = [
        Detail("Returns in the dataset", [Grid(dataset_table(comparison))]),
        Detail("Every number at every target", every),
    ]
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        best = [Paragraph(best_over_training_choice(comparison)), Grid(best_over_training_table(comparison))]
        title = f"Best over training at target {number(comparison.headline)}: not the result"
        parts.append(Detail(title, best))
    if attention:
        parts.append(_attention(comparison, attention))
    return [*parts, Detail("Cost of every run", [Grid(run_table(comparison))], page_only=True)]


def _attention(comparison: Comparison, pictures: Sequence[Picture]) -> Detail:
    explanation = (
        "The token from which the action is read, means over heads and the steps of one episode: exp(entropy) of its"
        " weights, their shares on each kind of token, and their sum (1 for softmax)."
    )
    parts = [Paragraph(explanation), Grid(attention_table(comparison)), Pictures(pictures)]
    return Detail("What the agents attend to", parts, page_only=True)


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
    return [Clips(f"Clips at target {best}, the dataset's best return", clips)]


def _at(pictures: Sequence[Picture], place: str) -> list[Picture]:
    return [picture for picture in pictures if picture.place == place]

"""The questions of someone who is new to a dataset, and their answers."""

from dataclasses import dataclass
from typing import Literal

from flowrl.inspection.alignment import Alignment
from flowrl.inspection.result import Inspection
from flowrl.inspection.statistics import Statistics
from flowrl.text import number, share

__all__ = ["Answer", "Tone", "answers"]

Tone = Literal["good", "mild", "bad", "plain"]
DESCRIPTION = 200  # characters of a description that are shown
PLACES = 5  # of numbers that are not finite


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a sentence, and the reasons."""

    question: str
    tone: Tone
    sentence: str
    detail: list[str]


def answers(inspection: Inspection) -> list[Answer]:
    """What it is, what training would refuse, whether it is sound, can be steered by returns, and needs stitching."""
    result = [_identity(inspection), _refusal(inspection)]
    if inspection.statistics is not None:
        result.append(_soundness(inspection, inspection.statistics))
    if (steering := inspection.steering) is not None:
        tone: Tone = "good" if steering.verdict == "yes" else "mild"
        result.append(Answer("Can returns steer it?", tone, steering.sentence, list(steering.detail)))
    if (stitching := inspection.stitching) is not None:
        tone = "good" if stitching.verdict == "no" else "mild"
        result.append(Answer("Does its best need stitching?", tone, stitching.sentence, list(stitching.detail)))
    return result


def _identity(inspection: Inspection) -> Answer:
    about, statistics = inspection.metadata, inspection.statistics
    where = about.get("environment", "an environment that the dataset does not name")
    if statistics is None:
        sentence, detail = f"Recorded in {where}; the episodes cannot be read.", []
    else:
        sentence = f"{statistics.episodes:,} episodes with {statistics.steps:,} steps, recorded in {where}."
        detail = _shape_lines(statistics)
    if description := about.get("description"):
        short = description if len(description) <= DESCRIPTION else f"{description[:DESCRIPTION].rsplit(' ', 1)[0]} …"
        detail.append(f"Its description: {short}")
    return Answer("What is it?", "plain", sentence, detail)


def _shape_lines(statistics: Statistics) -> list[str]:
    discrete = bool(statistics.actions) and statistics.actions[0].one_hot
    action = f"one of {len(statistics.actions):,} choices" if discrete else f"{len(statistics.actions):,} number(s)"
    lines = [f"An observation is {len(statistics.observations):,} number(s); an action is {action}."]
    if statistics.returns.count:
        p = statistics.returns.percentiles
        by_limit = statistics.truncated - statistics.both_flags
        lines.append(
            f"Episodes return {number(p[0])} to {number(p[100])}, half of them {number(p[50])} or less;"
            f" {share(statistics.terminated / statistics.episodes)} end by the task,"
            f" {share(by_limit / statistics.episodes)} by a time limit alone."
        )
    return lines


def _refusal(inspection: Inspection) -> Answer:
    question = "What would training refuse?"
    if not inspection.refused:
        return Answer(question, "good", "Nothing: the dataset loads as it is.", [*inspection.notes])
    first, *others = inspection.refused
    return Answer(question, "bad", f"REFUSED as a whole: {first}.".replace("..", "."), [*others, *inspection.notes])


def _soundness(inspection: Inspection, statistics: Statistics) -> Answer:
    alignment = inspection.alignment
    # The alignment's own sentence comes first: its warning would repeat it.
    warnings = [one for one in inspection.warnings if alignment is None or alignment.verdict not in one]
    detail = [] if alignment is None else [alignment.sentence, *_seeded_lines(alignment)]
    detail += [
        f"{statistics.non_finite:,} numbers are NaN or infinite, {statistics.repeated:,} episodes repeat another.",
        *(
            f"Not finite: {place.array} of episode {place.episode}, step {place.step}"
            f"{'' if place.column is None else ', ' + place.column}: {place.value}"
            for place in statistics.non_finite_places[:PLACES]
        ),
        *(f"Warning: {warning}" for warning in warnings),
    ]
    tone, sentence = _soundness_verdict(statistics, alignment, len(warnings))
    return Answer("Is it sound?", tone, sentence, detail)


def _soundness_verdict(statistics: Statistics, alignment: Alignment | None, warnings: int) -> tuple[Tone, str]:
    count = f"{warnings} warning{'' if warnings == 1 else 's'}"
    if statistics.non_finite or (alignment is not None and _is_wrong(alignment)):
        return "bad", "No: it has faults."
    if alignment is None:
        return "mild", f"It was not checked against a simulator; {count}."
    if not alignment.aligned:
        return "mild", f"It is open whether the actions lead to the stored observations and rewards; {count}."
    if warnings:
        return "mild", f"It has no fault that we check for; {count}."
    return "good", "It has no fault that we check for."


def _is_wrong(alignment: Alignment) -> bool:
    return "misaligned" in alignment.verdict or alignment.verdict == "faulty rewards"


def _seeded_lines(alignment: Alignment) -> list[str]:
    """What a replay from seeds adds to a verdict on single transitions."""
    seeded = alignment.seeded
    if seeded is None or not alignment.checked:
        return []
    until = "never leave the data" if seeded.diverged is None else f"leave the data at step {seeded.diverged:,}"
    return [
        f"{seeded.episodes:,} episode(s) replayed from their recorded reset seeds, {seeded.steps:,} steps, {until};"
        f" the largest difference is {number(seeded.maximum, significant=2)}."
    ]

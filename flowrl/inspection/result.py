"""All that was found out about one dataset, its four answers, and both as a screen of text and as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import minari

from flowrl.inspection.alignment import Alignment
from flowrl.inspection.figures import Figures
from flowrl.inspection.steering import Steering
from flowrl.inspection.tables import Table, overview_table, score_table
from flowrl.text import figure, share, small


@dataclass(frozen=True)
class Inspection:
    """All that was found out about one dataset; what could not be is None."""

    id: str
    fingerprint: str | None
    metadata: dict[str, str]
    references: dict[str, tuple[float, float] | None]
    """Returns of a random and of an expert policy, by who says so."""
    refused: list[str]
    """What training would refuse."""
    warnings: list[str]
    figures: Figures | None
    alignment: Alignment | None
    steering: Steering | None


def metadata(dataset: minari.MinariDataset) -> dict[str, str]:
    """What a dataset says of itself, as text; what it does not say is left out."""
    stored = dataset.storage.metadata
    env = dataset.env_spec
    wanted = {
        "environment": None if env is None else env.id,
        "horizon": None if env is None else env.max_episode_steps,
        "environment arguments": None if env is None or not env.kwargs else env.kwargs,
        "algorithm": stored.get("algorithm_name"),
        "description": stored.get("description"),
        "requirements": stored.get("requirements"),
        "author": stored.get("author"),
        "author's address": stored.get("author_email"),
        "code": stored.get("code_permalink"),
        "minari": stored.get("minari_version"),
        "observation space": dataset.observation_space,
        "action space": dataset.action_space,
        "folder": dataset.storage.data_path,
        "size": None if stored.get("dataset_size") is None else f"{stored['dataset_size']} MB",
    }
    return {name: _text(value) for name, value in wanted.items() if value not in (None, "", [], set())}


def _text(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, list | tuple | set | frozenset) else str(value)


Tone = Literal["good", "mild", "bad", "plain"]


@dataclass(frozen=True)
class Answer:
    """To one of the four questions that a newcomer has, in a sentence, and what stands behind it."""

    question: str
    tone: Tone
    sentence: str
    detail: list[str]


def answers(inspection: Inspection) -> list[Answer]:
    """What it is, what training would refuse, whether it is sound, and whether returns can steer."""
    found = [_identity(inspection), _refusal(inspection)]
    if inspection.figures is not None:
        found.append(_soundness(inspection, inspection.figures))
    if (steering := inspection.steering) is not None:
        tone: Tone = "good" if steering.verdict == "yes" else "mild"
        found.append(Answer("Can returns steer it?", tone, steering.sentence, list(steering.detail)))
    return found


def _identity(inspection: Inspection) -> Answer:
    about, found = inspection.metadata, inspection.figures
    where = about.get("environment", "an environment that the dataset does not name")
    detail = []
    if found is None:
        sentence = f"Recorded in {where}; the episodes cannot be read."
    else:
        sentence = f"{found.episodes:,} episodes with {found.steps:,} steps, recorded in {where}."
        discrete = bool(found.actions) and found.actions[0].one_hot
        detail.append(
            f"An observation is {len(found.observations):,} number(s); an action is "
            + (f"one of {len(found.actions):,} choices." if discrete else f"{len(found.actions):,} number(s).")
        )
        if found.returns.count:
            p = found.returns.percentiles
            detail.append(
                f"Episodes return {figure(p[0])} to {figure(p[100])}, half of them {figure(p[50])} or less;"
                f" {share(found.terminated / found.episodes)} end by the task,"
                f" {share((found.truncated - found.both_flags) / found.episodes)} by a limit alone."
            )
    if description := about.get("description"):
        short = description if len(description) <= 200 else f"{description[:200].rsplit(' ', 1)[0]} …"
        detail.append(f"In its maker's words: {short}")
    return Answer("What is it?", "plain", sentence, detail)


def _refusal(inspection: Inspection) -> Answer:
    question = "What would training refuse?"
    if not inspection.refused:
        return Answer(question, "good", "Nothing: the dataset loads as it is.", [])
    first, *others = inspection.refused
    return Answer(question, "bad", f"REFUSED as a whole: {first}.".replace("..", "."), others)


def _soundness(inspection: Inspection, found: Figures) -> Answer:
    alignment = inspection.alignment
    cautions = [told for told in inspection.warnings if alignment is None or alignment.verdict not in told]
    wrong = found.non_finite > 0 or (alignment is not None and "misaligned" in alignment.verdict)
    checked = alignment is not None and alignment.verdict.startswith("aligned")
    detail = [] if alignment is None else [alignment.sentence, *_seeded_lines(alignment)]
    detail += [
        f"{found.non_finite:,} numbers are NaN or infinite, {found.repeated:,} episodes repeat another.",
        *(
            f"Not finite: {place.array} of episode {place.episode}, step {place.step}"
            f"{'' if place.column is None else ', ' + place.column}: {place.value}"
            for place in found.non_finite_places[:5]
        ),
        *(f"Warning: {told}" for told in cautions),
    ]
    few = f"{len(cautions)} warning{'' if len(cautions) == 1 else 's'}"
    if wrong:
        return Answer("Is it sound?", "bad", "No: there are faults.", detail)
    if alignment is None:
        return Answer("Is it sound?", "mild", f"The simulator was not asked; {few}.", detail)
    if not checked:
        return Answer("Is it sound?", "mild", f"Whether actions lead to what is stored is in doubt; {few}.", detail)
    if cautions:
        return Answer("Is it sound?", "mild", f"No fault was found; {few}.", detail)
    return Answer("Is it sound?", "good", "No fault was found.", detail)


def screen(inspection: Inspection) -> str:
    """The result in plain text."""
    found = inspection.figures
    lines = [inspection.id, ""]
    if found is not None:
        lines += [_console(overview_table(found)), "", _console(score_table(found, inspection.references)), ""]
    for answer in answers(inspection):
        lines.append(f"{answer.question} {answer.sentence}")
        lines += [f"  - {told}" for told in answer.detail]
    return "\n".join(lines)


def _seeded_lines(alignment: Alignment) -> list[str]:
    """Of a replay from seeds that the verdict's own sentence does not tell of."""
    seeded = alignment.seeded
    if seeded is None or not alignment.checked:
        return []
    until = "never leave the data" if seeded.diverged is None else f"leave the data at step {seeded.diverged:,}"
    return [
        f"{seeded.episodes:,} episode(s) played again from their recorded reset seeds, {seeded.steps:,} steps, {until};"
        f" largest difference {small(seeded.maximum)}."
    ]


def _console(table: Table) -> str:
    """In columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def summary(inspection: Inspection) -> str:
    """Every figure as strict JSON; what is not finite is null."""
    return json.dumps(_plain(asdict(inspection)), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

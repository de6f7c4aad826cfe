"""An inspection in plain text, as a terminal shows it."""

from flowrl import text
from flowrl.inspection.answers import answers
from flowrl.inspection.result import Inspection
from flowrl.inspection.tables import overview_table, score_table

__all__ = ["screen"]


def screen(inspection: Inspection) -> str:
    """The tables of returns and the answers."""
    statistics = inspection.statistics
    lines = [text.one_line(inspection.id), ""]
    if statistics is not None:
        tables = overview_table(statistics), score_table(statistics, inspection.references)
        lines += [line for rows in tables for line in (text.table(rows), "")]
    for answer in answers(inspection):
        lines.append(text.one_line(f"{answer.question} {answer.sentence}"))
        lines += [text.one_line(f"  - {line}") for line in answer.detail]
    return "\n".join(lines)

"""An inspection in plain text, as a terminal shows it."""

from flowrl.inspection.answers import answers
from flowrl.inspection.result import Inspection
from flowrl.inspection.tables import Table, overview_table, score_table

__all__ = ["screen"]


def screen(inspection: Inspection) -> str:
    """The tables of returns and the four answers."""
    statistics = inspection.statistics
    lines = [inspection.id, ""]
    if statistics is not None:
        tables = overview_table(statistics), score_table(statistics, inspection.references)
        lines += [line for table in tables for line in (_aligned(table), "")]
    for answer in answers(inspection):
        lines.append(f"{answer.question} {answer.sentence}")
        lines += [f"  - {line}" for line in answer.detail]
    return "\n".join(lines)


def _aligned(table: Table) -> str:
    """In columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )

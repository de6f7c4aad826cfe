"""Rows of a report as CSV."""

import csv
import io
from collections.abc import Sequence

from flowrl.report.runs import Row


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Rows with the same columns, header first; what is missing is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()

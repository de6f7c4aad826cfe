"""From run folders to a report: what the runs achieved, how sure that is, and how they compare.

`Run` is one finished run, `Comparison` all runs on one dataset, `Report` all datasets; `write_report` writes them as
one HTML page, Markdown, JSON, CSV and TensorBoard's HParams.
"""

from flowrl.report.comparison import Comparison, baseline_of
from flowrl.report.files import write_report
from flowrl.report.overview import Report
from flowrl.report.runs import Run, label_of
from flowrl.report.tables import console, overview_tables, tables_of
from flowrl.report.wording import env_told

__all__ = [
    "Comparison",
    "Report",
    "Run",
    "baseline_of",
    "console",
    "env_told",
    "label_of",
    "overview_tables",
    "tables_of",
    "write_report",
]

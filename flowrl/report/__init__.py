"""From run folders to a report: what the agents return, how sure that is, and how they compare.

`Run` is one finished run, `Comparison` all runs on one dataset, `Report` all datasets; `write_report` writes them as
one HTML page, Markdown, JSON, CSV and TensorBoard's HParams.
"""

from flowrl.report.comparison import Comparison
from flowrl.report.files import write_report
from flowrl.report.matched import baseline_of
from flowrl.report.overview import Report
from flowrl.report.runs import Run, label_of
from flowrl.report.sentences import environment_name
from flowrl.report.tables import overview_tables, tables_of

__all__ = [
    "Comparison",
    "Report",
    "Run",
    "baseline_of",
    "environment_name",
    "label_of",
    "overview_tables",
    "tables_of",
    "write_report",
]

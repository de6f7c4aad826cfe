"""Reports on the console."""

from flowrl.report import Comparison, Report, overview_tables, tables_of
from flowrl.text import one_line, printable, table
from flowrl.training.tracking import warn


def print_comparison(comparison: Comparison) -> None:
    """Print the tables of the runs on one dataset, and warn where its returns are not expected to steer an agent."""
    for title, lines in tables_of(comparison):
        print(f"\n{one_line(title)}\n{table(lines)}")
    steering_warning(comparison)


def steering_warning(comparison: Comparison) -> None:
    """Warn where the returns of a dataset are not expected to steer an agent."""
    if warning := comparison.steering_warning():
        warn(f"{comparison.dataset}: {warning}")


def print_report(report: Report) -> None:
    """Print what a report says over all datasets, and its summary."""
    for title, lines in overview_tables(report):
        print(f"\n{one_line(title)}\n{table(lines)}")
    print(f"\n{printable(report.summary())}")

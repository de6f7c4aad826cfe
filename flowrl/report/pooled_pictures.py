"""The pictures of all runs together: intervals and profiles of scores."""

from flowrl.report.overview import SCORES, Report
from flowrl.report.pictures import errors, with_intervals
from flowrl.report.sentences import estimate
from flowrl.report.style import Picture, legend, panel, styles
from flowrl.text import counted, number


def report_pictures(report: Report) -> list[Picture]:
    """What can be drawn of all runs together; of several datasets the scores lead the report."""
    if not report.pooled:
        return []
    return [_intervals(report), _profiles(report)]


def _intervals(report: Report) -> Picture:
    assert report.score is not None
    rows = report.aggregate_rows
    figure, axes = panel(f"interquartile mean of the {SCORES[report.score]}", "", height=0.9 + 0.45 * len(rows))
    labels = [row["agent"] for row in rows]
    for place, (row, style) in enumerate(zip(rows, styles(labels).values(), strict=True)):
        line = style | {"linestyle": "-", "markersize": 7}
        axes.errorbar([row["iqm"]], [place], xerr=errors([row], "iqm"), capsize=4, **line)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    values = "; ".join(f"{row['agent']} scores {estimate(row, 'iqm')}" for row in rows)
    return Picture(
        "scores",
        f"Scores over {report.pooled_over}",
        f"Interquartile mean over {report.pooled_over}{with_intervals(rows, 'iqm_low')};"
        f" {counted(rows[0]['tasks'], 'dataset')}, {counted(rows[0]['runs'], 'run')} of each agent.",
        figure,
        rows,
        f"{values}.",
        "lead" if len(report.comparisons) > 1 else "section",
    )


def _profiles(report: Report) -> Picture:
    assert report.score is not None
    figure, axes = panel(f"{SCORES[report.score]} τ", "share of runs above τ")
    reading = []
    for label, style in styles(report.labels).items():
        rows = [row for row in report.profile_rows if row["agent"] == label]
        across = [row["threshold"] for row in rows]
        axes.plot(across, [row["share"] for row in rows], markevery=12, label=label, **style)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        if None not in low:
            axes.fill_between(across, low, high, color=style["color"], alpha=0.12, lw=0)
        half = max((row["threshold"] for row in rows if row["share"] >= 0.5), default=None)
        if half is not None:
            reading.append(f"half of {label}'s runs score {number(half)} or more")
    axes.set_ylim(-0.02, 1.02)
    legend(figure)
    return Picture(
        "performance-profiles",
        "Performance profiles",
        f"The share of runs (over {report.pooled_over}) whose score is above"
        f" τ{with_intervals(report.profile_rows, 'low', 'pointwise ')}: the higher the better.",
        figure,
        report.profile_rows,
        "At least " + "; at least ".join(reading) + ".",
    )

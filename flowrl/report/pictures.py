"""The pictures of a report's results."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from flowrl.evaluation.statistics import Floats
from flowrl.report.comparison import Comparison
from flowrl.report.maps import map_pictures
from flowrl.report.overview import SCORES, Report
from flowrl.report.runs import Row
from flowrl.report.sentences import unit_name
from flowrl.report.style import Picture, Style, legend, panel, styles
from flowrl.text import counted, number, span


def comparison_pictures(comparison: Comparison, slug: str, labels: Sequence[str]) -> list[Picture]:
    """What can be drawn of one dataset.

    Args:
        slug: the dataset's name as part of a file's.
        labels: of the whole report: an agent looks the same on every dataset.
    """
    of_label = {label: style for label, style in styles(labels).items() if label in comparison.labels}
    drawn = [_return_by_target(comparison, slug, of_label)]
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        drawn.append(_learning_curves(comparison, slug, of_label, "step", "training step"))
        drawn.append(_learning_curves(comparison, slug, of_label, "minutes", "minutes of training"))
    if sensitivity_rows(comparison):
        drawn.append(_sensitivity(comparison, slug, of_label))
    return [*drawn, *map_pictures(comparison, slug, of_label)]


def report_pictures(report: Report) -> list[Picture]:
    """What can be drawn of all runs together: intervals and profiles of scores."""
    if not report.pooled:
        return []
    return [_intervals(report), _profiles(report)]


def _return_by_target(comparison: Comparison, slug: str, of_label: Mapping[str, Style]) -> Picture:
    figure, axes = panel("target return", "return")
    low, high = min(comparison.targets), max(comparison.targets)
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, label="return = target")
    _draw_dataset_means(axes, comparison.dataset_returns)
    best = comparison.dataset_returns["percentiles"][-1]
    if high > best:
        axes.axvspan(best, high, color="0.94", zorder=0, label="beyond the data")
    for label, style in of_label.items():
        rows = [row for row in comparison.score_rows if row["agent"] == label]
        means = np.array([row["mean"] for row in rows])
        axes.errorbar(comparison.targets, means, _errors(rows, "mean"), capsize=3, label=label, **style)
    legend(figure)
    names = ("dataset", "target", "agent", "mean", "mean_low", "mean_high")
    return Picture(
        f"return-by-target-{slug}",
        "Return by target",
        f"Mean return against the target return{_with_intervals(comparison.score_rows, 'mean_low')};"
        f" {_amounts(comparison)}.",
        figure,
        [{name: row[name] for name in names} for row in comparison.score_rows],
    )


def _learning_curves(comparison: Comparison, slug: str, of_label: Mapping[str, Style], x: str, x_label: str) -> Picture:
    figure, axes = panel(x_label, f"return at target {number(comparison.headline)}")
    _draw_dataset_means(axes, comparison.dataset_returns)
    for label, style in of_label.items():
        curves = [
            [row for row in comparison.curve_rows if row["agent"] == label and row["seed"] == seed]
            for seed in comparison.runs_of(label)
        ]
        thin = style | {"marker": "", "linewidth": 0.7, "alpha": 0.5}
        for curve in curves if len(curves) > 1 else []:
            axes.plot([row[x] for row in curve], [row["mean"] for row in curve], **thin)
        steps = sorted(set.intersection(*({row["step"] for row in curve} for curve in curves)))
        rows = [[row for row in curve if row["step"] in steps] for curve in curves]
        across = np.mean([[row[x] for row in curve] for curve in rows], axis=0)
        axes.plot(across, np.mean([[row["mean"] for row in curve] for curve in rows], axis=0), label=label, **style)
    axes.set_xlim(left=0)
    legend(figure)
    config = comparison.runs[0].config
    return Picture(
        f"learning-curves-{'wall-time-' if x == 'minutes' else ''}{slug}",
        "Learning curves" + (" against training time" if x == "minutes" else ""),
        f"Mean over seeds, thin lines single seeds; {config.get('evaluate_episodes')} episodes a point,"
        f" {comparison.evaluation['episodes']} at the last, which is the result.",
        figure,
        comparison.curve_rows,
    )


def sensitivity_rows(comparison: Comparison) -> list[Row]:
    """Per label and target, how far actions are from those for the best return, in the label's first studied seed."""
    rows = []
    for label in comparison.labels:
        run = comparison.studied(label)
        sensitivity = run.study["sensitivity"] if run and run.study else {"targets": [], "change": []}
        for target, change in zip(sensitivity["targets"], sensitivity["change"], strict=True):
            if run and change is not None:
                names = {"dataset": comparison.dataset, "agent": label, "seed": run.seed}
                rows.append({**names, "target": target, "change": change, "unit": sensitivity["unit"]})
    return rows


def _sensitivity(comparison: Comparison, slug: str, of_label: Mapping[str, Style]) -> Picture:
    rows = sensitivity_rows(comparison)
    figure, axes = panel("target return", "change of action")
    for label, style in of_label.items():
        mine = sorted((row for row in rows if row["agent"] == label), key=lambda row: row["target"])
        if mine:
            axes.plot([row["target"] for row in mine], [row["change"] for row in mine], label=label, **style)
    axes.set_ylim(bottom=0)
    legend(figure)
    return Picture(
        f"sensitivity-{slug}",
        "How much actions depend on the target",
        "Change of the action, in the same situations, between this target and the dataset's best return,"
        f" {unit_name(rows[0]['unit'])}; each agent's first seed.",
        figure,
        rows,
    )


def _intervals(report: Report) -> Picture:
    assert report.score is not None
    figure, axes = panel(f"interquartile mean of the {SCORES[report.score]}", "")
    labels = [row["agent"] for row in report.aggregate_rows]
    for place, (row, style) in enumerate(zip(report.aggregate_rows, styles(labels).values(), strict=True)):
        axes.errorbar([row["iqm"]], [place], xerr=_errors([row], "iqm"), capsize=4, **style)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    return Picture(
        "scores",
        f"Scores over {report.pooled_over}",
        f"Interquartile mean over {report.pooled_over}{_with_intervals(report.aggregate_rows, 'iqm_low')};"
        f" {counted(report.aggregate_rows[0]['tasks'], 'dataset')},"
        f" {counted(report.aggregate_rows[0]['runs'], 'run')} of each agent.",
        figure,
        report.aggregate_rows,
    )


def _profiles(report: Report) -> Picture:
    assert report.score is not None
    figure, axes = panel(f"{SCORES[report.score]} τ", "share of runs above τ")
    for label, style in styles(report.labels).items():
        rows = [row for row in report.profile_rows if row["agent"] == label]
        across = [row["threshold"] for row in rows]
        axes.plot(across, [row["share"] for row in rows], markevery=12, label=label, **style)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        if None not in low:
            axes.fill_between(across, low, high, color=style["color"], alpha=0.12, lw=0)
    axes.set_ylim(-0.02, 1.02)
    legend(figure)
    return Picture(
        "performance-profiles",
        "Performance profiles",
        f"The share of runs (over {report.pooled_over}) whose score is above"
        f" τ{_with_intervals(report.profile_rows, 'low', 'pointwise ')}: the higher the better.",
        figure,
        report.profile_rows,
    )


def _errors(rows: Sequence[Row], name: str) -> Floats:
    """(2, rows) distances of the ends of intervals; NaN, which is not drawn, where there is none."""
    values, low, high = (np.array([row[name + end] for row in rows], np.float64) for end in ("", "_low", "_high"))
    return np.abs([values - low, high - values])


def _with_intervals(rows: Sequence[Row], low: str, kind: str = "") -> str:
    known = any(row[low] is not None for row in rows)
    return f", with {kind}95 % intervals" if known else ", without intervals (one seed)"


def _draw_dataset_means(axes: Axes, returns: Row) -> None:
    for name, label, dash in (("mean", "episodes", (0, (1, 2))), ("mean_by_step", "steps", (0, (4, 2, 1, 2)))):
        axes.axhline(returns[name], color="0.45", linewidth=1, linestyle=dash, label=f"mean of the data's {label}")


def _amounts(comparison: Comparison) -> str:
    steps = span([run.config["training"]["steps"] for run in comparison.runs])
    seeds = span([len(comparison.runs_of(label)) for label in comparison.labels])
    return f"{steps} steps, {seeds} training seed(s), {comparison.evaluation['episodes']} episodes a target"

"""The pictures of the results on one dataset."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from flowrl.evaluation.statistics import Floats
from flowrl.report.comparison import Comparison
from flowrl.report.maps import map_pictures
from flowrl.report.pivots import unconditioned
from flowrl.report.runs import Row
from flowrl.report.sentences import estimate, unit_name
from flowrl.report.style import BEYOND, GUIDE, LEVEL, Picture, Style, legend, panel, styles
from flowrl.text import number, span


def comparison_pictures(comparison: Comparison, slug: str, labels: Sequence[str]) -> list[Picture]:
    """What can be drawn of one dataset.

    Args:
        slug: the dataset's name as part of a file's.
        labels: of the whole report: an agent looks the same on every dataset.
    """
    of_label = {label: style for label, style in styles(labels).items() if label in comparison.labels}
    drawn = [_result(comparison, slug, of_label), _return_by_target(comparison, slug, of_label)]
    if len({row["step"] for row in comparison.curve_rows}) > 1:
        drawn.append(_learning_curves(comparison, slug, of_label, "step", "training step"))
        drawn.append(_learning_curves(comparison, slug, of_label, "minutes", "minutes of training"))
    if sensitivity_rows(comparison):
        drawn.append(_sensitivity(comparison, slug, of_label))
    return [*drawn, *map_pictures(comparison, slug, of_label)]


def _result(comparison: Comparison, slug: str, of_label: Mapping[str, Style]) -> Picture:
    target = comparison.headline
    rows = {row["agent"]: row for row in comparison.score_rows if row["target"] == target}
    figure, axes = panel(f"return at target {number(target)}", "", height=1.2 + 0.45 * len(rows))
    data, best = comparison.dataset_returns, comparison.dataset_returns["percentiles"][-1]
    axes.axvline(data["mean"], color=LEVEL, linewidth=1, linestyle=(0, (1, 2)), label="mean of the data's episodes")
    axes.axvline(best, color=LEVEL, linewidth=1, linestyle="-", label="best of the data")
    for place, (label, style) in enumerate(of_label.items()):
        seeds = comparison.returns(label, target).mean(1)
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), ".", color=style["color"], markersize=4, alpha=0.5)
        line = style | {"linestyle": "-", "markersize": 7}
        axes.errorbar([rows[label]["mean"]], [place], xerr=errors([rows[label]], "mean"), capsize=4, **line)
    axes.set_yticks(range(len(of_label)), list(of_label))
    axes.set_ylim(len(of_label) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=6)
    legend(figure)
    several = " Small points are single seeds." if any(row["seeds"] > 1 for row in rows.values()) else ""
    values = "; ".join(f"{label} returns {estimate(rows[label], 'mean')}" for label in of_label)
    return Picture(
        f"result-{slug}",
        f"Return at target {number(target)}",
        f"Mean return{with_intervals(list(rows.values()), 'mean_low')}; {_amounts(comparison)}.{several}",
        figure,
        list(rows.values()),
        f"{values}. The data's mean is {number(data['mean'])}, their best {number(best)}.",
        "lead",
    )


def _return_by_target(comparison: Comparison, slug: str, of_label: Mapping[str, Style]) -> Picture:
    figure, axes = panel("target return", "return")
    low, high = min(comparison.targets), max(comparison.targets)
    axes.plot([low, high], [low, high], color=GUIDE, linewidth=1, label="return = target")
    _draw_dataset_means(axes, comparison.dataset_returns)
    best = comparison.dataset_returns["percentiles"][-1]
    if high > best:
        axes.axvspan(best, high, color=BEYOND, zorder=0, label="beyond the data")
    drawn, reading, once = [], [], unconditioned(comparison)
    for label, style in of_label.items():
        rows = [row for row in comparison.score_rows if row["agent"] == label]
        if label in once:  # one value, drawn as a level
            (row,) = (row for row in rows if row["target"] == comparison.headline)
            drawn.append(row | {"target": None})
            reading.append(f"{label}, which takes no target, returns {number(row['mean'])}")
            level: Style = style | {"marker": ""}
            axes.plot([low, high], [row["mean"]] * 2, label=f"{label} (no target)", **level)
            continue
        drawn += rows
        means = np.array([row["mean"] for row in rows])
        axes.errorbar(comparison.targets, means, errors(rows, "mean"), capsize=3, label=label, **style)
        reading.append(f"{label} returns {number(means[0])} at target {number(low)}")
        if high > low:
            reading[-1] += f" and {number(means[-1])} at target {number(high)}"
    legend(figure)
    names = ("dataset", "target", "agent", "mean", "mean_low", "mean_high")
    return Picture(
        f"return-by-target-{slug}",
        "Return by target",
        f"Mean return against the target return{with_intervals(comparison.score_rows, 'mean_low')};"
        f" {_amounts(comparison)}.",
        figure,
        [{name: row[name] for name in names} for row in drawn],
        f"{'; '.join(reading)}.",
    )


def _learning_curves(comparison: Comparison, slug: str, of_label: Mapping[str, Style], x: str, x_label: str) -> Picture:
    figure, axes = panel(x_label, f"return at target {number(comparison.headline)}")
    _draw_dataset_means(axes, comparison.dataset_returns)
    reading = []
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
        means = np.mean([[row["mean"] for row in curve] for curve in rows], axis=0)
        axes.plot(across, means, label=label, **style)
        ends = [f"{number(means[i])} after {_amount(across[i], x)}" for i in (0, -1)]
        reading.append(f"{label} returns {' and '.join(dict.fromkeys(ends))}")
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
        f"{'; '.join(reading)}.",
        "cost" if x == "minutes" else "section",
    )


def _amount(value: float, x: str) -> str:
    return f"{number(value)} minutes" if x == "minutes" else f"{value:,.0f} steps"


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
    reading = []
    for label, style in of_label.items():
        mine = sorted((row for row in rows if row["agent"] == label), key=lambda row: row["target"])
        if mine:
            axes.plot([row["target"] for row in mine], [row["change"] for row in mine], label=label, **style)
            most = max(mine, key=lambda row: row["change"])
            reading.append(
                f"{label}'s actions change by {number(most['change'])} at most, at target {number(most['target'])}"
            )
    axes.set_ylim(bottom=0)
    legend(figure)
    return Picture(
        f"sensitivity-{slug}",
        "How much actions depend on the target",
        "Change of the action, in the same situations, between this target and the dataset's best return,"
        f" {unit_name(rows[0]['unit'])}; each agent's first seed.",
        figure,
        rows,
        f"{'; '.join(reading)}.",
    )


def errors(rows: Sequence[Row], name: str) -> Floats:
    """(2, rows) distances of the ends of intervals; NaN, which is not drawn, where there is none."""
    values, low, high = (np.array([row[name + end] for row in rows], np.float64) for end in ("", "_low", "_high"))
    return np.abs([values - low, high - values])


def with_intervals(rows: Sequence[Row], low: str, kind: str = "") -> str:
    """What a caption says of intervals."""
    known = any(row[low] is not None for row in rows)
    return f", with {kind}95 % intervals" if known else ", without intervals (one seed)"


def _draw_dataset_means(axes: Axes, returns: Row) -> None:
    for name, label, dash in (("mean", "episodes", (0, (1, 2))), ("mean_by_step", "steps", (0, (4, 2, 1, 2)))):
        axes.axhline(returns[name], color=LEVEL, linewidth=1, linestyle=dash, label=f"mean of the data's {label}")


def _amounts(comparison: Comparison) -> str:
    steps = span([run.config["training"]["steps"] for run in comparison.runs])
    seeds = [len(comparison.runs_of(label)) for label in comparison.labels]
    trained = f"{span(seeds)} training {'seed' if max(seeds) == 1 else 'seeds'}"
    return f"{steps} steps, {trained}, {comparison.evaluation['episodes']} episodes a target"

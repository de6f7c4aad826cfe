"""The pictures of the pages: the values that each shows, and one way of drawing them."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rows import EXPERT, NINE, REPLAY, TARGETS, Sample, generator, mean, name, returns
from tables import AGENTS, LENGTHS, corridor_runs

from flowrl.evaluation import statistics
from flowrl.evaluation.statistics import Estimate

Series = list[tuple[float, Estimate]]  # place on the x axis, value
STYLES = ("#0b3d91", "o"), ("#d9541e", "s"), ("#2f8f4e", "^"), ("#6b4c9a", "D"), ("#8c6d1f", "v"), ("#3f3f3f", "P")


class Picture(NamedTuple):
    """Panels side by side, each of a title and series by their labels."""

    panels: dict[str, dict[str, Series]]
    x: str
    y: str
    size: tuple[float, float]  # inches
    columns: int = 1
    diagonal: bool = False
    ticks: Sequence[str] = ()  # names of the places 0, 1, ... on the x axis: then points stand side by side, unjoined

    def digest(self) -> str:
        """Of the values: how they are drawn may differ between versions of matplotlib."""
        values = [
            (title, label, [[f"{number:.3g}" for number in (x, *estimate)] for x, estimate in series])
            for title, panel in self.panels.items()
            for label, series in panel.items()
        ]
        return hashlib.sha256(repr((values, self[1:])).encode()).hexdigest()[:16]

    def svg(self, salt: str) -> str:
        """The drawing; the same values give the same text, which ends with their digest."""
        fonts = ["DejaVu Sans", "Verdana", "Arial"]
        with mpl.rc_context({"font.sans-serif": fonts, "svg.fonttype": "none", "svg.hashsalt": salt}):
            buffer = io.StringIO()
            self._figure().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        drawing = re.sub(r"(\d\.\d)\d+(?=[^<>]*>)", r"\1", buffer.getvalue())  # places to a tenth of a point
        lines = [line.strip() for line in drawing.splitlines()]
        return "\n".join([*lines, f"<!-- values {self.digest()} -->"]) + "\n"

    def _figure(self) -> Figure:
        figure = Figure(figsize=self.size, layout="constrained")
        rows = -(-len(self.panels) // self.columns)
        grid = figure.subplots(rows, self.columns, squeeze=False)
        for axes, (title, panel) in zip(grid.flat, self.panels.items(), strict=True):
            self._panel(axes, panel)
            axes.set_title(title, fontsize=9)
        figure.supxlabel(self.x, fontsize=9)
        figure.supylabel(self.y, fontsize=9)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=5 if len(labels) <= 5 else 3, frameon=False, fontsize=8
        )
        return figure

    def _panel(self, axes: Axes, panel: dict[str, Series]) -> None:
        for place, ((label, series), (colour, marker)) in enumerate(zip(panel.items(), STYLES, strict=False)):
            aside = 0.15 * (place - (len(panel) - 1) / 2) if self.ticks else 0.0
            value, low, high = np.array([estimate for _, estimate in series]).T
            axes.errorbar(
                [x + aside for x, _ in series],
                value,
                [value - low, high - value],
                label=label,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.1,
                linestyle="" if self.ticks else "-",
            )
        if self.diagonal:
            ends = [panel[next(iter(panel))][i][0] for i in (0, -1)]
            axes.plot(ends, ends, color="0.6", linewidth=0.8, linestyle=":", label="return = target")
        if self.ticks:
            axes.set_xticks(range(len(self.ticks)), self.ticks)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)


def scores() -> Picture:
    """The scores of the five agents on each of the nine datasets, and their interquartile means."""
    panel: dict[str, Series] = {}
    for label, title in AGENTS.items():
        sample = Sample(label, column="score_measured")
        over = statistics.aggregate([returns(d, sample) for d in NINE], generator()).iqm
        panel[title] = [(float(i), mean(d, sample)) for i, d in enumerate(NINE)] + [(float(len(NINE)), over)]
    ticks = [*(name(d).replace(" ", "\n").replace("-", "-\n") for d in NINE), "IQM\nof all"]
    return Picture({"": panel}, "", "score, flowrl references", (7.6, 4.0), ticks=ticks)


def over_targets(
    datasets: Sequence[str], samples: dict[str, Sample], size: tuple[float, float], columns: int
) -> Picture:
    panels = {
        name(d): {
            title: [(float(target), mean(d, sample._replace(target=target))) for target in TARGETS[d]]
            for title, sample in samples.items()
        }
        for d in datasets
    }
    return Picture(panels, "target return", "return", size, columns, diagonal=True)


def corridor() -> Picture:
    """The share of episodes that end as the target says; the bars reach from the worst seed to the best."""
    panel: dict[str, Series] = {}
    for label in ("flow", "linear", "dt", "flow-20", "dt-20", "flow, 1000 trained too"):
        shares = np.array([[float(run[f"corridor_{n}"]) for n in LENGTHS] for run in corridor_runs()[label]])
        means, low, high = shares.mean(0), shares.min(0), shares.max(0)
        panel[label] = [(float(i), Estimate(*map(float, (means[i], low[i], high[i])))) for i in range(len(LENGTHS))]
    return Picture(
        {"": panel}, "length of the corridor, steps", "episodes as the target says", (6.4, 3.4), ticks=LENGTHS
    )


WINDOWS = {"flow": Sample("flow"), "dt": Sample("dt")}
STATES = {
    **WINDOWS,
    "flow, carried state": Sample("flow-carry-plain"),
    "carried state and options": Sample("flow-carry"),
}
STEPS = {
    "flow": Sample("flow", experiment="matrix"),
    "dt": Sample("dt", experiment="matrix"),
    "flow, 5 steps": Sample("flow-act5"),
    "dt, 5 steps": Sample("dt-act5"),
}
PICTURES: dict[str, Callable[[], Picture]] = {
    "scores": scores,
    "following": lambda: over_targets(NINE[3:], WINDOWS, (7.2, 4.8), 3),
    "acting-on-5": lambda: over_targets(REPLAY[:1], STEPS, (5.2, 3.8), 1),
    "corridor": corridor,
    "carried": lambda: over_targets([*REPLAY, *EXPERT], STATES, (7.0, 5.6), 2),
}

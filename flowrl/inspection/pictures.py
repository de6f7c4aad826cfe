"""Histograms as PNG files."""

import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.inspection.distributions import Histogram
from flowrl.inspection.statistics import Statistics
from flowrl.text import one_line

__all__ = ["returns_picture", "rewards_picture"]

EPISODES_COLOUR, STEPS_COLOUR = "#0b5fa5", "#c4501b"


def returns_picture(statistics: Statistics, title: str) -> bytes:
    """A PNG: histograms of the returns over episodes and over steps."""

    def draw(axes: Axes) -> None:
        _stairs(axes, statistics.returns_histogram, EPISODES_COLOUR, fill=True, label="of episodes")
        _stairs(axes, statistics.returns_by_step_histogram, STEPS_COLOUR, fill=False, label="of steps")
        axes.set(title=one_line(title).replace("$", r"\$"), xlabel="return of the episode", ylabel="share (%)")
        axes.legend(frameon=False)

    return _picture(draw, (5.2, 3.0))


def rewards_picture(statistics: Statistics) -> bytes:
    """A PNG: histogram of the rewards of single steps."""

    def draw(axes: Axes) -> None:
        _stairs(axes, statistics.rewards_histogram, EPISODES_COLOUR, fill=True)
        axes.set(xlabel="reward of a step", ylabel="share of steps (%)")

    return _picture(draw, (5.2, 2.4))


def _stairs(axes: Axes, histogram: Histogram, colour: str, *, fill: bool, label: str | None = None) -> None:
    total = max(sum(histogram.counts), 1)
    shares = [100.0 * count / total for count in histogram.counts]
    axes.stairs(
        shares,
        histogram.edges,
        color=colour,
        fill=fill,
        alpha=0.55 if fill else 1.0,
        linewidth=1.6,
        label=label,
    )


def _picture(draw: Callable[[Axes], None], size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    axes.set_ylim(bottom=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

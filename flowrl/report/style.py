"""How the pictures of a report look: readable on a phone, and without colour."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.report.runs import Row

Style = dict[str, Any]  # how a label's line is drawn

WIDTH, HEIGHT = 4.6, 3.5  # inches: at the width of a phone its letters are still as large as the text around it

# Lines differ by marker and dash as well as by colour.
_COLOURS = ("#0b3d91", "#d9541e", "#2f8f4e", "#6b4c9a", "#8c6d1f", "#3f3f3f")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Picture:
    """A drawn picture, with the numbers it shows."""

    name: str
    """Of its files, without the ending."""
    title: str
    caption: str
    figure: Figure
    rows: Sequence[Row]
    """What is drawn, a row per point: the CSV beside it."""
    aside: bool = False
    """Folded away on the page, and not in the Markdown."""

    def svg(self) -> bytes:
        """For the page: sharp at every size; the same picture gives the same bytes."""
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "path"}):
            return self._saved("svg", metadata={"Date": None})

    def png(self) -> bytes:
        """For Markdown."""
        return self._saved("png", metadata={"Software": None})

    def _saved(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Colour, marker and dash of each label; from the seventh on they are combined in another way."""
    by_label = {}
    for place, label in enumerate(labels):
        around, i = divmod(place, len(_COLOURS))
        marker, dash = _MARKERS[(i + around) % len(_MARKERS)], _DASHES[(i + 2 * around) % len(_DASHES)]
        by_label[label] = {"color": _COLOURS[i], "marker": marker, "linestyle": dash}
    return by_label


def panel(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty picture of one panel."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    return figure, axes


def legend(figure: Figure) -> None:
    """Above the panel, where it hides nothing."""
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)

"""How the pictures of a report look: readable on a phone, without colour, and in the dark."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.html import DARK, LIGHT, colours
from flowrl.report.runs import Row

Style = dict[str, Any]  # how a label's line is drawn

WIDTH, HEIGHT = 4.2, 3.3  # inches: at the width of a phone its letters are still as large as the text around it

# Colours as they are drawn, and as a page shows them in the dark.
GRID, BEYOND, GUIDE, LEVEL = "#ebebeb", "#f0f0f0", "#999999", "#737373"
_COLOURS = {
    "#0b3d91": "#7aa7ff",
    "#d9541e": "#ff8f63",
    "#2f8f4e": "#5fcf86",
    "#6b4c9a": "#bda0ea",
    "#8c6d1f": "#d9b44a",
    "#3f3f3f": "#c4cbd2",
}
IN_THE_DARK = {
    **_COLOURS, "#000000": DARK["ink"], GRID: "#2b343d", BEYOND: "#222a32", GUIDE: "#7d8894", LEVEL: "#95a0ab",
}  # fmt: skip

# Lines differ by marker and dash as well as by colour.
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
    reading: str = ""
    """What a reader sees in it, in words, for those who do not see it: a page needs it."""
    place: Literal["lead", "section", "cost", "attention"] = "section"
    """Where in a report: first of all, in its section, beside the cost, or folded and only on the page."""

    def svg(self) -> bytes:
        """For the page: sharp at every size, without a background, with other colours where the reader's system is
        dark; the same picture gives the same bytes."""
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "path"}):
            drawn = self._saved("svg", metadata={"Date": None}, transparent=True).decode()
        for colour in IN_THE_DARK:
            drawn = drawn.replace(colour, f"var(--c{colour[1:]})")
        light = {f"c{colour[1:]}": colour for colour in IN_THE_DARK} | {"c000000": LIGHT["ink"]}
        dark = {f"c{colour[1:]}": other for colour, other in IN_THE_DARK.items()}
        # What is drawn in plain black has no colour in the file.
        style = f"<style>{colours('svg', light, dark)}svg {{ fill: var(--c000000); }}</style>"
        start, tag, rest = drawn.partition("<defs>")
        return f"{start}{style}{tag}{rest}".encode()

    def png(self) -> bytes:
        """For Markdown."""
        return self._saved("png", metadata={"Software": None})

    def _saved(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Colour, marker and dash of each label; from the seventh on they are combined in another way."""
    by_label, palette = {}, tuple(_COLOURS)
    for place, label in enumerate(labels):
        around, i = divmod(place, len(palette))
        marker, dash = _MARKERS[(i + around) % len(_MARKERS)], _DASHES[(i + 2 * around) % len(_DASHES)]
        by_label[label] = {"color": palette[i], "marker": marker, "linestyle": dash}
    return by_label


def panel(x: str, y: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty picture of one panel."""
    figure = Figure(figsize=(WIDTH, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    return figure, axes


def legend(figure: Figure) -> None:
    """Above the panel, where it hides nothing."""
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)

"""The learning curve of a training of behavior policies: its file and its picture."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowrl.envs.recipes import Recipe, stages

__all__ = ["Curve", "draw_curve", "read_curve", "write_curve"]

Curve = list[list[Any]]
"""Rows of training steps, mean return and mean length of the last 100 training episodes."""


def read_curve(path: Path) -> Curve:
    """The rows of a file that `write_curve` wrote, as text."""
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write_curve(path: Path, curve: Curve) -> None:
    """Write the rows as CSV, all or nothing."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["steps", "mean_return", "mean_length"], *curve])
    os.replace(partial, path)


def draw_curve(path: Path, recipe: Recipe, curve: Curve, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw the returns in training, and those of the kept snapshots, as a PNG.

    Args:
        rows: of `flowrl.envs.publishing.measure`, one a snapshot.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps, returns = ([float(row[column]) for row in curve] for column in (0, 1))
    axes.plot(steps, returns, color="0.6", linewidth=1, label="training: mean of the last 100 episodes")
    at, mean, std = np.array([[row["steps"], row["sampled_mean"], row["sampled_std"]] for row in rows]).T
    label = f"kept snapshots: {rows[0]['episodes']} sampled episodes, mean ± std"
    axes.errorbar(at, mean, std, fmt="o", markersize=4, elinewidth=1, color="C0", label=label)
    for name, stage in stages(recipe, [int(row["steps"]) for row in rows]).items():
        height = next(row["sampled_mean"] for row in rows if row["steps"] == stage)
        side = {"xytext": (-6, 6), "ha": "right"} if stage > at[-1] / 2 else {"xytext": (6, -12), "ha": "left"}
        axes.annotate(name, (stage, height), textcoords="offset points", fontweight="bold", **side)
    highest = max(mean + std)
    axes.set_ylim(min(mean - std) - 0.12 * highest, 1.35 * highest)  # room for the names and the legend
    axes.set(xlabel="training steps", ylabel="return", title=f"{recipe.env_id}, {recipe.algorithm}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    os.replace(partial, path)

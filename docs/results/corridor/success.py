"""Success against the corridor's length, from the rows that scripts.compare and scripts.evaluate left in run folders.

python docs/results/corridor/success.py runs/lengths/*/*-seed?    # writes success.csv and success.png beside this file
"""

from pathlib import Path

import numpy as np
from flowrl.checkpoint import RunFolder, write_atomically

from flowrl.errors import InputError
from flowrl.report.csv import csv_bytes
from flowrl.report.runs import Run, label_of
from flowrl.report.style import Picture, legend, panel, styles
from scripts.cli import run

HERE = Path(__file__).parent
DRAWN = "flow, 1,000 trained", "flow", "flow-decay", "linear", "dt", "flow-20", "dt-20"  # the CSV has all


def rows_of(path: Path) -> list[dict]:
    """The share of a run's episodes that ended as asked, by length: at 1 with a right turn, at 0 with a wrong one."""
    folder = RunFolder(path)
    finished = Run.load(folder, label_of(path))
    label = finished.label
    if "length-1000" in finished.config["dataset"]:
        label += ", 1,000 trained"
    kept = {}  # by length; to evaluate twice counts an episode once
    for row in folder.rows("evaluations.jsonl"):
        if row["kind"] != "training":
            if "length" not in (row["env_kwargs"] or {}):
                raise InputError(f"run {path} was not played in a corridor")
            kept.setdefault(row["env_kwargs"]["length"], {})[row["target"], row["seed"]] = (
                row["return"] == row["target"]
            )
    return [
        {
            "agent": label,
            "seed": finished.seed,
            "length": length,
            "episodes": len(ends),
            "as asked": sum(ends.values()) / len(ends),
        }
        for length, ends in sorted(kept.items())
    ]


def main(words: list[str]) -> None:
    if not words:
        raise InputError("no run folder is given: runs/lengths/*/*-seed?")
    rows = [row for word in words for row in rows_of(Path(word))]
    figure, axes = panel("length of the corridor, steps", "episodes that end as asked")
    axes.axhline(0.5, color="0.6", linewidth=1, label="chance")
    for place, (label, style) in enumerate(styles(DRAWN).items()):
        own = [row for row in rows if row["agent"] == label]
        lengths = sorted({row["length"] for row in own})
        means = [np.mean([row["as asked"] for row in own if row["length"] == length]) for length in lengths]
        beside = 1.06 ** (place - (len(DRAWN) - 1) / 2)  # of several at 1 each is seen
        axes.plot([length * beside for length in lengths], means, label=label, markersize=5, **style)
        axes.scatter([row["length"] * beside for row in own], [row["as asked"] for row in own], s=4, color="black")
    axes.set_xscale("log")
    axes.set_xticks([10, 100, 300, 1_000], ["10", "100", "300", "1,000"])
    axes.minorticks_off()
    axes.set_ylim(0.4, 1.05)
    legend(figure)
    picture = Picture("success", "Success against length", "", figure, rows)
    write_atomically(HERE / "success.png", picture.png())
    write_atomically(HERE / "success.csv", csv_bytes(picture.rows))


if __name__ == "__main__":
    run(main)

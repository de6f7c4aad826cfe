"""Success against the corridor's length, from the rows that scripts.compare and scripts.evaluate left in run folders.

python docs/results/corridor/success.py runs/lengths/*/*-seed?    # writes success.csv and success.png beside this file
"""

import sys
from pathlib import Path

import numpy as np

from flowrl.checkpoint import RunFolder
from flowrl.report.csv import csv_bytes
from flowrl.report.style import legend, panel, styles

HERE = Path(__file__).parent
DRAWN = "flow, 1,000 trained", "flow", "flow-decay", "linear", "dt", "flow-20", "dt-20"  # the CSV has all


def rows_of(folder: Path) -> list[dict]:
    """The share of a run's episodes that ended as asked, by length: at 1 with a right turn, at 0 with a wrong one."""
    label, _, seed = folder.name.rpartition("-seed")
    config = RunFolder(folder).config()
    if "length-1000" in config["dataset"]:
        label += ", 1,000 trained"
    kept = {}  # the last row of an episode counts: to evaluate twice counts it once
    last = config["training"]["steps"]
    for row in RunFolder(folder).rows("evaluations.jsonl"):
        if row["kind"] != "training" and row["step"] == last:
            length = (row["env_kwargs"] or {})["length"]
            kept.setdefault(length, {})[row["target"], row["seed"]] = row["return"] == row["target"]
    shares = [(length, len(ends), sum(ends.values()) / len(ends)) for length, ends in sorted(kept.items())]
    return [
        {"agent": label, "seed": seed, "length": length, "episodes": episodes, "as asked": share}
        for length, episodes, share in shares
    ]


def main(folders: list[Path]) -> None:
    rows = [row for folder in folders for row in rows_of(folder)]
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
    figure.savefig(HERE / "success.png", metadata={"Software": None})
    (HERE / "success.csv").write_bytes(csv_bytes(rows))


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])

"""Writing a report: the page, Markdown, pictures, the data of every figure, and TensorBoard's HParams."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from flowrl.checkpoint import write_atomically
from flowrl.report.comparison import Comparison
from flowrl.report.csv import csv_bytes
from flowrl.report.markdown import markdown_page
from flowrl.report.overview import Report
from flowrl.report.page import page
from flowrl.report.pictures import comparison_pictures, report_pictures
from flowrl.report.runs import Run

_FIGURES, _DATA, _HPARAMS = "figures", "data", "hparams"


def write_report(report: Report, out: Path) -> list[Path]:
    """Write `report.html`, `report.md`, `results.json`, `figures/`, `data/` and `hparams/` under `out`.

    Returns:
        The paths of the page, the Markdown and the JSON.
    """
    overall = report_pictures(report)
    pictures = {c.dataset: comparison_pictures(c, slug_of(c)) for c in report.comparisons}
    drawn = [*overall, *(picture for of_dataset in pictures.values() for picture in of_dataset)]
    for folder in (_FIGURES, _DATA):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        if not picture.aside:
            write_atomically(out / _FIGURES / f"{picture.name}.png", picture.png())
        write_atomically(out / _DATA / f"{picture.name}.csv", csv_bytes(picture.rows))
    contents = {
        "report.html": page(report, overall, pictures),
        "report.md": markdown_page(report, overall, pictures, _FIGURES),
        "results.json": json.dumps(results(report, out), indent=2),
    }
    for name, content in contents.items():
        write_atomically(out / name, content.encode())
    _write_hparams(report, out)
    return [out / name for name in contents]


def slug_of(comparison: Comparison) -> str:
    """The dataset's name as part of a file's: in a link, what stands before a colon is a scheme."""
    return re.sub(r"[^\w.+-]+", "-", comparison.dataset)


def results(report: Report, out: Path) -> dict[str, Any]:
    """Everything the report tells, as plain values; run folders are named as seen from `out`."""
    return {
        "summary": report.summary(),
        "score": report.score,
        "aggregate": report.aggregate_rows,
        "improvement": report.improvement_rows,
        "comparisons": [
            {
                "dataset": comparison.dataset,
                "summary": comparison.summary(),
                "warning": comparison.steering_warning(),
                "dataset_returns": comparison.dataset_returns,
                "evaluation": comparison.evaluation,
                "headline": comparison.headline,
                "scores": comparison.score_rows,
                "differences": comparison.difference_rows,
                "calibration": comparison.calibration_rows,
                "best_over_training": comparison.best_over_training_rows,
                "costs": comparison.cost_rows,
                "runs": [_run(run, out) for run in comparison.runs],
            }
            for comparison in report.comparisons
        ],
        "failures": list(report.failures),
        "commands": list(report.commands),
    }


def _run(run: Run, out: Path) -> dict[str, Any]:
    kept = ("agent", "agent_config", "training", "selection", "device", "threads", "processes", "versions")
    episodes = [
        {name: row[name] for name in ("target", "seed", "return", "length", "terminated")} for row in run.episodes
    ]
    return {
        "agent": run.label,
        "seed": run.seed,
        "folder": os.path.relpath(run.path, out),
        "config": {name: run.config.get(name) for name in kept},
        "episodes": episodes,
    }


def _write_hparams(report: Report, out: Path) -> None:
    """A session a run, so that TensorBoard's HParams tab sets settings beside results."""
    partial, folder = out / f".{_HPARAMS}.partial", out / _HPARAMS
    shutil.rmtree(partial, ignore_errors=True)
    for comparison in report.comparisons:
        for run in comparison.runs:
            settings = {
                "dataset": comparison.dataset,
                "label": run.label,
                "seed": run.seed,
                "agent": run.config["agent"],
            }
            settings |= {
                n: v for n, v in {**run.config["training"], **run.config["agent_config"]}.items() if v is not None
            }
            metrics = {"result/return": _mean(run.values(comparison.headline))}
            if report.score is not None:
                metrics[f"result/{report.score}"] = _mean(run.values(comparison.headline, report.score))
            with SummaryWriter(str(partial / slug_of(comparison) / f"{run.label}-seed{run.seed}")) as writer:
                for summary in hparams(settings, metrics):
                    writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]
                for name, value in metrics.items():
                    writer.add_scalar(name, value, run.config["training"]["steps"])
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

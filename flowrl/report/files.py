"""Writing a report: the page, Markdown, pictures and their data, and TensorBoard's HParams."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from flowrl.report.contents import document
from flowrl.report.csv import csv_bytes
from flowrl.report.maps import attention_rows
from flowrl.report.markdown import markdown_page
from flowrl.report.overview import SCORES, Report
from flowrl.report.page import page
from flowrl.report.pictures import comparison_pictures, sensitivity_rows
from flowrl.report.pooled_pictures import report_pictures
from flowrl.report.runs import Run

_FIGURES, _DATA, _HPARAMS = "figures", "data", "hparams"
_RESULTS = "results.json"
_EVENTS = "events.out.tfevents.*"


def write_report(report: Report, out: Path, *, written: date | None = None) -> list[Path]:
    """Write `report.html`, `report.md`, `results.json`, `figures/`, `data/` and `hparams/` under `out`.

    An earlier report there is replaced once the new one is written whole. Of what lies in the folders only files are
    removed that the earlier report lists.

    Args:
        written: the day that the report bears; by default today.

    Returns:
        The paths of the page, the Markdown and the JSON.
    """
    slugs = slugs_of(report)
    overall = report_pictures(report)
    pictures = {c.dataset: comparison_pictures(c, slugs[c.dataset], report.labels) for c in report.comparisons}
    drawn = [*overall, *(picture for of_dataset in pictures.values() for picture in of_dataset)]
    whole = document(report, overall, pictures, written or date.today())
    contents, values = {"report.html": page(whole), "report.md": markdown_page(whole, _FIGURES)}, results(report, out)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".report-", dir=out) as folder:
        partial = Path(folder)
        for name in (_FIGURES, _DATA, _HPARAMS):
            (partial / name).mkdir()
        for picture in drawn:
            if picture.place != "attention":
                (partial / _FIGURES / f"{picture.name}.png").write_bytes(picture.png())
            (partial / _DATA / f"{picture.name}.csv").write_bytes(csv_bytes(picture.rows))
        for name, content in contents.items():
            (partial / name).write_bytes(content.encode())
        _write_hparams(report, slugs, partial / _HPARAMS)
        files = [path.relative_to(partial) for path in sorted(partial.rglob("*")) if path.is_file()]
        values["files"] = list(dict.fromkeys(_listed(path) for path in files if len(path.parts) > 1))
        (partial / _RESULTS).write_bytes(json.dumps(values, indent=2, allow_nan=False).encode())
        _remove_files_of_report(out)
        for path in [*files, Path(_RESULTS)]:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).replace(out / path)
    return [out / name for name in (*contents, _RESULTS)]


def _listed(path: Path) -> str:
    """A file as a report lists it: TensorBoard names its files by time and machine."""
    return (path.with_name(_EVENTS) if path.parts[0] == _HPARAMS else path).as_posix()


def _remove_files_of_report(out: Path) -> None:
    """Remove the files in folders that the report under `out` lists, and the folders that are then empty."""
    try:
        listed = [PurePosixPath(name) for name in json.loads((out / _RESULTS).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError):  # no report, a damaged one, or one that lists nothing
        return
    for name in listed:
        if name.parts[:1] in ((_FIGURES,), (_DATA,), (_HPARAMS,)) and ".." not in name.parts:
            for path in out.glob(str(name)):
                if path.is_file():
                    path.unlink()
            for folder in [out / parent for parent in name.parents][:-1]:
                with suppress(OSError):  # it holds something else
                    folder.rmdir()


def slugs_of(report: Report) -> dict[str, str]:
    """Each dataset's name as part of a file's: in a link, what stands before a colon is a scheme."""
    slugs: dict[str, str] = {}
    for comparison in report.comparisons:
        slug = re.sub(r"[^\w.+-]+", "-", comparison.dataset)
        slugs[comparison.dataset] = f"{slug}-{len(slugs) + 1}" if slug in slugs.values() else slug
    return slugs


def results(report: Report, out: Path) -> dict[str, Any]:
    """All contents of the report as plain values; run folders are named as seen from `out`."""
    return {
        "summary": report.summary(),
        "score": report.score,
        "aggregate": report.aggregate_rows,
        "improvement": report.improvement_rows,
        "profiles": report.profile_rows,
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
                "sensitivity": sensitivity_rows(comparison),
                "attention": attention_rows(comparison),
                "curves": comparison.curve_rows,
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
    kept = ("agent", "agent_config", "training", "evaluate_every", "evaluate_episodes", "selection")
    kept = (*kept, "device", "threads", "processes", "versions")
    of_episode = ("target", "seed", "return", "length", "terminated", *SCORES)
    episodes = [{name: row.get(name) for name in of_episode} for row in run.played]
    return {
        "agent": run.label,
        "seed": run.seed,
        "folder": os.path.relpath(run.path, out),
        "config": {name: run.config.get(name) for name in kept},
        "episodes": episodes,
    }


def _write_hparams(report: Report, slugs: Mapping[str, str], folder: Path) -> None:
    """A session per run: TensorBoard's HParams tab shows settings beside results."""
    for comparison in report.comparisons:
        for run in comparison.runs:
            settings = {**run.config["training"], **run.config["agent_config"], "agent": run.config["agent"]}
            settings |= {"dataset": comparison.dataset, "label": run.label, "seed": run.seed}
            plain = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in settings.items()}
            metrics = {"result/return": _mean(run.values(comparison.headline))}
            if report.score is not None:
                metrics[f"result/{report.score}"] = _mean(run.values(comparison.headline, report.score))
            session = folder / slugs[comparison.dataset] / f"{run.label}-seed{run.seed}"
            with SummaryWriter(str(session)) as writer:
                for summary in hparams(plain, metrics):
                    writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]
                for name, value in metrics.items():
                    writer.add_scalar(name, value, run.config["training"]["steps"])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

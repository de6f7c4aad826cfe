"""Adds finished runs to runs.csv.gz and episodes.csv.gz; runs that are there already are replaced.

python docs/results/add.py runs/values --experiment values
"""

import argparse
import csv
import gzip
import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rows import HERE, read

from flowrl.agents import find_agent
from flowrl.data.selection import Selection
from flowrl.files import write_atomically
from flowrl.report import Run
from flowrl.training.run_folder import RunFolder

REACHED = 0.9  # of the best return of the data
OF_A_RUN = "experiment", "dataset", "label", "seed"


def runs_in(folder: Path) -> list[Run]:
    """The finished runs below a folder; the name of a run's folder is its label and seed."""
    found = []
    for config in sorted(folder.rglob("config.json")):
        label = re.sub(r"-seed\d+$", "", config.parent.name)
        if RunFolder(config.parent).final_rows(RunFolder(config.parent).config() or {}):
            found.append(Run.load(RunFolder(config.parent), label))
        else:
            print(f"not finished: {config.parent}")
    return found


def run_row(run: Run, experiment: str) -> dict[str, Any]:
    """The row of runs.csv.gz."""
    config, speeds = run.config, [row["steps_per_second"] for row in run.metrics if "steps_per_second" in row]
    best = config["dataset_returns"]["percentiles"][-1]
    evaluation, memory = run.metric("eval/seconds"), run.metric("memory/peak_bytes")
    return {
        "experiment": experiment,
        "date": time.strftime("%Y-%m-%d", time.gmtime((run.path / "checkpoint.pt").stat().st_mtime)),
        "dataset": config["dataset"],
        "label": run.label,
        "agent": config["agent"],
        "seed": run.seed,
        "options": " ".join(changed_options(config)),
        "rollout": run.episodes[0]["rollout"] if run.conditioned else "",
        "steps": config["training"]["steps"],
        "batch_size": config["training"]["batch_size"],
        "precision": config["training"]["precision"],
        "targets": " ".join(f"{target:.2f}" for target in run.evaluation["targets"]) if run.conditioned else "",
        "judged_target": f"{best:.2f}",
        "minutes": f"{max(run.minutes().values()):.2f}",
        "evaluation_seconds": "" if evaluation is None else f"{evaluation:.1f}",
        "steps_per_second": f"{median(speeds):.2f}",
        "peak_mb": "" if memory is None else round(memory / 2**20),
        "device": config["device"],
        "threads": config["threads"],
        "commit": (config["commit"] or "")[:7],
        "cpu_seconds": f"{sum(row.get('cpu_seconds', 0.0) for row in run.metrics):.1f}",
        "cpu_seconds_to_90": reached(run, REACHED * best),
        **{name: config["versions"][name] for name in ("python", "torch", "gymnasium", "mujoco")},
    }


def changed_options(config: dict[str, Any]) -> Iterator[str]:
    """NAME=VALUE of the agent's settings and the selection that differ from what the agent's name stands for."""
    preset, default = find_agent(config["agent"]).config.record(), Selection()
    for name, value in _leaves(config["agent_config"]):
        if dict(_leaves(preset)).get(name) != value:
            yield f"{name}={value}"
    yield from (f"{name}={value}" for name, value in config["selection"].items() if value != getattr(default, name))


def _leaves(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        yield from _leaves(value) if isinstance(value, dict) else [(name, value)]


def reached(run: Run, least: float) -> str:
    """CPU seconds of training to the first evaluation whose mean return is at least that; empty if none is."""
    if run.conditioned:
        return ""
    steps = [step for step, value in run.curve(run.evaluation["targets"][0]).items() if value >= least]
    if not steps or not any("cpu_seconds" in row for row in run.metrics):
        return ""
    return f"{sum(row.get('cpu_seconds', 0.0) for row in run.metrics if row['step'] <= steps[0]):.1f}"


def episode_rows(run: Run, experiment: str) -> Iterator[dict[str, Any]]:
    """The rows of episodes.csv.gz."""
    for row in run.played:
        yield {
            "experiment": experiment,
            "dataset": run.config["dataset"],
            "label": run.label,
            "seed": run.seed,
            "target": "" if row["target"] is None else f"{row['target']:.2f}",
            "environment_seed": row["seed"],
            "return": f"{row['return']:.2f}",
            "length": row["length"],
            "terminated": int(row["terminated"]),
            "score_d4rl": "" if row["score_d4rl"] is None else f"{row['score_d4rl']:.2f}",
            "score_measured": "" if row["score_measured"] is None else f"{row['score_measured']:.2f}",
        }


def merge(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table with `rows` in place of those of the same runs."""
    new = [{key: str(value) for key, value in row.items()} for row in rows]
    ours = {tuple(row[key] for key in OF_A_RUN) for row in new}
    kept = [row for row in read(name) if tuple(row[key] for key in OF_A_RUN) not in ours] + new
    columns = list(dict.fromkeys(key for row in kept for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    write_atomically(HERE / name, gzip.compress(text.getvalue().encode(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the run folders are")
    parser.add_argument("--experiment", required=True, help="what these runs are called in the tables")
    words = parser.parse_args()
    if not (runs := runs_in(words.folder)):
        sys.exit(f"no finished run in {words.folder}")
    merge("runs.csv.gz", [run_row(run, words.experiment) for run in runs])
    merge("episodes.csv.gz", [row for run in runs for row in episode_rows(run, words.experiment)])
    print(f"{len(runs)} runs added")


if __name__ == "__main__":
    main()

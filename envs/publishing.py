"""Measuring the snapshots of a training and publishing them as behavior policies."""

import datetime
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flowrl.envs.behavior import read_policy, snapshot_path
from flowrl.envs.curve import draw_curve, read_curve, write_curve
from flowrl.envs.playing import EpisodePlayer
from flowrl.envs.recipes import HYPERPARAMETERS, Recipe, stages
from flowrl.evaluation.environments import make_env

__all__ = ["measure", "publish"]

SEED = 1_000_003  # no dataset is collected with it, so the returns are of other episodes
PACKAGES = ("gymnasium", "mujoco", "numpy", "sb3-contrib", "stable-baselines3", "torch")
TITLES = {"TRPO": "TRPO (sb3-contrib)", "TD3": "TD3 (Stable-Baselines3)"}


def measure(
    env_id: str, run_dir: Path, steps: int, episodes: int, report: Callable[[str], None] = print
) -> dict[str, float]:
    """Returns of a snapshot over `episodes` sampled episodes, and over a quarter as many deterministic ones."""
    policy = read_policy(snapshot_path(run_dir, steps))
    player = EpisodePlayer(make_env(env_id))

    def returns(count: int, sample: bool) -> np.ndarray:
        return np.array([player.episode(policy, SEED, i, sample=sample).rewards.sum() for i in range(count)])

    sampled, deterministic = returns(episodes, sample=True), returns(-(-episodes // 4), sample=False)
    row = {
        "steps": steps,
        "episodes": episodes,
        "sampled_mean": round(float(sampled.mean()), 1),
        "sampled_std": round(float(sampled.std()), 1),
        "deterministic_mean": round(float(deterministic.mean()), 1),
    }
    report(
        f"snapshot {steps:,}: sampled {row['sampled_mean']:,} ± {row['sampled_std']:,}, "
        f"deterministic {row['deterministic_mean']:,}"
    )
    return row


def publish(
    recipe: Recipe,
    rows: Sequence[Mapping[str, float]],
    seed: int,
    resumptions: Sequence[int],
    run_dir: Path,
    folder: Path,
) -> None:
    """Put the snapshots, their returns and the learning curve in `folder`, all at once, in place of what is there.

    Args:
        rows: of `measure`, one a snapshot.
        seed: of the training.
        resumptions: the steps at which the training resumed from a saved state.
        run_dir: of the training.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    kept = [int(row["steps"]) for row in rows]
    curve = [row for row in read_curve(run_dir / "curve.csv") if int(row[0]) <= kept[-1]]
    write_curve(partial / "curve.csv", curve)
    draw_curve(partial / "curve.png", recipe, curve, rows)
    for steps in kept:
        shutil.copyfile(snapshot_path(run_dir, steps), snapshot_path(partial, steps))
    record = {
        "env_id": recipe.env_id,
        "algorithm": TITLES[recipe.algorithm],
        "steps": kept[-1],
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "resumed": [step for step in resumptions if step < kept[-1]],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "recipe": asdict(recipe),
        "hyperparameters": HYPERPARAMETERS[recipe.algorithm],
        "stages": stages(recipe, kept),
        "snapshots": list(rows),
    }
    (partial / "snapshots.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _exchange(partial, folder)


def _exchange(new: Path, folder: Path) -> None:
    """Move the folder `new` to `folder`, in place of the one there."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    new.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)

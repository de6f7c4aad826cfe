"""Training the behavior policies of one environment, keeping snapshots from the first step on."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowrl.envs.behavior import POLICIES, snapshot_path
from flowrl.envs.curve import Curve, read_curve, write_curve
from flowrl.envs.publishing import measure, publish
from flowrl.envs.recipes import RECIPES, Recipe
from flowrl.envs.sb3 import load_model, policy_arrays, save_model, start_model, vector_env
from flowrl.errors import InputError

__all__ = ["train", "train_behavior"]

STATE_EVERY = 300.0  # seconds of training that a kill loses at most
REPORT_EVERY = 20.0  # seconds


def train_behavior(
    name: str,
    *,
    steps: int | None = None,
    seed: int | None = None,
    episodes: int = 100,
    out: Path | None = None,
    run_dir: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the behavior policies of a recipe, measure each snapshot, then publish all of them at once.

    A killed training resumes from its run folder. With the same seed, versions and kind of machine an uninterrupted
    training gives the same policies.

    Args:
        name: a key of `flowrl.envs.recipes.RECIPES`.
        steps: training steps, rounded up to whole chunks of the recipe; the recipe's if None.
        seed: of the training; the recipe's if None.
        episodes: by which each snapshot is measured.
        out: folder that receives a folder `name` of snapshots. If None: the shipped policies, or the run folder where
            `steps` or `seed` are not the recipe's.
        run_dir: saved state, snapshots and learning curve; runs/behavior/NAME if None.
        report: called with a line of progress.

    Returns:
        The folder with the snapshots.

    Raises:
        InputError: unknown recipe, a number out of range, another training in `run_dir`, or Stable-Baselines3 is
            missing.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe for {name!r}; known are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    steps = recipe.steps if steps is None else -(-steps // recipe.chunk) * recipe.chunk
    seed = recipe.seed if seed is None else seed
    if steps < 1 or episodes < 1:
        raise InputError(f"steps and episodes must be at least 1, not {steps} and {episodes}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}: it must be at least 0 and below 2^32")
    run_dir = run_dir or Path("runs/behavior") / name
    _claim(run_dir, name)
    # Only the recipe's training may replace the policies that datasets are collected with.
    is_recipe = steps == recipe.steps and seed == recipe.seed
    folder = (out or (POLICIES if is_recipe else run_dir / "policies")) / name
    kept = [snapshot for snapshot in recipe.snapshots if snapshot < steps] + [steps]
    train(recipe, steps, kept, seed, run_dir, report)
    rows = [measure(recipe.env_id, run_dir, snapshot, episodes, report) for snapshot in kept]
    publish(recipe, rows, seed, _resumptions(run_dir), run_dir, folder)
    return folder


def train(
    recipe: Recipe, steps: int, kept: Sequence[int], seed: int, run_dir: Path, report: Callable[[str], None] = print
) -> None:
    """Train up to `steps`, from the state saved in `run_dir` if there is one, saving the snapshots in `kept`.

    A resumed training starts new episodes: as good as an uninterrupted one, but not bit-equal to it.
    """
    envs = vector_env(recipe, seed)
    from stable_baselines3.common.utils import ConstantSchedule

    torch.set_num_threads(1)
    resumed = _resume(recipe, steps, seed, run_dir, envs, report)
    model, curve = resumed or (start_model(recipe.algorithm, envs, seed), [])
    began, first = time.monotonic(), model.num_timesteps
    saved, reported = began, 0.0
    while True:
        if model.num_timesteps in kept:
            _save_snapshot(recipe, model, run_dir)
        if model.num_timesteps >= steps:
            break
        for begin, rate in recipe.rates:
            if model.num_timesteps >= begin:
                model.lr_schedule = ConstantSchedule(rate)
        model.learn(recipe.chunk, reset_num_timesteps=False)
        curve.append([model.num_timesteps, *(_recent(model, key) for key in ("r", "l"))])
        write_curve(run_dir / "curve.csv", curve)
        now, last = time.monotonic(), model.num_timesteps >= steps
        if now - saved >= STATE_EVERY or last:
            save_model(model, run_dir / "state")
            saved = time.monotonic()
        if now - reported >= REPORT_EVERY or last:
            reported, speed = now, (model.num_timesteps - first) / (now - began)
            report(
                f"step {model.num_timesteps:,} of {steps:,}  return {curve[-1][1]:,.0f}  length {curve[-1][2]:,.0f}"
                f"  {speed:,.0f} steps/s  {(steps - model.num_timesteps) / speed / 60:.1f} min left"
            )
    model.env.close()


def _claim(run_dir: Path, name: str) -> None:
    """Create the run folder of a recipe, or check that it belongs to this one."""
    mark = run_dir / "recipe"
    if mark.exists() and mark.read_text(encoding="utf-8") != name:
        other = mark.read_text(encoding="utf-8")
        raise InputError(f"{run_dir} holds a training of {other}: choose another run folder")
    run_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text(name, encoding="utf-8")


def _resume(
    recipe: Recipe, steps: int, seed: int, run_dir: Path, envs: Any, report: Callable[[str], None]
) -> tuple[Any, Curve] | None:
    """The saved model and learning curve; None where nothing is saved."""
    state = run_dir / "state"
    if not state.exists() and (run_dir / "state.old").exists():
        (run_dir / "state.old").rename(state)
    if not state.exists():
        return None
    model = load_model(recipe.algorithm, state, envs)
    if model.seed != seed or model.num_timesteps > steps:
        raise InputError(
            f"{run_dir} holds a training with seed {model.seed} at step {model.num_timesteps:,}:"
            " choose another run folder, or that seed and no fewer steps"
        )
    resumptions = [step for step in _resumptions(run_dir) if step <= model.num_timesteps] + [model.num_timesteps]
    (run_dir / "resumed.json").write_text(json.dumps(resumptions), encoding="utf-8")
    report(f"{run_dir} resumes at step {model.num_timesteps:,}")
    return model, [row for row in read_curve(run_dir / "curve.csv") if int(row[0]) <= model.num_timesteps]


def _resumptions(run_dir: Path) -> list[int]:
    """The steps at which a training resumed from a saved state."""
    path = run_dir / "resumed.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _save_snapshot(recipe: Recipe, model: Any, run_dir: Path) -> None:
    arrays = policy_arrays(model)
    if model.num_timesteps == recipe.expert:
        arrays["log_std"] = arrays["log_std"] + np.log(recipe.expert_noise)
    _write_arrays(snapshot_path(run_dir, model.num_timesteps), arrays)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    os.replace(partial, path)


def _recent(model: Any, key: str) -> float:
    """Mean return ("r") or length ("l") of the last 100 training episodes; NaN before the first has ended."""
    if not model.ep_info_buffer:
        return float("nan")
    return round(float(np.mean([episode[key] for episode in model.ep_info_buffer])), 1)

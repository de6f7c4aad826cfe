"""One finished run as a report needs it: its settings, every episode it played, its curves and what it cost."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowrl.errors import InputError
from flowrl.training.run_folder import RunFolder

Row = dict[str, Any]

_CONFIG = {
    "agent": str,
    "agent_config": dict,
    "training": dict,
    "evaluation": dict,
    "seed": int,
    "dataset": str,
    "dataset_returns": dict,
    "fingerprint": str,
    "env_spec": str,
}
_RETURNS = ("percentiles", "mean", "mean_by_step", "episodes", "steps")


@dataclass(frozen=True)
class Run:
    """A finished run; its label names it beside others, and with its training seed tells it from every other."""

    label: str
    seed: int
    path: Path
    config: Row = field(repr=False)
    evaluation: Row
    """env, env_kwargs, targets (returns, in ascending order), episodes and episode_seed of `episodes`."""
    episodes: tuple[Row, ...] = field(repr=False)
    """A row per episode of the last checkpoint."""
    training_episodes: tuple[Row, ...] = field(repr=False)
    """Rows of the episodes played while training."""
    metrics: tuple[Row, ...] = field(repr=False)
    study: Row | None = field(repr=False)
    """What `scripts.studies` found, where it was asked."""

    @classmethod
    def load(
        cls, folder: RunFolder, label: str, *, episodes: Sequence[Row] | None = None, study: Row | None = None
    ) -> "Run":
        """Read a finished run.

        Args:
            episodes: rows of its last checkpoint to judge it by; by default those of the evaluation that ended its
                training.
            study: of that checkpoint, acting as in these episodes.

        Raises:
            InputError: the folder holds no run, or one that is not finished or damaged.
        """
        config = folder.config()
        if config is None:
            raise InputError(f"{folder.path} is no run folder: it holds no config.json")
        missing = [name for name, kind in _CONFIG.items() if not isinstance(config.get(name), kind)]
        if not missing:
            missing = [f"dataset_returns.{name}" for name in _RETURNS if name not in config["dataset_returns"]]
        if missing:
            raise InputError(f"{folder.path / 'config.json'} is of another version of flowrl: no {missing[0]}")
        steering = config["dataset_returns"].get("steering", {"verdict": "", "reason": ""})  # earlier runs have none
        if not (isinstance(steering, dict) and {"verdict", "reason"} <= steering.keys()):
            raise InputError(f"{folder.path / 'config.json'} is damaged: its steering has no verdict and reason")
        env_kwargs = _configured_env_kwargs(config, folder.path / "config.json")
        rows = folder.rows("evaluations.jsonl")
        if not (final := folder.final_rows(config)):
            raise InputError(
                f"run {folder.path} is not finished: it lacks a final evaluation of its last step with one episode for"
                " each target and environment seed"
            )
        judged = final if episodes is None else episodes
        if not all(math.isfinite(row["return"]) for row in judged):
            raise InputError(f"run {folder.path} has an episode whose return is no finite number")
        seeds = sorted({row["seed"] for row in judged})
        targets = sorted({row["target"] for row in judged})
        return cls(
            label=label,
            seed=config["seed"],
            path=folder.path,
            config=config,
            evaluation={
                "env": judged[0]["env"],
                "env_kwargs": _env_kwargs(judged[0], env_kwargs),
                "targets": targets,
                "episodes": len(seeds),
                "episode_seed": seeds[0],
            },
            episodes=tuple(judged),
            training_episodes=tuple(row for row in rows if row["kind"] == "training"),
            metrics=tuple(folder.rows("metrics.jsonl")),
            study=study,
        )

    def values(self, target: float, name: str = "return") -> list[float]:
        """One figure of every episode with that target, in the order of their environment seeds."""
        return [row[name] for row in sorted(self.episodes, key=lambda row: row["seed"]) if row["target"] == target]

    def curve(self, target: float) -> dict[int, float]:
        """Mean return by training step at a target, where it was played so; the last step's is the result."""

        configured = _configured_env_kwargs(self.config, self.path / "config.json")

        def how(row: Row) -> list[Any]:
            return [*(row.get(name) for name in ("env", "rollout", "acting_context")), _env_kwargs(row, configured)]

        mine = how(self.episodes[0])
        before = [row for row in self.training_episodes if how(row) == mine]
        mine = [row for row in (*before, *self.episodes) if row["target"] == target]
        return {
            step: float(np.mean([row["return"] for row in mine if row["step"] == step]))
            for step in sorted({row["step"] for row in mine})
        }

    def minutes(self) -> dict[int, float]:
        """Minutes of training by step, evaluations not counted."""
        spent, before, minutes = 0.0, 0, {0: 0.0}
        for row in self.metrics:
            if "steps_per_second" in row:
                spent += (row["step"] - before) / row["steps_per_second"]
                before = row["step"]
                minutes[before] = spent / 60
        return minutes

    def metric(self, name: str) -> float | None:
        """The last value of a metric; None where it was not recorded."""
        return next((row[name] for row in reversed(self.metrics) if name in row), None)


def _configured_env_kwargs(config: Row, path: Path) -> Row:
    """What the run's own environment was told."""
    try:
        return _plain(json.loads(config["env_spec"])["kwargs"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: its env_spec is none of Gymnasium's") from error


def _env_kwargs(row: Row, configured: Row) -> Row:
    """What the environment of an episode was told; rows that do not say are of the run's own environment."""
    return _plain(row["env_kwargs"]) if "env_kwargs" in row else configured


def _plain(told: Row) -> Row:
    """With words for numbers that a report's JSON cannot hold."""
    return json.loads(json.dumps(told), parse_constant=str)


def label_of(folder: Path) -> str:
    """What a run folder is called in a report: LABEL of a folder LABEL-seedN, else its name, in plain characters."""
    name = re.sub(r"-seed\d+$", "", folder.resolve().name)
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("_") or "run"

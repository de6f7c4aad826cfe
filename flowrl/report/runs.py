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
from flowrl.training.run_folder import NO_ENVIRONMENT, RunFolder
from flowrl.training.stored_config import entry
from flowrl.training.stored_json import parse_json

Row = dict[str, Any]

# What a report needs of `config.json`.
_NEEDED = (
    *(("agent",), ("agent_config",), ("training", "steps")),
    *(("evaluation", "targets"), ("evaluation", "episodes"), ("evaluation", "episode_seed")),
    *(("seed",), ("dataset",)),
    *(("dataset_returns", name) for name in ("percentiles", "mean", "mean_by_step", "episodes", "steps")),
    *(("fingerprint",), ("env_spec",)),
)
_LATER = {"score_dataset": None}  # columns of episodes that earlier runs lack
_WITHOUT_TARGET = "bc"  # earlier versions played this agent, which takes no target, once per target all the same


@dataclass(frozen=True)
class Run:
    """A finished run; label and training seed together name it in a report."""

    label: str
    seed: int
    path: Path
    config: Row = field(repr=False)
    evaluation: Row
    """env, env_kwargs, targets (returns, in ascending order), episodes and episode_seed of `episodes`."""
    episodes: tuple[Row, ...] = field(repr=False)
    """A row per target and environment seed, of the last checkpoint: an agent without a target has each of its
    episodes at every target."""
    played: tuple[Row, ...] = field(repr=False)
    """The same as they were played: the target is None where the agent takes none."""
    training_episodes: tuple[Row, ...] = field(repr=False)
    """Rows of the episodes played while training, at every target as in `episodes`."""
    metrics: tuple[Row, ...] = field(repr=False)
    study: Row | None = field(repr=False)
    """The study of its last checkpoint (`flowrl.analysis.studies`), if there is one."""

    @classmethod
    def load(
        cls,
        folder: RunFolder,
        label: str,
        *,
        episodes: Sequence[Row] | None = None,
        targets: Sequence[float] | None = None,
        study: Row | None = None,
    ) -> "Run":
        """Read a finished run.

        Args:
            episodes: rows of its last checkpoint to judge it by; by default those of the evaluation that ended its
                training. A run without an environment has none of its own: its `evaluation` is empty where none are
                given.
            targets: returns at which the episodes of an agent without a target count; by default those of its own
                evaluation.
            study: of that checkpoint, acting as in these episodes.

        Raises:
            InputError: the folder holds no run, or one that is unfinished or damaged.
        """
        config = _checked_config(folder)
        configured = _configured_env_kwargs(config, folder.path / "config.json")
        rows = folder.own_rows()
        unplayed = config["env_spec"] == NO_ENVIRONMENT
        if not (folder.is_finished(config) if unplayed else folder.final_rows(config)):
            raise InputError(
                f"run {folder.path} is not finished: it lacks "
                + (
                    "its last training step"
                    if unplayed
                    else "a final evaluation of its last step with one episode for each target and environment seed"
                )
            )
        played = [_LATER | row for row in (folder.final_rows(config) if episodes is None else episodes)]
        _check_episodes(played, folder.path)
        training = [_LATER | row for row in rows if row["kind"] == "training"]
        _check_episodes(training, folder.path)
        counted_at = config["evaluation"]["targets"] if targets is None else targets
        at_targets = _at_every_target(played, counted_at)
        return cls(
            label=label,
            seed=config["seed"],
            path=folder.path,
            config=config,
            evaluation=_evaluation(at_targets, configured) if played else {},
            episodes=tuple(at_targets),
            played=tuple(played),
            training_episodes=tuple(_at_every_target(training, counted_at)),
            metrics=tuple(folder.rows("metrics.jsonl")),
            study=study,
        )

    @property
    def conditioned(self) -> bool:
        """Whether the agent takes a target return."""
        return self.played[0]["target"] is not None and self.config["agent"] != _WITHOUT_TARGET

    def values(self, target: float, name: str = "return") -> list[float]:
        """One column of the episodes at a target, in the order of their environment seeds."""
        return [row[name] for row in sorted(self.episodes, key=lambda row: row["seed"]) if row["target"] == target]

    def curve(self, target: float) -> dict[int, float]:
        """Mean return at a target by training step, of evaluations that acted in the same way and environment as the
        last; the value at the last step is the result."""

        configured = _configured_env_kwargs(self.config, self.path / "config.json")

        def way(row: Row) -> list[Any]:
            return [*(row.get(name) for name in ("env", "rollout", "acting_context")), _env_kwargs(row, configured)]

        last = way(self.episodes[0])
        earlier = [row for row in self.training_episodes if way(row) == last]
        returns: dict[int, list[float]] = {}
        for row in (*earlier, *self.episodes):
            if row["target"] == target:
                returns.setdefault(row["step"], []).append(row["return"])
        return {step: float(np.mean(returns[step])) for step in sorted(returns)}

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


def _checked_config(folder: RunFolder) -> Row:
    """A run's configuration with all that a report needs."""
    config, file = folder.config(), folder.path / "config.json"
    if config is None:
        raise InputError(f"{folder.path} is no run folder: it holds no config.json")
    for path in _NEEDED:
        if entry(config, path) is None:
            name = ".".join(path)
            raise InputError(f"{file} lacks {name}: train the run again with this version of flowrl, or leave it out")
    steering = config["dataset_returns"].get("steering", {"verdict": "", "reason": ""})  # earlier runs have none
    if not (isinstance(steering, dict) and {"verdict", "reason"} <= steering.keys()):
        raise InputError(f"{file} is damaged: its dataset_returns.steering has no verdict and reason; restore the file")
    return config


def _check_episodes(played: Sequence[Row], path: Path) -> None:
    """Raise InputError where returns are not finite, or only some episodes have a target."""
    scores = [row[name] for row in played for name in ("return", "score_d4rl", "score_measured", "score_dataset")]
    if not all(math.isfinite(score) for score in scores if score is not None):
        raise InputError(f"run {path} has an episode whose return is not a finite number: train the run again")
    if len({row["target"] is None for row in played}) > 1:
        raise InputError(
            f"{path / 'evaluations.jsonl'} mixes episodes with a target and without: evaluate the run again"
        )


def _evaluation(at_targets: Sequence[Row], configured: Row) -> Row:
    """Which episodes these are."""
    seeds = sorted({row["seed"] for row in at_targets})
    return {
        "env": at_targets[0]["env"],
        "env_kwargs": _env_kwargs(at_targets[0], configured),
        "targets": sorted({row["target"] for row in at_targets}),
        "episodes": len(seeds),
        "episode_seed": seeds[0],
    }


def _at_every_target(rows: Sequence[Row], targets: Sequence[float]) -> list[Row]:
    """Rows without a target once per target; others as they are."""
    return [
        row | {"target": target}
        for row in rows
        for target in (targets if row["target"] is None else [row["target"]])
    ]  # fmt: skip


def _configured_env_kwargs(config: Row, file: Path) -> Row:
    """The keyword arguments of the run's own environment; none without one."""
    if config["env_spec"] == NO_ENVIRONMENT:
        return {}
    try:
        kwargs = parse_json(config["env_spec"])["kwargs"]
        if not isinstance(kwargs, dict):
            raise TypeError(f"its keyword arguments are {kwargs!r}")
        return _plain(kwargs)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is damaged: its env_spec is not one of Gymnasium's; restore the file") from error


def _env_kwargs(row: Row, configured: Row) -> Row:
    """The keyword arguments of an episode's environment; rows without them are of the run's own environment."""
    return _plain(row["env_kwargs"]) if "env_kwargs" in row else configured


def _plain(kwargs: Row) -> Row:
    """The same with words for the numbers that JSON does not have."""
    return json.loads(json.dumps(kwargs), parse_constant=str)


def label_of(folder: Path) -> str:
    """The name of a run folder in a report: LABEL of LABEL-seedN, else the folder's name, in plain characters."""
    name = re.sub(r"-seed\d+$", "", folder.resolve().name)
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("_") or "run"

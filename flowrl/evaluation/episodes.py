"""Which episodes are played, the rows that come of them, and a table of these."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from flowrl.errors import InputError
from flowrl.evaluation.environments import make_vector_env
from flowrl.evaluation.reference_scores import DatasetReference, reference_scores
from flowrl.evaluation.rollout import rollout
from flowrl.evaluation.statistics import interquartile_mean, normalised
from flowrl.protocols import Actor
from flowrl.text import number, one_line, table
from flowrl.version import __version__


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes are played: every target meets the same environment seeds."""

    targets: tuple[str, ...] = ("p90", "best")
    """Target returns: numbers, `pNN` for a percentile of the dataset's episode returns, `best` for their best, and
    `rNN` for NN % of the way from their worst to their best; above 100 it lies beyond the data."""
    episodes: int = 20
    """Episodes per target; an agent that takes no target plays so many once."""
    episode_seed: int = 10_000
    """Episode i is played with environment seed `episode_seed + i`, whatever the agent and its training seed."""
    vector: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or in one process each."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}: it must be at least 1")
        if self.episode_seed < 0:
            raise ValueError(f"episode_seed is {self.episode_seed}: it must be at least 0")
        if self.vector not in ("sync", "async"):
            raise ValueError(f"vector is {self.vector!r}: known are sync, async")
        if not self.targets:
            raise ValueError("targets is empty: it must name at least one return, as in `p90 best 2500`")


@dataclass(eq=False)
class EvaluationEnvironment:
    """An environment that agents are evaluated in, and what is known of it."""

    spec: EnvSpec
    reference: DatasetReference | None = None
    """The reference scores that are stored with the dataset; used where the environment has no other."""
    offset: Sequence[float] | np.ndarray | None = None
    """(observation size,) of the data that the agent was trained on, see `make_vector_env`."""
    one_at_a_time: bool = False
    """Play one episode after another, see `flowrl.evaluation.trial`; `play` sets it where it finds that it must."""


def play(
    actor: Actor,
    env: EvaluationEnvironment,
    targets: Sequence[float],
    evaluation: EvaluationConfig,
    device: torch.device,
    *,
    kind: Literal["training", "final", "evaluate"],
    step: int,
) -> list[dict[str, Any]]:
    """Play every target on the same environment seeds in one vector environment.

    Where not as many environments can be made as there are episodes, they are played one after another.

    Args:
        targets: in raw units; an actor that takes none is played once, and its rows have the target None.
        kind: of the evaluation, for the rows.
        step: the training step of the weights, for the rows.

    Returns:
        A row per episode, as `evaluations.jsonl` holds it.

    Raises:
        InputError: as `rollout`.
    """
    seeds = [evaluation.episode_seed + i for i in range(evaluation.episodes)]
    goals = list(targets) if actor.conditioned else [None]
    spec = env.spec
    envs = _made(env, 1 if env.one_at_a_time else len(goals) * len(seeds), evaluation.vector)
    try:
        results = rollout(actor, envs, goals, seeds, device)
    finally:
        envs.close()
    known = reference_scores(spec.id, env.reference)
    references = {"score_d4rl": known.d4rl, "score_measured": known.flowrl, "score_dataset": known.dataset}
    pairs = {name: None if each is None else (each.random, each.expert) for name, each in references.items()}
    return [
        {
            "kind": kind,
            "step": step,
            "env": spec.id,
            "env_kwargs": json.loads(json.dumps(spec.kwargs, default=repr)),
            "rollout": actor.rollout,
            "acting_context": actor.acting_context,
            "target": result.target,
            "seed": result.seed,
            "return": result.episode_return,
            "length": result.length,
            "terminated": result.terminated,
            **{name: normalised(result.episode_return, pair) for name, pair in pairs.items()},
            "device": str(device),
            "versions": versions(),
        }
        for result in results
    ]


def _made(env: EvaluationEnvironment, slots: int, mode: Literal["sync", "async"]) -> VectorEnv:
    try:
        return make_vector_env(env.spec, slots, mode=mode, offset=env.offset)
    except InputError as error:
        if slots == 1:
            raise
        envs = make_vector_env(env.spec, 1, mode=mode, offset=env.offset)
        print(one_line(f"{error}; {slots} of them are too many, so episodes are played in turn"), flush=True)
        env.one_at_a_time = True  # the next time at once, and without saying so again
        return envs


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    packages = ("torch", "gymnasium", "mujoco", "minari", "numpy")
    own = {"python": platform.python_version(), "flowrl": __version__}
    return own | {package: version(package) for package in packages}


def episodes_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per target: returns, and scores; those by the dataset's references where there are any."""
    shown = {"score_d4rl": "score (D4RL references)", "score_measured": "score (flowrl references)"}
    if any(row.get("score_dataset") is not None for row in rows):
        shown["score_dataset"] = "score (dataset references)"
    lines = [["target", "mean", "std", "IQM", "length", *shown.values()]]
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        returns = np.array([row["return"] for row in mine])
        scores = [_mean([row[name] for row in mine]) for name in shown]
        lengths = [row["length"] for row in mine]
        values = [target, returns.mean(), returns.std(), interquartile_mean(returns), np.mean(lengths), *scores]
        lines.append([number(value) for value in values])
    return table(lines)


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None

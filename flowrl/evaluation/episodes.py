"""What train, evaluate and compare share: which episodes are played, where, and the rows that come of them."""

import ast
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from flowrl.errors import InputError, cause
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.evaluation.rollout import rollout
from flowrl.evaluation.statistics import interquartile_mean, normalised
from flowrl.protocols import Agent
from flowrl.scripts.cli import warn


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes are played: every target meets the same environment seeds."""

    targets: tuple[str, ...] = ("p90", "best")
    """Returns to ask for: numbers, `pNN` for a percentile of the dataset's episode returns, `best` for their best, and
    `rNN` for NN % of the way from their worst to their best; above 100 it lies beyond the data."""
    episodes: int = 20
    """Episodes per target."""
    episode_seed: int = 10_000
    """Episode i is played with environment seed `episode_seed + i`, whatever the agent and its training seed."""
    vector: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or in one process each."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}: it must be at least 1")
        if self.episode_seed < 0:
            raise ValueError(f"episode_seed is {self.episode_seed}: it must be at least 0")
        if not self.targets:
            raise ValueError("targets is empty: it must name at least one return, as in `p90 best 2500`")


def play(
    agent: Agent,
    env: EnvSpec,
    targets: Sequence[float],
    evaluation: EvaluationConfig,
    device: torch.device,
    *,
    kind: Literal["training", "final", "evaluate"],
    step: int,
) -> list[dict[str, Any]]:
    """Play every target on the same seeds in one vector env; a row per episode."""
    seeds = [evaluation.episode_seed + i for i in range(evaluation.episodes)]
    envs = make_vector_env(env, len(targets) * len(seeds), mode=evaluation.vector)
    try:
        results = rollout(agent, envs, targets, seeds, device)
    finally:
        envs.close()
    known = reference_scores(env.id)
    how = getattr(getattr(agent, "config", None), "acts", "memoryless")
    acting = getattr(agent, "acting", None)
    d4rl, measured = (None if r is None else (r.random, r.expert) for r in (known.d4rl, known.flowrl))
    return [
        {
            "kind": kind,
            "step": step,
            "env": known.env_id,
            "env_kwargs": json.loads(json.dumps(env.kwargs, default=repr)),
            "rollout": how,
            "acting_context": None if acting is None or how == "recurrent" else acting.context,
            "target": result.target,
            "seed": result.seed,
            "return": result.achieved,
            "length": result.length,
            "terminated": result.terminated,
            "score_d4rl": normalised(result.achieved, d4rl),
            "score_measured": normalised(result.achieved, measured),
            "device": str(device),
            "versions": versions(),
        }
        for result in results
    ]


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    packages = ("flowrl", "torch", "gymnasium", "mujoco", "minari", "numpy")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def environment(
    env_id: str | None, dataset_env: EnvSpec | None, dataset_id: str, keywords: Sequence[str] = ()
) -> EnvSpec:
    """The environment to play in: the one asked for, else the dataset's.

    Args:
        keywords: NAME=VALUE, what its constructor is told beside or instead of what it is told already; see
            `read_keywords`.

    Raises:
        InputError: it is unknown or cannot be made here, or there is none, or it cannot be told so.
    """
    env = env_id or dataset_env
    if env is None:
        raise InputError(f"dataset {dataset_id} names no environment: give one with --env")
    told = read_keywords(keywords)
    try:
        return _told(env, told) if told else _made_spec(make_env(env))
    except ValueError as error:
        raise InputError(str(error)) from error


def read_keywords(words: Sequence[str]) -> dict[str, Any]:
    """Of NAME=VALUE words: a value is a Python literal, or true, false, none or null in any case, or else a name.

    Raises:
        InputError: one of them is not of this form or not of values that JSON has, is given twice, or is not an
            environment's own matter.
    """
    told: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--env-kwargs {word}: it must be NAME=VALUE, as length=300 (run folders come before it)")
        if name in told or name == "render_mode":
            why = "is given twice" if name in told else "is not to be chosen here"
            raise InputError(f"--env-kwargs {word}: {name} {why}")
        try:
            # Through JSON, as it will be read back: a tuple is a list.
            value = _WORDS[text.casefold()] if text.casefold() in _WORDS else ast.literal_eval(text)
            told[name] = json.loads(json.dumps(value, allow_nan=False))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            if not re.fullmatch(r"[A-Za-z_./~][\w./:~-]*", text) or text.casefold() in ("nan", "inf", "infinity"):
                raise InputError(
                    f"--env-kwargs {word}: {text!r} is no value; write a finite number, True, False, None, a name, or a"
                    " list of these"
                ) from None
            told[name] = text
    return told


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def _told(env: str | EnvSpec, told: dict[str, Any]) -> EnvSpec:
    """The spec of `env` told so, after one step of it: some environments find out only then what they cannot use."""
    if isinstance(env, str):
        env = gym.registry.get(env) or _made_spec(make_env(env))
    words = " ".join(f"{name}={value}" for name, value in told.items())
    try:
        made = make_env(replace(env, kwargs={**env.kwargs, **told}))
        try:
            made.reset(seed=0)
            made.action_space.seed(0)
            observation, reward, *_ = made.step(made.action_space.sample())
            if not (np.isfinite(float(reward)) and np.isfinite(np.asarray(observation, dtype=np.float64)).all()):
                raise ValueError("its first step is not of finite numbers")
            return _made_spec(made)
        finally:
            made.close()
    except Exception as error:  # whatever an environment's own code raises on a value that is not for it
        raise InputError(f"--env-kwargs {words}: {env.id} cannot be told so: {cause(error)}") from error


def _made_spec(made: gym.Env) -> EnvSpec:
    made.close()
    spec = made.spec
    assert spec is not None
    name = getattr(spec.entry_point, "__qualname__", "")
    if name.isidentifier():  # a run keeps the spec as JSON, which holds the name of a class and not the class
        spec = replace(spec, entry_point=f"{spec.entry_point.__module__}:{name}")
    return spec


def check_spaces(env: EnvSpec, observation_size: int, action_size: int, discrete_start: int | None) -> None:
    """Raise InputError where an environment's spaces are not those of the data.

    Args:
        observation_size: features of an observation in the data, all of them.
        action_size: features of an action, or the number of choices.
        discrete_start: the number of the first choice; None for real actions.
    """
    made = make_env(env)
    made.close()
    observation, action = made.observation_space, made.action_space
    if observation.shape != (observation_size,):
        raise InputError(
            f"the observation of {env.id} has shape {observation.shape}: the data have {(observation_size,)}"
        )
    if discrete_start is None:
        due, same = f"({action_size},)", isinstance(action, gym.spaces.Box) and action.shape == (action_size,)
    else:
        due = f"Discrete({action_size}, start={discrete_start})"
        same = action == gym.spaces.Discrete(action_size, start=discrete_start)
    if not same:
        found = f"has shape {action.shape}" if isinstance(action, gym.spaces.Box) else f"is {action}"
        raise InputError(f"the action of {env.id} {found}: the data have {due}")


def resolve_targets(words: Sequence[str], percentiles: Sequence[float]) -> list[float]:
    """Turn `best`, `pNN`, `rNN` and numbers into returns, each once; warn on stderr of numbers far from the data.

    Args:
        percentiles: the 0th to the 100th percentile of the dataset's episode returns.

    Raises:
        InputError: a word is none of these.
    """
    low, high = percentiles[0], percentiles[-1]
    targets: list[float] = []
    for word in words:
        if word == "best":
            target = high
        elif match := re.fullmatch(r"p(\d{1,2}|100)", word):
            target = percentiles[int(match[1])]
        elif match := re.fullmatch(r"r(\d{1,2}|1\d\d|200)", word):
            # Rounding may put the whole way a little beyond the best return.
            target = high if match[1] == "100" else low + (high - low) * (int(match[1]) / 100)
        else:
            try:
                target = float(word)
            except ValueError:
                target = float("nan")
            if not np.isfinite(target):
                raise InputError(
                    f"target {word!r} is neither a number, nor pNN (0 to 100), nor rNN (0 to 200), nor best"
                )
            _warn_if_far(target, low, high)
        if target not in targets:
            targets.append(target)
    return targets


def _warn_if_far(target: float, low: float, high: float) -> None:
    span = max(high - low, 1e-6)
    if target < 0 < low or high < 0 < target:
        trouble = "has the wrong sign"
    elif target > high + span / 4 or target < low - span / 4:
        trouble = "is far beyond the data"
    else:
        return
    warn(f"target {target:,.1f} {trouble}: returns in the dataset are {low:,.1f} to {high:,.1f}")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per target: what was asked, what came."""
    lines = [f"{'target':>10} {'mean':>10} {'std':>9} {'IQM':>10} {'length':>8} {'D4RL score':>11} {'own score':>10}"]
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        returns = np.array([row["return"] for row in mine])
        scores = [_mean_or_dash([row[name] for row in mine]) for name in ("score_d4rl", "score_measured")]
        lines.append(
            f"{target:>10,.1f} {returns.mean():>10,.1f} {returns.std():>9,.1f} {interquartile_mean(returns):>10,.1f}"
            f" {np.mean([row['length'] for row in mine]):>8,.1f} {scores[0]:>11} {scores[1]:>10}"
        )
    return "\n".join(lines)


def _mean_or_dash(scores: Sequence[float | None]) -> str:
    known = [score for score in scores if score is not None]
    return f"{np.mean(known):.1f}" if known else "-"


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here: {cause(error)}") from error
    return device

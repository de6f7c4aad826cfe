"""Making environments, and vector environments whose slots play exactly one episode for each seed."""

import difflib
import importlib
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from flowrl.errors import InputError, cause, kind_and_cause
from flowrl.evaluation.as_recorded import to_play
from flowrl.evaluation.guard import RAISED, Guarded, five, two
from flowrl.evaluation.slots import Centred, OneEpisode
from flowrl.evaluation.trust import check_spec, trusting
from flowrl.evaluation.worker_processes import WorkerProcesses

__all__ = ["FlatObservation", "OneEpisode", "cores", "make_env", "make_vector_env"]

OURS = "flowrl/"  # namespace of our own environments


class FlatObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Observations as one row: Tuple entries in order, Dict entries by name, Discrete as one-hot, arrays flat.

    Gymnasium's own `FlattenObservation` keeps the order in which a space lists its entries, but a stored dataset does
    not have that order. Run folders name this class by its module, so it stays here.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._sorted = _sorted(env.observation_space)
        self.observation_space = gym.spaces.flatten_space(self._sorted)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; its first observation is a row.

        Raises:
            InputError: it speaks another interface, or its observation does not fit its space.
        """
        observation, info = two(self.env.reset(seed=seed, options=options))
        return self.observation(observation), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment; its observation is a row. Raises as `reset` does."""
        observation, reward, terminated, truncated, info = five(self.env.step(action))
        return self.observation(observation), reward, terminated, truncated, info

    def observation(self, observation: Any) -> Any:
        """The row (d,) of one observation, in the precision in which the environment returned it.

        Raises:
            InputError: it does not fit the space.
        """
        try:
            return np.concatenate(list(_flat(self._sorted, observation)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"its observation does not fit its space ({kind_and_cause(error)})") from error

    def structured(self, row: Any) -> Any:
        """The observation whose row (d,) this is."""
        return gym.spaces.unflatten(self._sorted, row)


def _sorted(space: gym.Space) -> gym.Space:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(name, _sorted(space.spaces[name])) for name in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_sorted(part) for part in space.spaces])
    return space


def _flat(space: gym.Space, value: Any) -> Iterator[Any]:
    """The parts of a row; Gymnasium's `flatten` would cast them to the type that the space declares."""
    if isinstance(space, gym.spaces.Dict):
        for name, part in space.spaces.items():
            yield from _flat(part, value[name])
    elif isinstance(space, gym.spaces.Tuple):
        for part, each in zip(space.spaces, value, strict=True):
            yield from _flat(part, each)
    elif isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        yield np.asarray(value).ravel()
    else:
        yield gym.spaces.flatten(space, value)


def make_env(env: str | EnvSpec, *, render_mode: str | None = None) -> Guarded:
    """`gymnasium.make` without its per-step checks, for an environment id or the spec of a dataset or run.

    Observations that are not flat arrays become rows, see `FlatObservation`, and what the environment does amiss is a
    sentence, see `Guarded`. A spec of one of our own environments gets the registered entry point: the one that an
    older flowrl stored may name a module that has moved, or that now belongs to another project. How a stored one was
    rendered, or reset by itself, is left out: there is a picture, or a window, only where this call asks for it.

    Raises:
        InputError: the id is not registered (the message names the nearest ones), it cannot be made here, or a spec
            names code that may not be run, see `flowrl.evaluation.trust`.
    """
    env = _checked(env)
    name = _name(env)
    keywords: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with warnings.catch_warnings():
        # D4RL's data belong to the -v4 environments: that a -v5 exists is no news.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            made = gym.make(_without_window(env), disable_env_checker=True, **keywords)
            return Guarded(_with_rows(made), name)
        except RAISED as error:  # its own code may raise anything
            raise InputError(_not_made(env, name, error)) from error


def _checked(env: str | EnvSpec) -> str | EnvSpec:
    """An environment whose code may be run; of our own the present one, as `make_env` says.

    Raises:
        InputError: a spec names code that may not be run, or that is not here.
    """
    if not isinstance(env, EnvSpec):
        return env
    env = to_play(env)
    if env.id.startswith(OURS) and env.id in gym.registry:
        env = replace(env, entry_point=gym.registry[env.id].entry_point)
    try:
        check_spec(env)
    except ImportError as error:
        raise InputError(_not_made(env, _name(env), error)) from error
    return env


def _without_window(env: str | EnvSpec) -> str | EnvSpec:
    """The environment of a registered id without the render mode of its registration; a spec as it is."""
    if isinstance(env, EnvSpec):
        return env
    module, _, registered = env.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gym.registry.get(registered)
    return env if spec is None or (plain := to_play(spec)) is spec else plain


def _with_rows(env: gym.Env) -> gym.Env:
    """The environment with flat arrays as observations."""
    for what in ("observation", "action"):
        if not isinstance(getattr(env, f"{what}_space", None), gym.Space):
            raise InputError(f"it has no {what} space")
    space = env.observation_space
    return env if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 else FlatObservation(env)


def _not_made(env: str | EnvSpec, name: str, error: BaseException) -> str:
    """Why an environment could not be made."""
    if isinstance(error, gym.error.UnregisteredEnv | gym.error.DeprecatedEnv):
        return _unknown(name)
    if isinstance(error, gym.error.Error) and isinstance(env, str) and env.rpartition(":")[2] not in gym.registry:
        return _unknown(name)
    # The advice of a package that misses another one is worth more than a line.
    whole = isinstance(error, gym.error.DependencyNotInstalled | ImportError | InputError)
    words = str(error) if whole else kind_and_cause(error)
    if isinstance(error, RuntimeError | AttributeError) and _of_renderer(error):
        gl = os.environ.get("MUJOCO_GL")
        words = str(error) + (f" (MUJOCO_GL is {gl!r})" if gl else "")
    return f"environment {name!r} cannot be made here: {words}"


def _of_renderer(error: BaseException) -> bool:
    """Whether mujoco or OpenGL's loader raised it: their way to refuse a renderer that is unknown or not installed."""
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.partition(".")[0] in ("mujoco", "OpenGL") for name in names)


def make_vector_env(
    env: str | EnvSpec,
    num_envs: int,
    *,
    mode: Literal["sync", "async"] = "sync",
    render_mode: str | None = None,
    offset: Sequence[float] | np.ndarray | None = None,
) -> gym.vector.VectorEnv:
    """`num_envs` copies of one environment, each wrapped in `OneEpisode`.

    Call `reset(seed=[...])` with one seed a slot, then `step(actions)`, actions (num_envs, a), until every slot has
    flagged its end. `sync` steps the slots in this process, `async` in one process each (worth it only for
    simulators that take milliseconds a step).

    Args:
        offset: (observation size,) of the dataset, subtracted from observations in float64; None for none.

    Raises:
        InputError: as `make_env`.
        ValueError: unknown mode, or `num_envs` below 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    if mode not in ("sync", "async"):
        raise ValueError(f"unknown vector mode {mode!r}; known are 'sync' and 'async'")
    env = _checked(env)
    make = partial(_one_episode, env, render_mode, offset)
    if mode == "async":
        return WorkerProcesses(make, num_envs, _name(env))
    made: list[gym.Env] = []
    try:
        for _ in range(num_envs):
            made.append(make())
        return gym.vector.SyncVectorEnv([partial(_same, one) for one in made])
    except Exception as error:
        for one in made:  # one that allows a few at a time can be made again
            one.close()
        if isinstance(error, RuntimeError):  # the spaces differ
            raise InputError(f"environment {_name(env)}: {cause(error)}") from error
        raise


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_episode(
    env: str | EnvSpec, render_mode: str | None, offset: Sequence[float] | np.ndarray | None = None
) -> gym.Env:
    with trusting(True):  # it was checked above, maybe in another process
        made = make_env(env, render_mode=render_mode)
    return OneEpisode(made if offset is None else Centred(made, offset))


def _same(env: gym.Env) -> gym.Env:
    return env


def _name(env: str | EnvSpec) -> str:
    return env if isinstance(env, str) else env.id


def _unknown(name: str) -> str:
    known = sorted(gym.registry)
    folded = {known_id.casefold(): known_id for known_id in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=4, cutoff=0.6)]
    hint = f"near names are {', '.join(near)}" if near else f"examples are Hopper-v5, {known[-1]}"
    return f"unknown environment {name!r}; {hint}"

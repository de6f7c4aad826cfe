"""Making environments, and vector environments whose slots play exactly one episode for each seed."""

import difflib
import os
import traceback
import warnings
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from flowrl.errors import InputError
from flowrl.evaluation.as_recorded import to_play

__all__ = ["FlatObservation", "OneEpisode", "cores", "make_env", "make_vector_env"]

OURS = "flowrl/"  # namespace of our own environments


class FlatObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Observations as one row: Tuple entries in order, Dict entries by name, Discrete as one-hot, arrays flat.

    Gymnasium's own `FlattenObservation` keeps the order in which a space lists its entries, but a stored dataset does
    not have that order.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._sorted = _sorted(env.observation_space)
        self.observation_space = gym.spaces.flatten_space(self._sorted)

    def observation(self, observation: Any) -> Any:
        """The row (d,) of one observation."""
        return gym.spaces.flatten(self._sorted, observation)

    def structured(self, row: Any) -> Any:
        """The observation whose row (d,) this is."""
        return gym.spaces.unflatten(self._sorted, row)


def _sorted(space: gym.Space) -> gym.Space:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(name, _sorted(space.spaces[name])) for name in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_sorted(part) for part in space.spaces])
    return space


class OneEpisode(gym.Wrapper):
    """Play one episode per seeded `reset`; after its end the simulator rests until the next seed.

    Once the episode has ended, `step` and `reset()` without a seed (a vector environment's autoreset, in any mode)
    return the last observation, reward 0 and no flag: the end is flagged once, and no second episode starts. Only the
    first `reset` may omit the seed. Infos are dropped: merging them costs a vector environment as much as a cheap
    simulator does.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._observation: Any = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`; without a seed, return the last observation and start nothing.

        Raises:
            ValueError: no seed in the middle of an episode, which could mean a new episode or none.
        """
        if seed is None and self._observation is not None:
            if not self._over:
                raise ValueError("reset() without a seed in the middle of an episode; give a seed to start another")
            return self._observation, {}
        self._observation, _ = self.env.reset(seed=seed, options=options)
        self._over = False
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the simulator, or nothing at all once the episode has ended."""
        if self._over:
            return self._observation, 0.0, False, False, {}
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        self._over = bool(terminated or truncated)
        return self._observation, float(reward), bool(terminated), bool(truncated), {}


def make_env(env: str | EnvSpec, *, render_mode: str | None = None) -> gym.Env:
    """`gymnasium.make` without its per-step checks, for an environment id or the spec of a dataset or run.

    Observations that are not flat arrays become rows, see `FlatObservation`. A spec of one of our own environments
    gets the registered entry point: the one that an older flowrl stored may name a module that has moved, or that now
    belongs to another project. How a stored one was rendered, or reset by itself, is left out.

    Raises:
        InputError: the id is not registered (the message names the nearest ones), or it cannot be made here.
    """
    if isinstance(env, EnvSpec):
        env = to_play(env)
        if env.id.startswith(OURS) and env.id in gym.registry:
            env = replace(env, entry_point=gym.registry[env.id].entry_point)
    keywords: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with warnings.catch_warnings():
        # D4RL's data belong to the -v4 environments: that a -v5 exists is no news.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            made = gym.make(env, disable_env_checker=True, **keywords)
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise InputError(f"environment {_name(env)!r} cannot be made here: {error}") from error
        except (RuntimeError, AttributeError) as error:
            if not _of_renderer(error):
                raise
            renderer = f" (MUJOCO_GL is {gl!r})" if (gl := os.environ.get("MUJOCO_GL")) else ""
            raise InputError(f"environment {_name(env)!r} cannot be made here: {error}{renderer}") from error
        except gym.error.Error:
            raise InputError(_unknown(_name(env))) from None
    space = made.observation_space
    is_flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    return made if is_flat else FlatObservation(made)


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
) -> gym.vector.VectorEnv:
    """`num_envs` copies of one environment, each wrapped in `OneEpisode`.

    Call `reset(seed=[...])` with one seed a slot, then `step(actions)`, actions (num_envs, a), until every slot has
    flagged its end. `sync` steps the slots in this process, `async` in one process each (worth it only for
    simulators that take milliseconds a step).

    Raises:
        InputError: as `make_env`.
        ValueError: unknown mode, or `num_envs` below 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    if mode not in ("sync", "async"):
        raise ValueError(f"unknown vector mode {mode!r}; known are 'sync' and 'async'")
    # A worker process would end in a traceback at a bad id: make one environment here first.
    make_env(env).close()
    makers = [partial(_one_episode, env, render_mode)] * num_envs
    if mode == "sync":
        return gym.vector.SyncVectorEnv(makers)
    return gym.vector.AsyncVectorEnv(makers)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_episode(env: str | EnvSpec, render_mode: str | None) -> gym.Env:
    return OneEpisode(make_env(env, render_mode=render_mode))


def _name(env: str | EnvSpec) -> str:
    return env if isinstance(env, str) else env.id


def _unknown(name: str) -> str:
    known = sorted(gym.registry)
    folded = {known_id.casefold(): known_id for known_id in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=4, cutoff=0.6)]
    hint = f"near names are {', '.join(near)}" if near else f"examples are Hopper-v5, {known[-1]}"
    return f"unknown environment {name!r}; {hint}"

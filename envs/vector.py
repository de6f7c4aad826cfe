"""Vector environments for evaluation: every slot plays exactly one episode for each seed it is given."""

import difflib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

__all__ = ["FlatObservation", "OneEpisode", "ShardedVectorEnv", "make_env", "make_vector_env"]

WORTH_PROCESSES = 32  # slots from which starting worker processes pays


class FlatObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Observations as one row: Tuple entries in order, Dict entries by name, Discrete as one-hot, arrays flat.

    By name and not as the space happens to list them (Gymnasium's own `FlattenObservation`), since that order is
    lost where a dataset's spaces are stored.
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
        """The observation that a row (d,) was made of."""
        return gym.spaces.unflatten(self._sorted, row)


def _sorted(space: gym.Space) -> gym.Space:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(name, _sorted(space.spaces[name])) for name in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_sorted(part) for part in space.spaces])
    return space


class OneEpisode(gym.Wrapper):
    """Play one episode per seeded `reset`; after its end the simulator rests until the next seed.

    Once the episode has ended, `step` and `reset()` without a seed (a vector environment's autoreset, whatever its
    mode) return the last observation, reward 0 and no flag: the end is announced once, and no second episode starts.
    The very first `reset` may come without a seed. Infos are dropped: merging them costs a vector environment
    as much as a cheap simulator does.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._observation: Any = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`; without a seed, return the last observation and start nothing.

        Raises:
            ValueError: without a seed in the middle of an episode, which could mean either of the two.
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
    """`gymnasium.make` without its per-step checks, for an environment id or the spec a dataset carries.

    Observations that are not flat arrays are made so, see `FlatObservation`.

    Raises:
        ValueError: the id is not registered (names the nearest ones), or a package it needs is missing.
    """
    keywords: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    with warnings.catch_warnings():
        # D4RL's data belong to the -v4 environments: that a -v5 exists is no news.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            made = gym.make(env, disable_env_checker=True, **keywords)
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise ValueError(f"environment {_name(env)!r} cannot be made here: {error}") from error
        except gym.error.Error:
            raise ValueError(_unknown(_name(env))) from None
    space = made.observation_space
    is_flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    return made if is_flat else FlatObservation(made)


class ShardedVectorEnv(VectorEnv):
    """A `SyncVectorEnv` dealt out to worker processes: each steps its share of the slots, all at the same time.

    The results are those of a `SyncVectorEnv`, bit by bit; infos are dropped. Gymnasium's `AsyncVectorEnv` has a
    process for every slot, which costs more in switching between them than a MuJoCo step takes.

    Args:
        maker: makes one environment; called in the workers and once here.
        num_envs: slots.
        processes: workers, at most one a slot.
    """

    def __init__(self, maker: Callable[[], gym.Env], num_envs: int, processes: int) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.Process] = []
        made = maker()
        self.single_observation_space, self.single_action_space = made.observation_space, made.action_space
        self.metadata = dict(made.metadata) | {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode, self.spec = made.render_mode, made.spec
        made.close()
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # Dealt like cards: neighbours share a target, so their episodes end at about the same time.
        workers = min(processes, num_envs)
        self._shares = [slice(first, None, workers) for first in range(workers)]
        for first in range(workers):
            ours, theirs = multiprocessing.Pipe()
            makers = [maker] * len(range(first, num_envs, workers))
            process = multiprocessing.Process(target=_serve, args=(theirs, ours, makers), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Reset every slot; `seed` is one for each slot, or the first slot's."""
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + slot for slot in range(self.num_envs)]
        (observations,) = self._ask("reset", [{"seed": seed[share], "options": options} for share in self._shares])
        return observations, {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every slot with its row of `actions`."""
        observations, rewards, ends, cuts = self._ask("step", [{"actions": actions[share]} for share in self._shares])
        return observations, rewards, ends, cuts, {}

    def _ask(self, name: str, arguments: list[dict[str, Any]]) -> list[NDArray[Any]]:
        """Every worker's answer to a call of its `SyncVectorEnv`, put together in the order of the slots."""
        for pipe, keywords in zip(self._pipes, arguments, strict=True):
            pipe.send((name, keywords))
        answers = [pipe.recv() for pipe in self._pipes]  # all of them, also where one is an error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        whole = []
        for parts in zip(*answers, strict=True):
            array = np.empty((self.num_envs, *parts[0].shape[1:]), parts[0].dtype)
            for share, part in zip(self._shares, parts, strict=True):
                array[share] = part
            whole.append(array)
        return whole

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()  # which a worker takes as the end
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, parents: Connection, makers: list[Callable[[], gym.Env]]) -> None:
    """A worker: call the `SyncVectorEnv` of its share as it is told, until the other end of the pipe is closed."""
    parents.close()  # this copy of it would keep the pipe open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    envs = SyncVectorEnv(makers, copy=False)
    while True:
        try:
            name, keywords = pipe.recv()
        except EOFError:
            break
        try:
            *arrays, _ = getattr(envs, name)(**keywords)
            pipe.send(arrays)
        except Exception as error:
            pipe.send(error)
    envs.close()


def make_vector_env(
    env: str | EnvSpec,
    num_envs: int,
    *,
    mode: Literal["auto", "sync", "async"] = "sync",
    render_mode: str | None = None,
) -> VectorEnv:
    """`num_envs` copies of one environment, each wrapped in `OneEpisode`.

    Call `reset(seed=[...])` with one seed a slot, then `step(actions)`, actions (num_envs, a), until every slot has
    announced its end. `sync` steps the slots in this process, `async` in a worker process for each core, with the same
    results; `auto` is `async` where there are several cores and slots enough to pay for it.

    Raises:
        ValueError: unknown environment (names the nearest ones), unknown mode, or `num_envs` below 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    if mode not in ("auto", "sync", "async"):
        raise ValueError(f"unknown vector mode {mode!r}; known are 'auto', 'sync' and 'async'")
    maker = partial(_one_episode, env, render_mode)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if mode == "async" or (mode == "auto" and cores > 1 and num_envs >= WORTH_PROCESSES):
        return ShardedVectorEnv(maker, num_envs, cores)
    return SyncVectorEnv([maker] * num_envs)


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

"""Playing whole episodes with behavior policies, in this process or in several."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.data.minari_store import Episode
from flowrl.envs.behavior import BehaviorPolicy, Remembering
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.trial import try_environment
from flowrl.training.tracking import warn

__all__ = ["EpisodePlayer", "play_episodes"]


class EpisodePlayer:
    """Plays whole episodes, raw, into buffers of the longest one's size, used again for each: no Python lists.

    Raises:
        InputError: the environment has no time limit, or its observations or actions are not arrays.
    """

    def __init__(self, env: gym.Env) -> None:
        if env.spec is None or env.spec.max_episode_steps is None:
            raise InputError(f"{env} has no time limit, so an episode might never end")
        observation, action, horizon = env.observation_space, env.action_space, env.spec.max_episode_steps
        if not isinstance(observation, gym.spaces.Box) or not isinstance(action, gym.spaces.Box):
            raise InputError(f"{env} has the spaces {observation} and {action}; Box spaces are supported")
        self._env = env
        self._observations = np.empty((horizon + 1, *observation.shape), observation.dtype)
        self._actions = np.empty((horizon, *action.shape), np.float32)
        self._rewards = np.empty(horizon)

    def episode(self, policy: BehaviorPolicy, seed: int, index: int, *, sample: bool = True) -> Episode:
        """Episode `index` of the stream `seed`: it depends on (seed, index) and the policy alone.

        One half of (seed, index) seeds the environment's reset, the other the sampled actions.

        Args:
            sample: False takes the policy's deterministic actions.

        Returns:
            Actions are float32, exactly as the environment received them; rewards float64.
        """
        for_reset, for_actions = np.random.SeedSequence((seed, index)).spawn(2)
        reset_seed = int(for_reset.generate_state(1)[0])
        generator = np.random.default_rng(for_actions) if sample else None
        if isinstance(policy, Remembering):
            policy = policy.begin()
        observation, _ = self._env.reset(seed=reset_seed)
        self._observations[0] = observation
        time, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            action = np.array(policy.act(observation, generator))  # a copy, which the environment may change
            self._actions[time] = action
            observation, reward, terminated, truncated, _ = self._env.step(action)
            self._rewards[time] = reward
            time += 1
            self._observations[time] = observation
        terminations, truncations = np.zeros(time, bool), np.zeros(time, bool)
        terminations[-1], truncations[-1] = terminated, truncated
        return Episode(
            self._observations[: time + 1].copy(),
            self._actions[:time].copy(),
            self._rewards[:time].copy(),
            terminations,
            truncations,
            reset_seed,
        )


def play_episodes(
    env: str | EnvSpec, policies: Sequence[BehaviorPolicy], steps: int, seed: int, jobs: int = 1
) -> Iterator[Episode]:
    """Play whole episodes with each policy in turn, each until its equal share of `steps` is reached.

    Episodes are counted over all policies, and episode i depends on (seed, i) and its policy alone. The last episode
    of a share is played to its end: rather more than `steps` steps in all, and at least one episode a policy.

    Args:
        jobs: processes that play; the episodes are the same, in the same order, for any number of them. An environment
            that allows one at a time is played in this process.

    Raises:
        InputError: `steps` or `jobs` below 1, no policy, or an environment that fails or `EpisodePlayer` cannot play.
    """
    if steps < 1 or jobs < 1 or not policies:
        raise InputError(f"needs at least one step, one policy and one job, not {steps}, {len(policies)} and {jobs}")
    trial = try_environment(env, episodes=jobs)
    warn(*trial.cautions)
    playing = make_env(env)
    player = EpisodePlayer(playing)
    share = -(-steps // len(policies))
    jobs = 1 if trial.one_at_a_time else jobs
    if jobs == 1:
        return _here(playing, player, policies, share, seed)
    playing.close()
    return _side_by_side(env, policies, share, seed, jobs)


def _here(
    env: gym.Env, player: EpisodePlayer, policies: Sequence[BehaviorPolicy], share: int, seed: int
) -> Iterator[Episode]:
    try:
        yield from _in_order(
            lambda policy, index: lambda: player.episode(policies[policy], seed, index), policies, share
        )
    finally:
        env.close()


def _in_order(
    start: Callable[[int, int], Callable[[], Episode]], policies: Sequence[BehaviorPolicy], share: int, ahead: int = 1
) -> Iterator[Episode]:
    """The episodes of each policy until its share is reached.

    Args:
        start: ``start(policy, index)`` starts an episode and returns a function that waits for it.
        ahead: episodes started at a time; those beyond the share are dropped.
    """
    index = 0
    for policy in range(len(policies)):
        played, started = 0, deque[Callable[[], Episode]]()
        while played < share:
            while len(started) < ahead:
                started.append(start(policy, index + len(started)))
            episode = started.popleft()()
            index += 1
            played += len(episode.rewards)
            yield episode


def _side_by_side(
    env: str | EnvSpec, policies: Sequence[BehaviorPolicy], share: int, seed: int, jobs: int
) -> Iterator[Episode]:
    # Spawned, not forked: a policy may have started threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (env, tuple(policies), seed)) as pool:
        try:
            yield from _in_order(lambda *which: pool.submit(_play, *which).result, policies, share, 2 * jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(env: str | EnvSpec, policies: tuple[BehaviorPolicy, ...], seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker.update(player=EpisodePlayer(make_env(env)), policies=policies, seed=seed)
    except InputError as error:  # raised here it would not be told
        _worker.update(failure=error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _play(policy: int, index: int) -> Episode:
    if "failure" in _worker:
        raise _worker["failure"]
    return _worker["player"].episode(_worker["policies"][policy], _worker["seed"], index)

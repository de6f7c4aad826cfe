"""Playing whole episodes with behavior policies, in this process or in several."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.data.minari_store import Episode
from flowrl.envs.behavior import BehaviorPolicy, Remembering
from flowrl.envs.side_by_side import Workers
from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env
from flowrl.evaluation.trial import try_environment
from flowrl.training.tracking import warn

__all__ = ["EpisodePlayer", "play_episodes", "stored_type"]


def stored_type(space: gym.Space) -> type[np.generic]:
    """The type of stored actions: int64 for whole numbers, float32 for others."""
    return np.int64 if np.issubdtype(space.dtype, np.integer) else np.float32


class EpisodePlayer:
    """Plays whole episodes, raw, into buffers of the longest one's size, used again for each: no Python lists.

    Raises:
        InputError: the environment has no time limit, its observations are no arrays, or its actions neither arrays nor
            Discrete.
    """

    def __init__(self, env: gym.Env) -> None:
        if env.spec is None or env.spec.max_episode_steps is None:
            raise InputError(f"{env} has no time limit, so an episode might never end")
        observation, action, horizon = env.observation_space, env.action_space, env.spec.max_episode_steps
        if not isinstance(observation, gym.spaces.Box) or not isinstance(action, gym.spaces.Box | gym.spaces.Discrete):
            raise InputError(
                f"{env} has the spaces {observation} and {action}: a Box and a Box or Discrete are supported"
            )
        self._env = env
        self._observations = np.empty((horizon + 1, *observation.shape), observation.dtype)
        self._actions = np.empty((horizon, *(action.shape or ())), stored_type(action))
        self._whole = self._actions.dtype == np.int64
        self._rewards = np.empty(horizon)

    def episode(self, policy: BehaviorPolicy, seed: int, index: int, *, sample: bool = True) -> Episode:
        """Episode `index` of the stream `seed`: it depends on (seed, index) and the policy alone.

        One half of (seed, index) seeds the environment's reset, the other the sampled actions.

        Args:
            sample: False takes the policy's deterministic actions.

        Returns:
            Actions are exactly as the environment received them: float32, or whole numbers as int64. Observations are
            as it returned them; rewards float64.
        """
        for_reset, for_actions = np.random.SeedSequence((seed, index)).spawn(2)
        reset_seed = int(for_reset.generate_state(1)[0])
        generator = np.random.default_rng(for_actions) if sample else None
        if isinstance(policy, Remembering):
            policy = policy.begin()
        observation, _ = self._env.reset(seed=reset_seed)
        self._observations = self._observations.astype(np.asarray(observation).dtype, copy=False)
        self._observations[0] = observation
        time, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            action = np.array(policy.act(observation, generator))  # a copy, which the environment may change
            if self._whole:
                action = np.rint(action).astype(np.int64)[()]
            self._actions[time] = action
            observation, reward, terminated, truncated, _ = self._env.step(action)
            self._rewards[time] = reward
            time += 1
            self._keep(time, observation)
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

    def _keep(self, time: int, observation: Any) -> None:
        """An observation as it is returned, whatever type the space declares."""
        kind = np.asarray(observation).dtype
        if kind != self._observations.dtype:
            self._observations = self._observations.astype(np.result_type(kind, self._observations.dtype), copy=False)
        self._observations[time] = observation


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
        InputError: `steps` or `jobs` below 1, no policy, an environment that fails or that `EpisodePlayer` cannot
            play, or a process that was killed.
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
    with Workers(_player, (env, tuple(policies), seed), jobs) as workers:
        yield from _in_order(workers.start, policies, share, 2 * jobs)


def _player(env: str | EnvSpec, policies: tuple[BehaviorPolicy, ...], seed: int) -> Callable[[int, int], Episode]:
    player = EpisodePlayer(make_env(env))
    return lambda policy, index: player.episode(policies[policy], seed, index)

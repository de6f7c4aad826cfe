"""A trial of the environment before hours of training: one reset and one step, as evaluation will do them."""

from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.errors import InputError
from flowrl.evaluation.environments import make_env, make_vector_env
from flowrl.evaluation.rollout import any_action

__all__ = ["UNTRIED", "Trial", "try_environment"]

BEYOND = 1e-3  # of a bound's size: an observation farther out does not only round otherwise


class Trial(NamedTuple):
    """What a trial found out about an environment that can be played."""

    one_at_a_time: bool
    """Two at once fail or disturb each other, so episodes are played one after another."""
    cautions: tuple[str, ...]
    """Sentences on what is not as it should be."""


UNTRIED = Trial(False, ())


class _Seen(NamedTuple):
    """What a slot returned: observations (d,) of the reset and of the step, and the reward."""

    first: np.ndarray
    second: np.ndarray
    reward: float


def try_environment(
    env: str | EnvSpec,
    *,
    mode: Literal["sync", "async"] = "sync",
    seed: int = 0,
    episodes: int = 2,
    options: dict[str, Any] | None = None,
) -> Trial:
    """Reset and step the environment alone, then two at once in the vector environment that evaluation uses.

    Whether two at once are played as one alone is seen from the same seed in both slots: a simulator that all
    environments of a process share is met so, and one that has a single license or port.

    Args:
        mode: of the vector environment.
        seed: of the reset.
        episodes: how many will be played at once; with one, no two are tried.
        options: of the reset.

    Raises:
        InputError: it cannot be made, reset or stepped, or returns what cannot be played; in its own words.
    """
    alone, cautions = _alone(env, seed, options)
    try:
        together = _in_vector(env, min(episodes, 2), mode, seed, options)
    except InputError as error:
        if episodes == 1:
            raise
        _in_vector(env, 1, mode, seed, options)  # where that fails too, in its own words
        why = f"two at once fail ({error})"
    else:
        if all(_same(alone, seen) for seen in together) or not _same(alone, _alone(env, seed, options)[0]):
            return Trial(False, cautions)
        why = "two at once disturb each other"
    return Trial(True, (*cautions, f"{_name(env)}: {why}, so its episodes are played one after another"))


def _alone(env: str | EnvSpec, seed: int, options: dict[str, Any] | None) -> tuple[_Seen, tuple[str, ...]]:
    playing = make_env(env)
    try:
        first, _ = playing.reset(seed=seed, options=options)
        second, reward, *_ = playing.step(np.stack([any_action(playing.action_space)])[0])  # as a vector hands it on
    finally:
        playing.close()
    cautions = [_outside(env, playing.observation_space, observation) for observation in (first, second)]
    if playing.close_failure is not None:
        cautions.append(f"{_name(env)} fails as it is closed: {playing.close_failure}")
    return _Seen(first, second, reward), tuple(dict.fromkeys(words for words in cautions if words))


def _in_vector(
    env: str | EnvSpec, slots: int, mode: Literal["sync", "async"], seed: int, options: dict[str, Any] | None
) -> list[_Seen]:
    """What each slot returns, all with one seed; a single slot is reset once more, as for a second episode."""
    envs = make_vector_env(env, slots, mode=mode)
    try:
        first, _ = envs.reset(seed=[seed] * slots, options=options)  # pyright: ignore[reportArgumentType]
        second, rewards, *_ = envs.step(np.stack([any_action(envs.single_action_space)] * slots))
        if slots == 1:
            envs.reset(seed=[seed], options=options)  # pyright: ignore[reportArgumentType]
    finally:
        envs.close()
    return [_Seen(first[slot], second[slot], float(rewards[slot])) for slot in range(slots)]


def _same(one: _Seen, other: _Seen) -> bool:
    pairs = ((one.first, other.first), (one.second, other.second), (one.reward, other.reward))
    return all(np.array_equal(np.float32(mine), np.float32(yours)) for mine, yours in pairs)


def _outside(env: str | EnvSpec, space: gym.Space, observation: np.ndarray) -> str | None:
    """A sentence on a feature that lies outside the bounds of its space."""
    if not isinstance(space, gym.spaces.Box):
        return None
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    beyond = np.maximum(low - observation, observation - high) > BEYOND * np.maximum(1, np.minimum(abs(low), abs(high)))
    if not beyond.any():
        return None
    index = int(np.flatnonzero(beyond)[0])
    bounds = f"[{low[index]:g}, {high[index]:g}]"
    seen = f"feature {index} is {observation[index]:g}, of {bounds}"
    return f"{_name(env)} returns observations outside its own space: {seen}"


def _name(env: str | EnvSpec) -> str:
    return f"environment {env if isinstance(env, str) else env.id}"

"""Setting a simulator's state from an observation, where the observation determines it.

MuJoCo's state is its positions and velocities; Gymnasium's observations begin with both and leave out the first one or
two positions, on which nothing else depends. Whether a task's observations are like that is tried out: the state is
set, and the task must then observe what was set. No list of known names is needed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from flowrl.evaluation.as_recorded import ScaledActions
from flowrl.evaluation.environments import FlatObservation
from flowrl.evaluation.guard import Guarded

__all__ = ["Replayed", "distance", "is_clipped", "replay", "set_state", "step_from"]

VELOCITY_CLIP = 10.0
"""Hopper and Walker2d observe velocities within these bounds, so at a bound the true one is not known."""
ROUNDING = 1e-5
"""Relative and absolute: observations are stored as float32 or better."""
SEEN_THROUGH = (TimeLimit, OrderEnforcing, PassiveEnvChecker, Guarded)
"""Wrappers that change nothing when the simulator below them is stepped. What `FlatObservation` and `ScaledActions` do
is done here. Any other may change observations, actions or rewards, so that the simulator alone would not reproduce the
data."""


class _Wrappers(NamedTuple):
    """What has to be done around a simulator that is stepped without its wrappers."""

    flat: FlatObservation | None
    scaled: tuple[ScaledActions, ...]
    """The outermost first."""


def set_state(env: gym.Env, observation: NDArray[np.floating]) -> bool:
    """Put an environment that has been reset into the state of an `observation`; False where that is not possible.

    Your own environment can have a method `set_state_from_observation(observation) -> bool`, which gets what the
    environment itself observes (a Dict, say), not the row (d,) that `make_env` makes of it. Any other has to be one of
    MuJoCo's with plain rows. Step `env.unwrapped` afterwards: the wrappers (a time limit) know
    nothing of the new state.
    """
    wrappers = _wrappers(env)
    if wrappers is None:
        return False
    simulator, flat = env.unwrapped, wrappers.flat
    if (setter := getattr(simulator, "set_state_from_observation", None)) is not None:
        return setter(observation if flat is None else flat.structured(observation))
    sizes = None if flat is not None else _sizes(env)
    if sizes is None or observation.ndim != 1 or not np.isfinite(observation).all():
        return False
    positions, velocities = sizes
    for hidden in (0, 1, 2):
        seen = positions - hidden
        known = observation[: seen + velocities].astype(np.float64)
        if seen < 1 or len(known) != seen + velocities:
            continue
        simulator.set_state(np.concatenate([np.zeros(hidden), known[:seen]]), known[seen:])  # pyright: ignore[reportAttributeAccessIssue]
        observed = simulator._get_obs()  # pyright: ignore[reportAttributeAccessIssue]
        if observed.shape == observation.shape and np.allclose(
            observed[: len(known)], known, rtol=ROUNDING, atol=ROUNDING
        ):
            return True
    return False


def is_clipped(env: gym.Env, observation: NDArray[np.floating]) -> bool:
    """Whether a velocity in a MuJoCo `observation` is exactly at the bound at which it may have been clipped."""
    return _sizes(env) is not None and bool((np.abs(observation) == VELOCITY_CLIP).any())


def step_from(
    env: gym.Env, observation: NDArray[np.floating], action: Any
) -> tuple[NDArray[np.floating], float] | None:
    """The next observation and the reward of `action` in the state of `observation`; None where it cannot be set.

    `env` has to have been reset once.
    """
    wrappers = _wrappers(env)
    if wrappers is None or not set_state(env, observation):
        return None
    for wrapper in wrappers.scaled:
        action = wrapper.action(action)
    following, reward, *_ = env.unwrapped.step(action)
    return following if wrappers.flat is None else wrappers.flat.observation(following), float(reward)


def _wrappers(env: gym.Env) -> _Wrappers | None:
    """None where the simulator cannot be seen through all of its wrappers."""
    flat, scaled = None, []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, FlatObservation):
            flat = env
        elif isinstance(env, ScaledActions):
            scaled.append(env)
        elif type(env) not in SEEN_THROUGH:
            return None
        env = env.env
    return _Wrappers(flat, tuple(scaled))


@dataclass(frozen=True)
class Replayed:
    """How far a replayed episode is from the stored one: largest absolute difference over the dimensions."""

    first_observation: float
    """Of the one that the reset gives."""
    observations: NDArray[np.float64]
    """(T,), of the one after each step."""
    rewards: NDArray[np.float64]
    """(T,)."""
    paid: NDArray[np.float64]
    """(T,), the rewards of the replay; NaN after its end."""


def replay(
    env: gym.Env,
    seed: int,
    observations: NDArray[np.floating],
    actions: NDArray[Any],
    rewards: NDArray[np.floating],
    options: dict[str, Any] | None = None,
) -> Replayed:
    """Reset with `seed` and `options`, play the T stored actions, and compare the T+1 observations and T rewards.

    Works for any environment, whatever its wrappers: actions are given as they were stored, numbers where Discrete.
    Where the environment ends earlier than the stored episode, the errors from there on are infinite.
    """
    observation, _ = env.reset(seed=seed, options=options)
    first = distance(observation, observations[0])
    errors, reward_errors = np.full(len(actions), np.inf), np.full(len(actions), np.inf)
    paid = np.full(len(actions), np.nan)
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, _ = env.step(action)
        errors[step] = distance(observation, observations[step + 1])
        reward_errors[step] = distance(np.asarray(reward), rewards[step])
        paid[step] = reward
        if terminated or truncated:
            break
    return Replayed(first, errors, reward_errors, paid)


def distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """The largest absolute difference; infinite where a number is NaN, which would pass for any limit."""
    largest = float(np.abs(np.asarray(one, np.float64) - other).max(initial=0.0))
    return np.inf if np.isnan(largest) else largest


def _sizes(env: gym.Env) -> tuple[int, int] | None:
    """How many positions and velocities the state of a MuJoCo environment has; None for any other environment."""
    model = getattr(env.unwrapped, "model", None)
    if not all(hasattr(env.unwrapped, name) for name in ("set_state", "_get_obs")) or not hasattr(model, "nq"):
        return None
    return model.nq, model.nv  # pyright: ignore[reportOptionalMemberAccess]

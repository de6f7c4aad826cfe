"""Wrappers that play an environment as a dataset was recorded, and what of a stored specification is never taken over.

The wrappers are a part of the specification that a run folder keeps, so a run is played alike without its dataset.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import Autoreset, HumanRendering, RecordVideo, RenderCollection

from flowrl.data.declared import Options

__all__ = [
    "ResetOptions",
    "ScaledActions",
    "as_arrays",
    "to_play",
    "with_action_bounds",
    "with_reset_options",
]

_SHOWING = ("render_mode", "autoreset", "autoreset_mode")
_VECTOR = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")  # as `gymnasium.make_vec` stores them
_SHOWING_WRAPPERS = {kind.__name__ for kind in (Autoreset, HumanRendering, RecordVideo, RenderCollection)}


class ResetOptions(gym.Wrapper, RecordConstructorArgs):
    """Reset with recorded options: an episode of environment seed s gets entry s mod K of the K entries.

    Options that are given to `reset` come first. A list of numbers becomes an array, as Minari gives it.
    """

    def __init__(self, env: gym.Env, options: Sequence[Options]) -> None:
        RecordConstructorArgs.__init__(self, options=options)
        gym.Wrapper.__init__(self, env)
        self._options = options

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode with the options of its seed; without a seed, with the first."""
        if options is None:
            options = as_arrays(self._options[(seed or 0) % len(self._options)])
        return self.env.reset(seed=seed, options=options or None)


class ScaledActions(gym.ActionWrapper, RecordConstructorArgs):
    """Take actions within other bounds, scaled linearly to those of the environment.

    As Gymnasium's `RescaleAction`, whose arguments a specification cannot keep where they are one an action.
    """

    def __init__(self, env: gym.Env, low: Sequence[float], high: Sequence[float]) -> None:
        RecordConstructorArgs.__init__(self, low=low, high=high)
        gym.ActionWrapper.__init__(self, env)
        space = env.action_space
        assert isinstance(space, gym.spaces.Box)
        self._space, self._low, self._high = space, np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.action_space = gym.spaces.Box(self._low.astype(space.dtype), self._high.astype(space.dtype))

    def action(self, action: Any) -> Any:
        """The environment's own action (a,)."""
        share = (np.asarray(action, np.float64) - self._low) / (self._high - self._low)
        low, high = self._space.low.astype(np.float64), self._space.high.astype(np.float64)
        return np.clip((low + share * (high - low)).astype(self._space.dtype), self._space.low, self._space.high)


def with_reset_options(spec: EnvSpec, options: Sequence[Options]) -> EnvSpec:
    """The same environment, reset with these options, see `ResetOptions`.

    Their order is drawn, the same for everybody: data are often recorded in blocks of episodes with one entry, and
    evaluation plays seeds in a row.
    """
    order = np.random.default_rng(0).permutation(len(options))
    return _wrapped(spec, ResetOptions, options=[dict(options[number]) for number in order])


def with_action_bounds(spec: EnvSpec, low: Sequence[float], high: Sequence[float]) -> EnvSpec:
    """The same environment, which takes actions within these bounds, see `ScaledActions`."""
    return _wrapped(spec, ScaledActions, low=list(low), high=list(high))


def to_play(spec: EnvSpec) -> EnvSpec:
    """A stored specification without what is no part of the task: how it was shown, reset by itself, or run in many."""
    names = _SHOWING + (_VECTOR if {"vectorization_mode", "vector_kwargs"} & spec.kwargs.keys() else ())
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in names}
    wrappers = tuple(each for each in spec.additional_wrappers if each.name not in _SHOWING_WRAPPERS)
    if len(kwargs) == len(spec.kwargs) and len(wrappers) == len(spec.additional_wrappers):
        return spec
    return replace(spec, kwargs=kwargs, additional_wrappers=wrappers)


def _wrapped(spec: EnvSpec, kind: type[gym.Wrapper], **kwargs: Any) -> EnvSpec:
    wrapper = WrapperSpec(kind.__name__, f"{kind.__module__}:{kind.__name__}", kwargs)
    return replace(spec, additional_wrappers=(*spec.additional_wrappers, wrapper))


def as_arrays(options: Options) -> dict[str, Any]:
    """Options as Minari gives them: a list of numbers is an array."""
    return {name: _array(value) for name, value in options.items()}


def _array(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_arrays(value)
    if isinstance(value, list):
        with suppress(ValueError):  # lists of several lengths are no array
            array = np.asarray(value)
            return array if array.dtype.kind in "fiub" and array.size else value
    return value

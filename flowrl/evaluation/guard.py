"""Environments are other people's code: what they raise, and what they return amiss, ends in a sentence naming them."""

import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from flowrl.errors import InputError, kind_and_cause

__all__ = ["Guarded", "five", "two"]

RAISED = (Exception, SystemExit)  # by an environment: all but what the user's Ctrl-C raises
PRESENT = (
    "Gymnasium's interface is reset(seed=, options=), which returns (observation, info), and step(action), which"
    " returns (observation, reward, terminated, truncated, info)"
)
# What Python says where a method of the old interface meets a caller of the present one.
_OLD = re.compile(r"unexpected keyword argument '(seed|options)'|values to unpack \(expected (2|5)")


class Guarded(gym.Wrapper):
    """An environment with rows as observations, whose failures and odd values are an `InputError` that names it.

    `reset` and `step` return observations (d,) that no later step changes, finite numbers of the dtype that the
    environment returned; rewards that are finite floats; and flags that are bools. An array of one number is taken for
    the number. `close` never fails, see `close_failure`.

    Args:
        name: of the environment, for messages.
    """

    close_failure: str | None = None
    """What `close` raised, in its own words."""

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self._name = name
        self._shape = env.observation_space.shape
        self._seed: int | None = None
        self._steps = 0  # of the episode

    @property
    def spec(self) -> EnvSpec | None:
        """That of the environment: this wrapper is no part of it."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            InputError: the environment fails, or returns something else than rows of finite numbers.
        """
        self._seed, self._steps = seed, 0
        try:
            observation, info = two(self.env.reset(seed=seed, options=options))
        except RAISED as error:
            raise self._failed(error) from error
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            InputError: as `reset`, or the reward is no finite number.
        """
        self._steps += 1
        try:
            result = self.env.step(action)
            if type(result) is not tuple or len(result) != 5:
                result = five(result)
        except RAISED as error:
            raise self._failed(error) from error
        observation, reward, terminated, truncated, info = result
        reward = float(reward) if isinstance(reward, float) else self._number(reward)
        if not math.isfinite(reward):
            raise self._amiss(f"reward {reward}", "a finite number")
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        return self._observed(observation), reward, terminated, truncated, info

    def render(self) -> Any:
        """A picture, in the mode that the environment was made with; whatever it raises is an ordinary exception."""
        try:
            return self.env.render()
        except SystemExit as end:
            raise RuntimeError(kind_and_cause(end)) from end

    def close(self) -> None:
        """Close the environment; where that fails, its episodes are none the worse."""
        try:
            self.env.close()
        except RAISED as error:
            self.close_failure = kind_and_cause(error)

    def _observed(self, observation: Any) -> np.ndarray:
        if (
            type(observation) is not np.ndarray
            or observation.shape != self._shape
            or observation.dtype.kind not in "fiub"
        ):
            observation = self._row(observation)
        if 0 in np.isfinite(observation).tobytes():  # of a short row `all()` costs four times as much
            index = int(np.flatnonzero(~np.isfinite(observation))[0])
            raise self._amiss(f"an observation whose feature {index} is {observation[index]}", "finite")
        return observation.copy()  # the environment may change its own at the next step

    def _row(self, observation: Any) -> np.ndarray:
        row, due = _array(observation), f"an array of {self._shape} numbers, as its space says"
        if row.dtype.kind not in "fiub":
            raise self._amiss(f"observation {_short(observation)}", due)
        if row.shape != self._shape:
            raise self._amiss(f"an observation of shape {row.shape}", due)
        return row

    def _number(self, reward: Any) -> float:
        array = _array(reward)
        if array.size != 1 or array.dtype.kind not in "fiub":
            raise self._amiss(f"reward {_short(reward)}", "one real number")
        return float(array.item())

    def _flag(self, name: str, flag: Any) -> bool:
        array = _array(flag)
        if array.size != 1 or array.dtype.kind not in "biu" or int(array.item()) not in (0, 1):
            raise self._amiss(f"{name} {_short(flag)}", "true or false")
        return bool(array.item())

    def _failed(self, error: BaseException) -> InputError:
        if isinstance(error, InputError):  # ours, or of the part of a wrapper that is ours
            return InputError(f"environment {self._name}, {self._when()}: {error}")
        old = f"; {PRESENT}" if isinstance(error, TypeError | ValueError) and _OLD.search(str(error)) else ""
        return InputError(f"environment {self._name} failed {self._when()}: {kind_and_cause(error)}{old}")

    def _amiss(self, what: str, due: str) -> InputError:
        return InputError(f"environment {self._name} returned {what} {self._when()}: it must be {due}")

    def _when(self) -> str:
        if not self._steps:
            return "at its reset" if self._seed is None else f"at its reset with seed {self._seed}"
        episode = "an episode" if self._seed is None else f"the episode with seed {self._seed}"
        return f"at step {self._steps:,} of {episode}"


def two(result: Any) -> tuple[Any, dict[str, Any]]:
    """What `reset` returns.

    Raises:
        InputError: it is not (observation, info).
    """
    if isinstance(result, tuple) and len(result) == 2 and (result[1] is None or isinstance(result[1], dict)):
        return result[0], result[1] or {}
    raise InputError(f"its reset returned {_kind(result)}; {PRESENT}")


def five(result: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """What `step` returns.

    Raises:
        InputError: it is not (observation, reward, terminated, truncated, info).
    """
    if isinstance(result, tuple) and len(result) == 5:
        return result
    raise InputError(f"its step returned {_kind(result)}; {PRESENT}")


def _kind(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return "None" if result is None else f"one {type(result).__name__}"


def _array(value: Any) -> np.ndarray:
    """`value` as an array; one of objects where it is none."""
    try:
        return np.asarray(value)
    except RAISED:  # rows of unequal length, a tensor on a GPU
        return np.asarray(None)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

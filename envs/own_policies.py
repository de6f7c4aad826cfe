"""A user's own policies: a model that Stable-Baselines3 saved, or any Python callable."""

import importlib
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from flowrl.envs.behavior import BehaviorPolicy, UniformPolicy, action_bounds, valid_action
from flowrl.errors import InputError, cause

__all__ = ["CallablePolicy", "SB3Policy", "own_policy"]

ALGORITHMS = {
    **dict.fromkeys(("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"), "stable_baselines3"),
    **dict.fromkeys(("ARS", "CrossQ", "QRDQN", "TQC", "TRPO"), "sb3_contrib"),
}
"""Algorithms without memory, and the package of each."""
DISCRETE = ("A2C", "ARS", "DQN", "PPO", "QRDQN", "TRPO")
"""Those that can have Discrete actions."""
CONTINUOUS = tuple(name for name in ALGORITHMS if name not in ("DQN", "QRDQN"))
"""Those that can have actions in a Box."""


def own_policy(text: str, env: gym.Env, normalizer: Path | None = None) -> BehaviorPolicy:
    """The policy that `text` names, checked against the environment that it will play in.

    Args:
        text: `random` (uniformly random actions), `ALGORITHM:FILE.zip` (a model of Stable-Baselines3, as in
            `ppo:model.zip`), or `MODULE:NAME` (a Python callable: ``NAME(observation, generator)`` gives an action).
        env: with observations in a Box, and actions in a Box or Discrete.
        normalizer: the `.pkl` that VecNormalize saved beside the model of Stable-Baselines3.

    Raises:
        InputError: the text names no policy, the policy cannot be loaded, or it does not fit the environment.
    """
    actions, observations = env.action_space, env.observation_space
    assert isinstance(actions, Box | Discrete)
    assert isinstance(observations, Box)
    low, high = action_bounds(actions)
    if text == "random":
        if isinstance(actions, Box) and not actions.is_bounded():
            raise InputError(f"policy random needs bounded actions: {env.spec and env.spec.id} has {actions}")
        return UniformPolicy(low, high)
    before, colon, after = text.partition(":")
    if not colon or not before or not after:
        raise InputError(f"unknown policy {text!r}: write random, MODULE:NAME or ALGORITHM:FILE.zip (ppo:model.zip)")
    if after.endswith(".zip"):
        return _sb3_policy(before, Path(after), normalizer, observations, actions)
    policy = CallablePolicy(before, after, low, high)
    if not callable(policy.function):
        raise InputError(f"policy {text!r} is not callable: it must take an observation and a generator")
    return policy


def _sb3_policy(
    algorithm: str, path: Path, normalizer: Path | None, observations: Box, actions: Box | Discrete
) -> "SB3Policy":
    text = f"{algorithm}:{path}"
    names = {name.lower(): name for name in (DISCRETE if isinstance(actions, Discrete) else CONTINUOUS)}
    if algorithm.lower() not in names:
        raise InputError(f"policy {text!r}: unknown algorithm {algorithm!r}; known are {', '.join(names)}")
    policy = SB3Policy(names[algorithm.lower()], path, normalizer, *action_bounds(actions))
    for what, of_model, of_env in [
        ("observations", policy.model.observation_space, observations),
        ("actions", policy.model.action_space, actions),
    ]:
        if of_model.shape != of_env.shape:
            raise InputError(f"policy {text!r} has {what} of shape {of_model.shape}, the environment {of_env.shape}")
        if isinstance(of_env, Discrete) and of_model != of_env:
            raise InputError(f"policy {text!r} has the actions {of_model}, the environment {of_env}")
    policy.normalise(np.zeros(observations.shape))  # an unusable normaliser fails here and not while playing
    return policy


@dataclass(frozen=True)
class CallablePolicy:
    """``MODULE.NAME(observation, generator)``, imported by name, so that it can be sent to other processes."""

    module: str
    name: str
    low: np.ndarray
    """(a,) or (), least action; see `flowrl.envs.behavior.action_bounds`."""
    high: np.ndarray
    """Greatest action, likewise."""

    @cached_property
    def function(self) -> Any:
        """The callable itself.

        Raises:
            InputError: there is no such module, or no such name in it.
        """
        try:
            return getattr(importlib.import_module(self.module), self.name)
        except Exception as error:  # it is the user's own code
            raise InputError(f"policy {self.module}:{self.name} cannot be imported: {cause(error)}") from error

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action, clipped to the bounds; see `BehaviorPolicy`.

        Raises:
            InputError: it fails, or its action has another shape, is not finite, or is no number of a Discrete one.
        """
        whole = np.issubdtype(self.low.dtype, np.integer)
        try:
            action = np.asarray(self.function(observation, generator), np.float64 if whole else np.float32)
        except Exception as error:  # it is the user's own code
            raise InputError(f"policy {self.module}:{self.name} failed: {type(error).__name__}: {error}") from error
        if action.shape != self.low.shape or not np.isfinite(action).all():
            raise InputError(
                f"policy {self.module}:{self.name} returned {action!s} of shape {action.shape}:"
                f" it must return finite numbers of shape {self.low.shape}"
            )
        try:
            return valid_action(action, self.low, self.high)
        except ValueError as error:
            raise InputError(f"policy {self.module}:{self.name} returned {action!s}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return CallablePolicy, (self.module, self.name, self.low, self.high)


@dataclass(frozen=True)
class SB3Policy:
    """A model that Stable-Baselines3 saved, sampled as its algorithm does (TD3 and DDPG add no noise).

    Loading such a file runs code that it holds: use none that you do not trust.
    """

    algorithm: str
    """A name in `ALGORITHMS`."""
    path: Path
    """The file of `model.save`."""
    normalizer: Path | None
    """The file of `VecNormalize.save`; None where observations were not normalised."""
    low: np.ndarray
    """(a,) or (), least action; see `flowrl.envs.behavior.action_bounds`."""
    high: np.ndarray
    """Greatest action, likewise."""

    @cached_property
    def model(self) -> Any:
        """The model, on the CPU.

        Raises:
            InputError: the file is missing or no model of this algorithm, or the package is not installed.
        """
        if not self.path.is_file():  # Stable-Baselines3 would try another name
            raise InputError(f"there is no file {self.path}")
        package = ALGORITHMS[self.algorithm]
        try:
            trainer = getattr(importlib.import_module(package), self.algorithm)
        except ImportError as error:
            raise InputError(f"playing {self.path} needs the extra `behavior` of flowrl ({error})") from error
        try:
            return trainer.load(self.path, device="cpu")
        except Exception as error:  # a file of another kind may raise anything
            raise InputError(f"{self.path} cannot be loaded as a model of {self.algorithm}: {cause(error)}") from error

    @cached_property
    def normalise(self) -> Any:
        """The function from an observation to the model's input.

        Raises:
            InputError: the file is missing or holds no VecNormalize.
        """
        if self.normalizer is None:
            return lambda observation: observation
        try:
            with self.normalizer.open("rb") as file:
                return pickle.load(file).normalize_obs
        except Exception as error:  # a file of another kind may raise anything
            raise InputError(f"{self.normalizer} cannot be loaded as a VecNormalize: {cause(error)}") from error

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action, clipped to the bounds; see `BehaviorPolicy`."""
        import torch

        # Loading a model seeds torch's generator: load it outside the fork.
        model, normalised = self.model, self.normalise(observation)
        with torch.random.fork_rng(devices=[]):  # Stable-Baselines3 samples from torch's own generator
            if generator is not None:
                torch.manual_seed(int(generator.integers(2**63)))
            action, _ = model.predict(normalised, deterministic=generator is None)
        return valid_action(action, self.low, self.high)

    def __reduce__(self) -> tuple[Any, ...]:
        return SB3Policy, (self.algorithm, self.path, self.normalizer, self.low, self.high)

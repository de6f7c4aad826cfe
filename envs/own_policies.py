"""A user's own policies for `scripts.collect`: a model that Stable-Baselines3 saved, or any Python callable."""

import importlib
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from flowrl.envs.behavior import Policy, UniformPolicy

__all__ = ["CallablePolicy", "SB3Policy", "own_policy"]

ALGORITHMS = {
    **dict.fromkeys(("A2C", "DDPG", "PPO", "SAC", "TD3"), "stable_baselines3"),
    **dict.fromkeys(("ARS", "CrossQ", "TQC", "TRPO"), "sb3_contrib"),
}
"""Those with real actions and no memory, and the package each comes from."""


def own_policy(text: str, env: gym.Env, normalizer: Path | None = None) -> Policy:
    """The policy that a command line names, checked against the environment it shall play in.

    Args:
        text: `random` (uniformly random actions), `ALGORITHM:FILE.zip` (a model of Stable-Baselines3, as in
            `ppo:model.zip`), or `MODULE:NAME` (a Python callable: ``NAME(observation, generator)`` gives an action).
        env: with Box spaces.
        normalizer: the `.pkl` that VecNormalize saved beside the model of Stable-Baselines3.

    Raises:
        ValueError: in one sentence, what cannot be used and what could.
    """
    space, seen = env.action_space, env.observation_space
    assert isinstance(space, Box)
    assert isinstance(seen, Box)
    if text == "random":
        if not space.is_bounded():
            raise ValueError(f"policy random needs bounded actions: {env.spec and env.spec.id} has {space}")
        return UniformPolicy(space.low, space.high)
    before, colon, after = text.partition(":")
    if not colon or not before or not after:
        raise ValueError(f"policy {text!r} is none of random, ALGORITHM:FILE.zip (as in ppo:model.zip), MODULE:NAME")
    if not after.endswith(".zip"):
        policy: Policy = CallablePolicy(before, after, space.low, space.high)
        if not callable(policy.function):
            raise ValueError(f"policy {text!r} is no callable: it must take an observation and a generator")
        return policy
    names = {name.lower(): name for name in ALGORITHMS}
    if before.lower() not in names:
        raise ValueError(f"policy {text!r}: unknown algorithm {before!r}; known are {', '.join(names)}")
    model = SB3Policy(names[before.lower()], Path(after), normalizer, space.low, space.high)
    for what, its, due in [
        ("observation", model.model.observation_space, seen),
        ("action", model.model.action_space, space),
    ]:
        if its.shape != due.shape:
            raise ValueError(f"policy {text!r} has {what}s of shape {its.shape}: the environment's are {due.shape}")
    model.normalise(np.zeros(seen.shape))  # a file that is no normaliser is told now, not after the first episode
    return model


@dataclass(frozen=True)
class CallablePolicy:
    """``MODULE.NAME(observation, generator)``: found by name, so that it can be sent to other processes."""

    module: str
    name: str
    low: np.ndarray
    """(a,), least action."""
    high: np.ndarray
    """(a,), greatest action."""

    @cached_property
    def function(self) -> Any:
        """The callable itself.

        Raises:
            ValueError: there is no such module, or no such name in it.
        """
        try:
            return getattr(importlib.import_module(self.module), self.name)
        except Exception as error:  # it is the user's own code
            raise ValueError(f"policy {self.module}:{self.name} cannot be imported: {error}") from error

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (a,), clipped to the bounds; see `Policy`.

        Raises:
            ValueError: it fails, or what it gives is not of the shape of an action, or not finite.
        """
        try:
            action = np.asarray(self.function(observation, generator), np.float32)
        except Exception as error:  # it is the user's own code
            raise ValueError(f"policy {self.module}:{self.name} failed: {type(error).__name__}: {error}") from error
        if action.shape != self.low.shape or not np.isfinite(action).all():
            raise ValueError(
                f"policy {self.module}:{self.name} gave {action!s} of shape {action.shape}:"
                f" finite numbers of shape {self.low.shape} are due"
            )
        return np.clip(action, self.low, self.high)

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
    """What `model.save` wrote."""
    normalizer: Path | None
    """What `VecNormalize.save` wrote; None where observations were not normalised."""
    low: np.ndarray
    """(a,), least action."""
    high: np.ndarray
    """(a,), greatest action."""

    @cached_property
    def model(self) -> Any:
        """The model, on the CPU.

        Raises:
            ValueError: the file is missing or no model of this algorithm, or the package is not installed.
        """
        if not self.path.is_file():  # Stable-Baselines3 would look for another name
            raise ValueError(f"there is no file {self.path}")
        package = ALGORITHMS[self.algorithm]
        try:
            trainer = getattr(importlib.import_module(package), self.algorithm)
        except ImportError as error:
            raise ValueError(f"playing {self.path} needs `pip install -e .[behavior]` ({error})") from error
        try:
            return trainer.load(self.path, device="cpu")
        except Exception as error:  # a file of another kind may raise anything
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.path} cannot be loaded as a model of {self.algorithm}: {said}") from error

    @cached_property
    def normalise(self) -> Any:
        """``normalise(observation)`` is what the model reads.

        Raises:
            ValueError: the file of the normaliser is missing or none.
        """
        if self.normalizer is None:
            return lambda observation: observation
        try:
            with self.normalizer.open("rb") as file:
                return pickle.load(file).normalize_obs
        except Exception as error:  # a file of another kind may raise anything
            raise ValueError(f"{self.normalizer} cannot be loaded as what VecNormalize saves: {error}") from error

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (a,), clipped to the bounds; see `Policy`."""
        import torch

        model, seen = self.model, self.normalise(observation)  # loading a model seeds the generators: before, not below
        with torch.random.fork_rng(devices=[]):  # Stable-Baselines3 samples from torch's own generator
            if generator is not None:
                torch.manual_seed(int(generator.integers(2**63)))
            action, _ = model.predict(seen, deterministic=generator is None)
        return np.clip(action, self.low, self.high).astype(np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return SB3Policy, (self.algorithm, self.path, self.normalizer, self.low, self.high)

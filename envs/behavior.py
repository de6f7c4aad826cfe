"""Behavior policies in plain numpy, and the trained ones that this repository ships."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box, Discrete

from flowrl.errors import InputError

__all__ = [
    "POLICIES",
    "BehaviorPolicy",
    "GaussianPolicy",
    "Remembering",
    "UniformPolicy",
    "action_bounds",
    "policy_record",
    "policy_records",
    "read_policy",
    "shipped_policy",
    "snapshot_path",
    "valid_action",
]

POLICIES = Path(__file__).parent / "policies"
"""The shipped policies, a folder per environment."""


class BehaviorPolicy(Protocol):
    """Anything that acts on one observation."""

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Sample an action (a,), or the number of a Discrete one; without a generator, the deterministic action."""
        ...


@runtime_checkable
class Remembering(BehaviorPolicy, Protocol):
    """A policy whose action depends on earlier observations of the episode."""

    def begin(self) -> BehaviorPolicy:
        """The policy for one new episode, with nothing remembered; called before each episode."""
        ...


@dataclass(frozen=True)
class GaussianPolicy:
    """A network with Gaussian noise, as Stable-Baselines3 trains it: sampled, then clipped to the bounds.

    observation (d,) → (observation − mean) / std, clipped → hidden layers → mean action, by a tanh onto the range
    between the bounds if `squash` → + exp(log_std) · normal. TRPO and PPO do not squash, TD3 does.
    """

    weights: tuple[np.ndarray, ...]
    """One matrix (out, in) a layer."""
    biases: tuple[np.ndarray, ...]
    """One vector (out,) a layer."""
    log_std: np.ndarray
    """(a,), the same for every observation."""
    observation_mean: np.ndarray
    """(d,), of the observations in training."""
    observation_std: np.ndarray
    """(d,), likewise."""
    observation_clip: float
    """Bound on a normalised observation."""
    low: np.ndarray
    """(a,), least action."""
    high: np.ndarray
    """(a,), greatest action."""
    hidden: str = "tanh"
    """Activation of the hidden layers: tanh or relu."""
    squash: bool = False
    """Whether the last layer's output is squashed by a tanh onto the range between the bounds."""
    std: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", np.exp(self.log_std))

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """The mean actions (..., a) before clipping, for observations (..., d)."""
        hidden = (observations - self.observation_mean) / self.observation_std
        hidden = np.minimum(np.maximum(hidden, -self.observation_clip), self.observation_clip)  # np.clip is slower
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight.T + bias
            hidden = np.tanh(hidden) if self.hidden == "tanh" else np.maximum(hidden, 0.0)
        action = hidden @ self.weights[-1].T + self.biases[-1]
        if self.squash:
            action = self.low + (np.tanh(action) + 1.0) / 2.0 * (self.high - self.low)
        return action

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (a,), float32 and within the bounds, for one observation (d,); see `BehaviorPolicy`."""
        action = self.mean(observation)
        if generator is not None:
            action += self.std * generator.standard_normal(action.shape)
        return np.minimum(np.maximum(action, self.low), self.high).astype(np.float32)


@dataclass(frozen=True)
class UniformPolicy:
    """Uniformly random actions within the bounds; the deterministic action is their centre."""

    low: np.ndarray
    """(a,), least action; or (), the first number of a Discrete one. Bounds of whole numbers have actions of them."""
    high: np.ndarray
    """Greatest action, likewise; it is one of them."""

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """An action (a,), float32 or int64, whatever the observation; see `BehaviorPolicy`."""
        if np.issubdtype(self.low.dtype, np.integer):
            if generator is None:
                return ((self.low + self.high) // 2)[()]
            return np.asarray(generator.integers(self.low, self.high, endpoint=True))[()]
        share = 0.5 if generator is None else generator.random(self.low.shape)
        return (self.low + share * (self.high - self.low)).astype(np.float32)


def action_bounds(space: Box | Discrete) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest action: (a,) of a Box, () of a Discrete; int64 where actions are whole numbers."""
    if isinstance(space, Discrete):
        return np.array(space.start, np.int64), np.array(space.start + space.n - 1, np.int64)
    if np.issubdtype(space.dtype, np.integer):
        return space.low.astype(np.int64), space.high.astype(np.int64)
    return space.low, space.high


def valid_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A finite action within the bounds that `action_bounds` gives: clipped and, where they are whole, rounded.

    Raises:
        ValueError: the number of a Discrete action that does not exist.
    """
    if not low.shape and not (low <= action <= high and action == np.round(action)):
        raise ValueError(f"it must return a whole number from {low} to {high}")
    whole = np.issubdtype(low.dtype, np.integer)
    return np.clip(np.round(action) if whole else action, low, high).astype(np.int64 if whole else np.float32)[()]


def read_policy(path: Path) -> GaussianPolicy | UniformPolicy:
    """The policy in an `.npz` of plain arrays, as `flowrl.envs.training` writes it; without layers it is uniform."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    hidden = str(arrays.pop("hidden", "tanh"))
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    layers = range(sum(name.startswith("weight_") for name in arrays))
    if not layers:
        return UniformPolicy(arrays["low"], arrays["high"])
    size = arrays["weight_0"].shape[1]
    return GaussianPolicy(
        weights=tuple(arrays[f"weight_{layer}"] for layer in layers),
        biases=tuple(arrays[f"bias_{layer}"] for layer in layers),
        log_std=arrays["log_std"],
        observation_mean=arrays.get("observation_mean", np.zeros(size)),
        observation_std=arrays.get("observation_std", np.ones(size)),
        observation_clip=float(arrays.get("observation_clip", np.inf)),
        low=arrays["low"],
        high=arrays["high"],
        hidden=hidden,
        squash=bool(arrays.get("squash", False)),
    )


def shipped_policy(name: str, stage: str) -> GaussianPolicy | UniformPolicy:
    """The shipped policy of a stage, `("hopper", "medium")`, or of a training step, `("hopper", "40960")`.

    Raises:
        InputError: unknown name or stage; the message lists the known ones.
    """
    record = policy_record(name)
    stages = {**record["stages"], **{str(row["steps"]): row["steps"] for row in record["snapshots"]}}
    if stage not in stages:
        raise InputError(f"{name} has no stage {stage!r}; known are {', '.join(stages)}")
    return read_policy(snapshot_path(POLICIES / name, stages[stage]))


def snapshot_path(folder: Path, steps: int) -> Path:
    """The file in an environment's folder of policies that holds the snapshot after `steps` training steps."""
    return folder / f"{steps:07d}.npz"


@cache
def policy_records() -> dict[str, dict[str, Any]]:
    """Name → what was recorded in training: environment, recipe, versions, stages, returns of the snapshots."""
    paths = sorted(POLICIES.glob("*/snapshots.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def policy_record(name: str) -> dict[str, Any]:
    """One of `policy_records`, by the name of its folder, as hopper.

    Raises:
        InputError: unknown name; the message lists the known ones.
    """
    records = policy_records()
    if name not in records:
        raise InputError(f"no behavior policies for {name!r}; known are {', '.join(records)}")
    return records[name]

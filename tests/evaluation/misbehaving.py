"""Environments that go wrong, each in one way; `Sound` is what they are otherwise."""

import itertools
import os
import sys

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete

LENGTH = 6


class Sound(gym.Env):
    """Six steps; step t pays t, and what is seen is (seed, t, noise of the seed)."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no action"
        self.t += 1
        return self.see(), self.pay(), self.t >= LENGTH, False, {}

    def see(self):
        return np.array([self.seed, self.t, self.np_random.normal()], np.float32)

    def pay(self):
        return float(self.t)


# Making


class KeyErrorInInit(Sound):
    def __init__(self):
        raise KeyError("terrain")


class ImportErrorInInit(Sound):
    def __init__(self):
        import no_such_simulator  # noqa: F401  # pyright: ignore[reportMissingImports]


class ExitInInit(Sound):
    def __init__(self):
        sys.exit("the simulator is not licensed")


class NoSpace(gym.Env):
    action_space = Sound.action_space


class NoEnvironment:
    """Not even derived from `gymnasium.Env`."""


# Reset


class ResetRaises(Sound):
    def reset(self, *, seed=None, options=None):
        raise ConnectionError("no answer from the simulator")


class NeedsOptions(Sound):
    def reset(self, *, seed=None, options=None):
        if "goal" not in (options or {}):
            raise ValueError("options must name a goal")
        return super().reset(seed=seed)


class OldReset(Sound):
    def reset(self, *, seed=None, options=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset(seed=seed)[0]


class OldSignature(Sound):
    def reset(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset()[0]


class OldStep(Sound):
    def step(self, action):  # pyright: ignore[reportIncompatibleMethodOverride]
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class ResetGivesNone(Sound):
    def reset(self, *, seed=None, options=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().reset(seed=seed)


# Step


class StepRaises(Sound):
    def step(self, action):
        raise RuntimeError("the license server does not answer")


class StepExits(Sound):
    def step(self, action):
        sys.exit(3)


class StepGivesNone(Sound):
    def step(self, action):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step(action)


def paying(reward):
    """An environment whose every reward is this."""

    class Paying(Sound):
        def pay(self):
            return reward

    return Paying


def seeing(observation):
    """An environment whose every observation is this."""

    class Seeing(Sound):
        def see(self):
            return observation

    return Seeing


def flagging(terminated, truncated):
    """An environment whose every step is flagged so."""

    class Flagging(Sound):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            return observation, reward, terminated, truncated, {}

    return Flagging


class Structured(Sound):
    """Sees a Dict."""

    observation_space = Dict(place=Box(-np.inf, np.inf, (2,), np.float32), gear=Discrete(3))

    def see(self):
        return {"place": np.array([self.seed, self.t], np.float32), "gear": 1}


class KeyMissing(Structured):
    def see(self):
        return {"place": np.zeros(2, np.float32)}


class GearTooHigh(Structured):
    def see(self):
        return {"place": np.zeros(2, np.float32), "gear": 7}


class OldStructured(Structured):
    """Its two keys unpack as if they were an observation and an info."""

    def reset(self, *, seed=None, options=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset(seed=seed)[0]


# Late


class FailsLate(Sound):
    """Raises at step 4 of the episodes whose seed is divisible by 3."""

    def step(self, action):
        if self.t == 3 and self.seed is not None and self.seed % 3 == 0:
            raise OSError("the simulator's disk is full")
        return super().step(action)


class NaNLate(Sound):
    def pay(self):
        return float("nan") if self.t == 4 and self.seed % 3 == 0 else 1.0


class BlindLate(Sound):
    def see(self):
        seen = super().see()
        if self.t == 4 and self.seed % 3 == 0:
            seen[1] = np.inf
        return seen


class DiesLate(Sound):
    """Ends its process at step 4 without a word, as a segmentation fault does."""

    def step(self, action):
        if self.t == 3 and self.seed % 3 == 0:
            os._exit(7)
        return super().step(action)


class ExitsLate(Sound):
    def step(self, action):
        if self.t == 3 and self.seed % 3 == 0:
            sys.exit("out of tokens")
        return super().step(action)


# Sound, but odd


class CloseRaises(Sound):
    def close(self):
        raise AttributeError("'NoneType' object has no attribute 'quit'")


class OneBuffer(Sound):
    """Returns the same array at every step, and all instances share it."""

    buffer = np.zeros(3, np.float32)

    def see(self):
        self.buffer[:] = super().see()
        return self.buffer


class ChangesActions(Sound):
    """Scales the action in place."""

    def step(self, action):
        result = super().step(action)
        action *= 0
        return result


class WholeNumbersDeclared(Sound):
    """Declares whole numbers and returns others."""

    observation_space = Box(-100, 100, (3,), np.int64)


class Lists(Sound):
    """Returns a list, an array of one number, and flags as NumPy has them."""

    def see(self):
        return super().see().tolist()

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, np.array([reward]), np.array([terminated]), 0, info


class OutsideItsSpace(Sound):
    observation_space = Box(-1, 1, (3,), np.float32)


class OneInstance(Sound):
    """Only one can be made until it is closed."""

    held: list["OneInstance"] = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        if self.held:
            raise RuntimeError("the port is taken")
        self.held.append(self)

    def close(self):
        if self in self.held:
            self.held.remove(self)


class OneReset(Sound):
    """Only one can be reset until it is closed."""

    busy: list["OneReset"] = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        if self.busy and self.busy != [self]:
            raise RuntimeError("the simulator is in use")
        self.busy[:] = [self]
        return super().reset(seed=seed)

    def close(self):
        if self.busy == [self]:
            self.busy.clear()


class ThreeInstances(Sound):
    """Three can be made at a time."""

    held: list["ThreeInstances"] = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        if len(self.held) == 3:
            raise RuntimeError("all licenses are taken")
        self.held.append(self)

    def close(self):
        if self in self.held:
            self.held.remove(self)


class SharedSimulator(Sound):
    """All instances step one simulator: two at once disturb each other, and nothing is raised."""

    world = {"t": 0}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.world["t"] = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.world["t"] += 1
        self.t = self.world["t"] - 1
        return super().step(action)


class Unseeded(Sound):
    """Draws from a generator that no seed resets."""

    numbers = itertools.count()

    def see(self):
        return np.array([self.seed, self.t, next(self.numbers)], np.float32)


class Windowed(Sound):
    """Opens a window in render mode human, for which there is no display here."""

    def see(self):
        if self.render_mode == "human":
            raise RuntimeError("cannot connect to a display")
        return super().see()


def spec_of(kind, **others):
    """The specification of one of these."""
    return EnvSpec(f"test/{kind.__name__}-v0", entry_point=kind, max_episode_steps=50, **others)

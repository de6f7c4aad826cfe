"""Corridor: a T-maze whose first observation alone says which way to turn at its end; it measures memory.

The walk takes `length` steps, 10 to 1,000, always the same number; only the last action, the turn, does anything.

- Observation (3,), float32: the cue, the junction, noise. The cue is 1 (right) or −1 (left), each with probability
  1/2, in the first observation and 0 in all others. The junction is 1 in the observation that the turn answers to and
  0 in all others. The noise is uniform in [−1, 1], drawn anew at every step: no two episodes look the same.
- Action (1,), float32, in [−1, 1]. Before the junction it is ignored. There, above 0 turns right, all else left.
- Every step pays 0 but the turn, which pays 1 if it goes where the cue pointed and 0 if not, and terminates.

**Optimum.** No return exceeds 1, and remembering the cue attains it: the optimal return is 1, the worst is 0.

**Chance.** Reset draws the cue and the noise independently, and until the turn nothing else depends on the cue: not
the other observations, not a reward, not the length. So a turn computed from later observations, rewards, the time,
the target and independent randomness is independent of the cue, and agrees with it with probability 1/2: the expected
return is exactly 1/2. That holds for every memoryless policy, for uniformly random actions, and for every
policy that sees the last K < `length` observations. There is one way around: a policy that also sees its own last K
actions could copy the cue from action to action. Nothing in our data teaches that: the scripted policies'
actions before the junction are drawn independently of the cue and of each other.
"""

import operator
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

__all__ = ["LONGEST", "SHORTEST", "Corridor", "CorridorPolicy", "corridor_spec"]

SHORTEST, LONGEST = 10, 1_000
CUE, JUNCTION, NOISE = range(3)  # columns of an observation


class Corridor(gym.Env):
    """The task of this module; see its docstring for the rules, the optimum, and the proof of the chance level.

    Args:
        length: steps of an episode, the turn among them.

    Raises:
        ValueError: `length` is not a whole number from 10 to 1,000.
    """

    def __init__(self, length: SupportsIndex = 100, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.length = _whole(length)
        self.observation_space = Box(np.array([-1.0, 0.0, -1.0], np.float32), np.ones(3, np.float32))
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self._observations: list[np.ndarray] = []
        self._cue = 0.0
        self._time = self.length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw the cue and the noise; `options={"cue": 1}` or −1 replaces the cue alone."""
        super().reset(seed=seed)
        drawn = 1.0 if self.np_random.random() < 0.5 else -1.0
        self._cue = float((options or {}).get("cue", drawn))
        if self._cue not in (-1.0, 1.0):
            raise ValueError(f"the cue is {self._cue:g}: it must be 1 (right) or -1 (left)")
        # The whole walk at once: a step then costs less than a numpy call.
        walk = np.zeros((self.length + 1, 3), np.float32)
        walk[0, CUE] = self._cue
        walk[self.length - 1, JUNCTION] = 1.0
        walk[:, NOISE] = self.np_random.uniform(-1.0, 1.0, self.length + 1)
        self._observations = list(walk)
        self._time = 0
        return self._observations[0], {}

    def step(self, action: np.ndarray):
        """Walk on; at the junction turn, be paid and end."""
        if self._time >= self.length:
            raise gym.error.ResetNeeded("the episode is over (or none has begun): call reset()")
        self._time += 1
        observation = self._observations[self._time]
        if self._time < self.length:
            return observation, 0.0, False, False, {}
        return observation, float((float(action[0]) > 0.0) == (self._cue > 0.0)), True, False, {}


def corridor_spec(length: SupportsIndex) -> EnvSpec:
    """The registered spec with this length in its keywords, to be stored with a dataset.

    Raises:
        ValueError: as `Corridor`.
    """
    return replace(gym.spec("flowrl/Corridor-v0"), kwargs={"length": _whole(length)})


@dataclass
class CorridorPolicy:
    """Remember the cue, wander with uniformly random actions, and turn where it pointed, or else the other way.

    Without a generator its action before the junction is 0.
    """

    right: bool
    """Whether the turn is the right one."""
    cue: float = field(default=0.0, init=False, repr=False)
    """The remembered cue; 0 before the first observation."""

    def begin(self) -> "CorridorPolicy":
        """The policy for a new episode, which remembers nothing; see `flowrl.envs.behavior.Remembering`."""
        return CorridorPolicy(self.right)

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (1,) for one observation (3,); see `flowrl.envs.behavior.BehaviorPolicy`."""
        if observation[CUE]:
            self.cue = float(observation[CUE])
        wander = 0.0 if generator is None else 2.0 * generator.random() - 1.0
        turn = self.cue if self.right else -self.cue
        return np.array([turn if observation[JUNCTION] else wander], np.float32)


def _whole(length: SupportsIndex) -> int:
    try:
        whole = operator.index(length)
    except TypeError:
        whole = 0
    if not SHORTEST <= whole <= LONGEST:
        raise ValueError(f"length is {length!r}: it must be a whole number from {SHORTEST} to {LONGEST:,}")
    return whole

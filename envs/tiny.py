"""Reach: a continuous-control task that takes microseconds a step and whose optimum is known exactly.

A point in the plane starts somewhere in x ∈ [2, 4], y ∈ [−4, −2] and should go to the origin.

- Observation (3,), float64: x, y and the share of the time that is left (1 at the start, 0 after step 16).
- Action (2,), float32, in [−2, 3] × [−1, 2] (off centre on purpose): the point moves by a quarter of the action,
  which is first clipped to these bounds. So one step goes 0.5 at most towards the origin on either axis.
- Let d = |x| + |y| after the move. An ordinary step pays 1 − d/10. The step that arrives (|x| ≤ 0.1 and |y| ≤ 0.1)
  pays 1 − d/10 and 1 for every step that is left, and terminates. The step that leaves the arena (|x| > 5 or
  |y| > 5) pays 0 and terminates. After 16 steps the episode is truncated.

**Optimum.** Move each axis towards 0 as fast as the bounds allow. Axis i is then at gᵢ(t) = max(|pᵢ| − t/2, 0) after
t steps, no policy can be nearer at any t, so none can arrive earlier; every step pays at most 1 − d/10 and an arrival
exactly what a perfect stay at the origin would. With T the first t at which both gᵢ(t) ≤ 0.1, the optimal return is

    16 − Σ_{t=1..T} (g₁(t) + g₂(t)) / 10

between 13.2 (start (4, −4), T = 8) and 15.4 (start (2, −2), T = 4). Every return is in [0, 15.4]: leaving is worth
0 to 3, standing still 4 to 9, going straight there 13 and more; so a target return selects a behavior.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

__all__ = ["HORIZON", "Reach", "ReachPolicy", "optimal_action", "optimal_return"]

HORIZON = 16
LOW, HIGH = (-2.0, -1.0), (3.0, 2.0)
START_LOW, START_HIGH = (2.0, -4.0), (4.0, -2.0)
STEP = 0.25
NEAR = 0.1
ARENA = 5.0
WORST = 10.0


class Reach(gym.Env):
    """The task of this module; see its docstring for the rules and the proof of its optimum."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        edge = ARENA + STEP * max(HIGH)
        self.observation_space = Box(np.array([-edge, -edge, 0.0]), np.array([edge, edge, 1.0]), dtype=np.float64)
        self.action_space = Box(np.array(LOW, np.float32), np.array(HIGH, np.float32), dtype=np.float32)
        self._x = self._y = 0.0
        self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start at a uniformly drawn point; `options={"start": (x, y)}` places it."""
        super().reset(seed=seed)
        start = (options or {}).get("start")
        self._x, self._y = map(float, self.np_random.uniform(START_LOW, START_HIGH) if start is None else start)
        self._time = 0
        return self._observe(), {}

    def step(self, action: np.ndarray):
        """Move, pay, and terminate on arrival or on leaving; Gymnasium's TimeLimit truncates after 16 steps."""
        # Plain floats: two scalars through numpy would take longer than the whole step.
        ax, ay = float(action[0]), float(action[1])
        self._x += STEP * min(max(ax, LOW[0]), HIGH[0])
        self._y += STEP * min(max(ay, LOW[1]), HIGH[1])
        self._time += 1
        far_x, far_y = abs(self._x), abs(self._y)
        if far_x > ARENA or far_y > ARENA:
            return self._observe(), 0.0, True, False, {}
        reward = 1.0 - (far_x + far_y) / WORST
        if far_x <= NEAR and far_y <= NEAR:
            return self._observe(), reward + HORIZON - self._time, True, False, {}
        return self._observe(), reward, False, False, {}

    def set_state_from_observation(self, observation: np.ndarray) -> bool:
        """Go on from the state that `observation` (3,) shows; False where no state of this task has it."""
        if np.shape(observation) != (3,) or not np.isfinite(observation).all():
            return False
        time = (1.0 - float(observation[2])) * HORIZON
        if abs(time - round(time)) > 1e-3 or not 0 <= round(time) <= HORIZON:
            return False
        self._x, self._y, self._time = float(observation[0]), float(observation[1]), round(time)
        return True

    def _observe(self) -> np.ndarray:
        return np.array([self._x, self._y, max(1.0 - self._time / HORIZON, 0.0)])


@dataclass(frozen=True)
class ReachPolicy:
    """Go `speed` times as fast as the optimum (below 0: away from the origin), blurred by normal noise."""

    speed: float
    noise: float = 0.0

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (2,) for one observation (3,), within the bounds; without a generator, without noise."""
        action = self.speed * optimal_action(observation)
        if generator is not None:
            action = action + self.noise * generator.standard_normal(2)
        return np.clip(action, LOW, HIGH).astype(np.float32)


def optimal_action(observation: np.ndarray) -> np.ndarray:
    """The action (2,) that goes as near to the origin as one step can."""
    return np.clip(-observation[:2] / STEP, LOW, HIGH)


def optimal_return(start: np.ndarray) -> float:
    """The greatest return there is from a start (x, y) in the starting square."""
    distances = np.abs(np.asarray(start, dtype=np.float64))
    lost = 0.0
    for time in range(1, HORIZON + 1):
        left = np.maximum(distances - time * STEP * 2.0, 0.0)
        lost += float(left.sum()) / WORST
        if (left <= NEAR).all():
            break
    return HORIZON - lost

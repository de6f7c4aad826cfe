"""Detour: a point in a bent corridor, whose data hold short stretches alone; it measures stitching.

Evaluation starts at one end and the goal is at the other, eight cells away: down, right, up and left. An episode of the
data goes from one random place to another, two cells away at most, so none goes all the way.

- Observation (2,), float64: the position. The map is `flowrl.envs.maze_map.HOOK`.
- Action (2,), float32, in [−1, 1]: the point moves by ¾ of the action, which is first clipped to these bounds, first
  along x, then along y. A move that would end in a wall is not made.
- Every step pays 0 but the one that enters the cell of the goal, which pays 1 and terminates. After 30 steps the
  episode is truncated.
- It starts within 0.25 of the middle of the start's cell, on either axis, or with `start="anywhere"` uniformly in any
  free cell but the goal's. The data are played from anywhere, for at most 6 steps an episode.

**Optimum.** No return exceeds 1, and the way to the goal takes fewer than 30 steps: the optimal return is 1, the worst
is 0. A policy that gets there in T steps has the discounted return γ^(T−1).

**Why returns say nothing here.** Every episode that passes where evaluation starts returns 0, whatever it does there:
the goal is too far for it. Only a value that is passed on from one episode to the next tells one action from another.
"""

from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from flowrl.envs.maze_map import HOOK
from flowrl.envs.waypoints import SPREAD, WaypointPolicy

__all__ = ["HORIZON", "STEP", "STRETCH_STEPS", "Detour", "detour_controller", "detour_played"]

HORIZON = 30
STRETCH_STEPS = 6
STEP = 0.75


class Detour(gym.Env):
    """The task of this module; see its docstring for the rules and the optimum.

    Args:
        start: where an episode starts: `task` is where evaluation does, `anywhere` any free cell but the goal's.

    Raises:
        ValueError: `start` is neither.
    """

    def __init__(self, start: Literal["task", "anywhere"] = "task", render_mode: str | None = None) -> None:
        if start not in ("task", "anywhere"):
            raise ValueError(f"start is {start!r}: it must be 'task' or 'anywhere'")
        self.start, self.render_mode = start, render_mode
        height, width = len(HOOK.rows), len(HOOK.rows[0])
        edge = np.array([width / 2, height / 2])
        self.observation_space = Box(-edge, edge, dtype=np.float64)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self._x = self._y = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start at a random place; `options={"start": (x, y)}` places it."""
        super().reset(seed=seed)
        if (place := (options or {}).get("start")) is None:
            place = self._anywhere() if self.start == "anywhere" else self._near(HOOK.start, SPREAD)
        self._x, self._y = map(float, place)
        return self._observe(), {}

    def step(self, action: np.ndarray):
        """Move, and at the goal be paid and end; Gymnasium's TimeLimit truncates after 30 steps."""
        x = self._x + STEP * min(max(float(action[0]), -1.0), 1.0)
        if HOOK.is_free(x, self._y):
            self._x = x
        y = self._y + STEP * min(max(float(action[1]), -1.0), 1.0)
        if HOOK.is_free(self._x, y):
            self._y = y
        arrived = HOOK.cell(self._x, self._y) == HOOK.goal
        return self._observe(), float(arrived), arrived, False, {}

    def set_state_from_observation(self, observation: np.ndarray) -> bool:
        """Go on from the position (2,) that is observed; False where it is in a wall."""
        if np.shape(observation) != (2,) or not np.isfinite(observation).all() or not HOOK.is_free(*observation):
            return False
        self._x, self._y = map(float, observation)
        return True

    def _anywhere(self) -> np.ndarray:
        cells = [cell for cell in HOOK.free() if cell != HOOK.goal]
        return self._near(cells[int(self.np_random.integers(len(cells)))], 0.5)

    def _near(self, cell: tuple[int, int], spread: float) -> np.ndarray:
        return HOOK.centre(cell) + self.np_random.uniform(-spread, spread, 2)

    def _observe(self) -> np.ndarray:
        return np.array([self._x, self._y])


def detour_played(steps: int) -> EnvSpec:
    """The spec in which data are played: from anywhere, for at most so many steps an episode."""
    return replace(gym.spec("flowrl/Detour-v0"), kwargs={"start": "anywhere"}, max_episode_steps=steps)


def detour_controller(noise: float = 0.0, reach: int | None = None) -> WaypointPolicy:
    """The waypoint controller; see `WaypointPolicy` for `reach`."""
    return WaypointPolicy(HOOK, gain=1.0 / STEP, noise=noise, reach=reach)

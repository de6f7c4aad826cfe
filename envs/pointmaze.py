"""PointMaze with a fixed start and goal: Gymnasium-Robotics' ball in a maze, with flat observations.

The ball is pushed by a force and reaches 5 cells a second; a step takes 0.01 s.

- Observation (6,), float64: position (2,), velocity (2,), goal (2,).
- Action (2,), float32, in [−1, 1]: the force.
- A step pays 1 within 0.45 of the goal and 0 elsewhere (sparse), or exp(−distance to the goal) (dense). Nothing
  terminates: a return says how soon the ball is at the goal, and whether it stays.
- The goal is the middle of its cell (`flowrl.envs.maze_map`). An episode starts within 0.25 of the middle of
  the cell of the start on either axis, or with `start="anywhere"` of that of any free cell.
- The data are played from anywhere, in short episodes between random places a few cells apart. So none goes from where
  evaluation starts to the goal.

It needs the extra `maze` of flowrl (the package gymnasium-robotics). The walls, the physics and the rewards are those
of `PointMaze_UMaze-v3` and `PointMaze_Medium-v3`; start, goal and the form of the observation are ours.
"""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from flowrl.envs.maze_map import MEDIUM, UMAZE, MazeMap
from flowrl.envs.waypoints import WaypointPolicy

__all__ = ["MAZES", "PointMaze", "pointmaze_controller", "pointmaze_played"]

MAZES = {"umaze": UMAZE, "medium": MEDIUM}


class PointMaze(gym.Env):
    """The task of this module; see its docstring.

    Args:
        maze: a name in `MAZES`.
        reward: `sparse` or `dense`.
        start: where an episode starts: `task` is where evaluation does, `anywhere` any free cell.

    Raises:
        ValueError: an argument is none of these.
        gymnasium.error.DependencyNotInstalled: gymnasium-robotics is not installed.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 100}  # noqa: RUF012

    def __init__(
        self,
        maze: str = "umaze",
        reward: Literal["sparse", "dense"] = "sparse",
        start: Literal["task", "anywhere"] = "task",
        render_mode: str | None = None,
    ) -> None:
        for name, value, known in [
            ("maze", maze, MAZES),
            ("reward", reward, ("sparse", "dense")),
            ("start", start, ("task", "anywhere")),
        ]:
            if value not in known:
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
        self.maze, self.start, self.render_mode = MAZES[maze], start, render_mode
        self._env = _robotics_env(self.maze, reward, render_mode)
        self.observation_space = Box(-np.inf, np.inf, (6,), np.float64)
        self.action_space = self._env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start at a random place; `options={"start": cell, "goal": cell}` chooses the cells."""
        super().reset(seed=seed)
        free = self.maze.free()
        start = free[int(self.np_random.integers(len(free)))] if self.start == "anywhere" else self.maze.start
        cells = {"start": start, "goal": self.maze.goal} | (options or {})
        observation, _ = self._env.reset(
            seed=int(self.np_random.integers(2**31)),
            options={"reset_cell": np.array(cells["start"]), "goal_cell": np.array(cells["goal"])},
        )
        self._env.goal = observation["desired_goal"] = self.maze.centre(cells["goal"])
        self._env.update_target_site_pos()
        return _row(observation), {}

    def step(self, action: np.ndarray):
        """Push for one step."""
        observation, reward, terminated, truncated, _ = self._env.step(action)
        return _row(observation), float(reward), terminated, truncated, {}

    def set_state_from_observation(self, observation: np.ndarray) -> bool:
        """Go on from the state that `observation` (6,) shows; False where it is in a wall."""
        if np.shape(observation) != (6,) or not np.isfinite(observation).all():
            return False
        if not self.maze.is_free(observation[0], observation[1]):
            return False
        position, velocity, goal = np.split(observation.astype(np.float64), 3)
        self._env.point_env.set_state(position, velocity)
        self._env.goal = goal
        return True

    def render(self) -> Any:
        """A picture, as the render mode says."""
        return self._env.render()

    def close(self) -> None:
        """Close the renderer."""
        self._env.close()


def pointmaze_played(env_id: str, steps: int) -> EnvSpec:
    """The spec in which data for `env_id` are played: from anywhere, for so many steps an episode."""
    spec = gym.spec(env_id)
    return replace(spec, kwargs={**spec.kwargs, "start": "anywhere"}, max_episode_steps=steps)


def pointmaze_controller(maze: str, noise: float = 0.0, reach: int | None = None) -> WaypointPolicy:
    """The waypoint controller for a name in `MAZES`; see `WaypointPolicy` for `reach`."""
    return WaypointPolicy(MAZES[maze], gain=10.0, damping=1.0, noise=noise, reach=reach)


def _robotics_env(maze: MazeMap, reward: str, render_mode: str | None) -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # importing it prints notices, of its other environments
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            "PointMaze needs the extra `maze` of flowrl: pip install gymnasium-robotics"
        ) from error
    walls: list[list[int | str]] = [[int(mark == "#") for mark in row] for row in maze.rows]
    env = PointMazeEnv(walls, render_mode=render_mode, reward_type=reward, continuing_task=True, reset_target=False)
    # It writes its model into a file of the temporary folder, reads it, and leaves it there.
    Path(env.tmp_xml_file_path).unlink(missing_ok=True)
    return env


def _row(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([observation["observation"], observation["desired_goal"]])

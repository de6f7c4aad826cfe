"""A controller that walks through a maze from the middle of one cell to that of the next."""

from dataclasses import dataclass, field, replace

import numpy as np

from flowrl.envs.maze_map import Cell, MazeMap

__all__ = ["SPREAD", "WaypointPolicy"]

SPREAD = 0.25
"""How far from the middle of its cell a place may be, on either axis."""


@dataclass
class WaypointPolicy:
    """Draw a place near where the episode starts, or take the goal; go there on a shortest way, and stay.

    The action is gain · (waypoint − position) − damping · velocity, and normal noise. The waypoint is the middle of the
    next cell on the way, and in the last cell the place itself. Without a generator it goes to the goal, without noise.

    Observations begin with the position (2,); the velocity (2,) and the goal (2,) may follow.
    """

    maze: MazeMap
    gain: float
    damping: float = 0.0
    noise: float = 0.0
    """Standard deviation, in units of half the action range."""
    reach: int | None = None
    """How many cells away from the start the place is, at least one and at most so many; None: it is the goal."""
    target: tuple[Cell, np.ndarray] | None = field(default=None, init=False, repr=False)
    """The cell of the place and the place (2,); None before the first observation."""

    def begin(self) -> "WaypointPolicy":
        """The policy for a new episode, with no place drawn; see `flowrl.envs.behavior.Remembering`."""
        return replace(self)

    def act(self, observation: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """The action (2,) in [−1, 1], float32; see `flowrl.envs.behavior.BehaviorPolicy`."""
        position = observation[:2]
        cell = self.maze.cell(position[0], position[1])
        if self.target is None:
            self.target = self._place(cell, observation, generator)
        last, place = self.target
        waypoint = place if cell == last else self.maze.centre(self.maze.following(cell, last))
        action = self.gain * (waypoint - position)
        if self.damping:
            action -= self.damping * observation[2:4]
        if generator is not None and self.noise:
            action += self.noise * generator.standard_normal(2)
        return np.minimum(np.maximum(action, -1.0), 1.0).astype(np.float32)

    def _place(
        self, cell: Cell, observation: np.ndarray, generator: np.random.Generator | None
    ) -> tuple[Cell, np.ndarray]:
        maze = self.maze
        if self.reach is None or generator is None:
            return maze.goal, observation[4:6].copy() if len(observation) > 4 else maze.centre(maze.goal)
        near = [other for other, far in sorted(maze.distances(cell).items()) if 1 <= far <= self.reach]
        chosen = near[int(generator.integers(len(near)))]
        return chosen, maze.centre(chosen) + generator.uniform(-SPREAD, SPREAD, 2)

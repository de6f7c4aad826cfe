"""Maps of mazes: walls, the cells where evaluation starts and where its goal is, and shortest ways between cells.

Coordinates are those of Gymnasium-Robotics: a cell is 1 wide, the middle of the map is the origin, x goes right and y
goes up; row 0 of a map is its top.
"""

from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["HOOK", "MEDIUM", "UMAZE", "Cell", "MazeMap"]

Cell = tuple[int, int]
"""Row and column."""


@dataclass(frozen=True)
class MazeMap:
    """A maze with a wall all around, one start and one goal, whose free cells are connected."""

    rows: tuple[str, ...]
    """`#` is a wall, `.` is free, `S` is where evaluation starts, `G` is where its goal is."""

    @property
    def start(self) -> Cell:
        """Where evaluation starts."""
        return self._find("S")

    @property
    def goal(self) -> Cell:
        """Where the goal of evaluation is."""
        return self._find("G")

    def free(self) -> list[Cell]:
        """The cells that are no walls, row by row."""
        return [(i, j) for i, row in enumerate(self.rows) for j, mark in enumerate(row) if mark != "#"]

    def is_free(self, x: float, y: float) -> bool:
        """Whether a point lies in a free cell."""
        i, j = self.cell(x, y)
        return 0 <= i < len(self.rows) and 0 <= j < len(self.rows[0]) and self.rows[i][j] != "#"

    def centre(self, cell: Cell) -> np.ndarray:
        """(2,) the middle of a cell."""
        return np.array([cell[1] + 0.5 - len(self.rows[0]) / 2, len(self.rows) / 2 - cell[0] - 0.5])

    def cell(self, x: float, y: float) -> Cell:
        """The cell in which a point lies."""
        return int(np.floor(len(self.rows) / 2 - y)), int(np.floor(x + len(self.rows[0]) / 2))

    def distances(self, target: Cell) -> dict[Cell, int]:
        """Free cell → how many cells the shortest way from it to `target` enters."""
        return _distances(self, target)

    def following(self, cell: Cell, target: Cell) -> Cell:
        """The next cell on a shortest way to `target`; of several, the first one, row by row."""
        if cell == target:
            return cell
        distances = self.distances(target)
        return min(_neighbours(self, cell), key=lambda near: (distances[near], near))

    def _find(self, mark: str) -> Cell:
        ((i, row),) = [(i, row) for i, row in enumerate(self.rows) if mark in row]
        return i, row.index(mark)


def _neighbours(maze: MazeMap, cell: Cell) -> list[Cell]:
    i, j = cell
    return [near for near in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)) if maze.rows[near[0]][near[1]] != "#"]


@cache
def _distances(maze: MazeMap, target: Cell) -> dict[Cell, int]:
    distances, waiting = {target: 0}, deque([target])
    while waiting:
        cell = waiting.popleft()
        for near in _neighbours(maze, cell):
            if near not in distances:
                distances[near] = distances[cell] + 1
                waiting.append(near)
    return distances


HOOK = MazeMap(("######", "#S#G.#", "#.##.#", "#....#", "######"))
"""One way of 8 cells, whose first and last parts go in other directions: neither shows how to walk the other."""
UMAZE = MazeMap(("#####", "#G..#", "###.#", "#S..#", "#####"))
"""The walls of Gymnasium-Robotics' U_MAZE; from start to goal it is 6 cells."""
MEDIUM = MazeMap(
    (
        "########",
        "#S.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    )
)
"""The walls of Gymnasium-Robotics' MEDIUM_MAZE; from start to goal it is 10 cells."""

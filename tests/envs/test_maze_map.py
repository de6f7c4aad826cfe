"""Distances and next cells on maps of mazes, by hand."""

import numpy as np
import pytest

from flowrl.envs.maze_map import HOOK, MEDIUM, UMAZE


@pytest.mark.parametrize(("maze", "far"), [(HOOK, 8), (UMAZE, 6), (MEDIUM, 10)])
def test_following_leads_to_the_goal_on_a_shortest_way(maze, far):
    assert maze.distances(maze.goal)[maze.start] == far
    for cell in maze.free():
        steps = 0
        while cell != maze.goal:
            cell, steps = maze.following(cell, maze.goal), steps + 1
        assert steps <= max(maze.distances(maze.goal).values())
        assert maze.following(cell, maze.goal) == maze.goal


def test_coordinates_are_those_of_gymnasium_robotics():
    np.testing.assert_array_equal(UMAZE.centre((1, 1)), [-1, 1])
    np.testing.assert_array_equal(MEDIUM.centre((6, 6)), [2.5, -2.5])
    for maze in (HOOK, UMAZE, MEDIUM):
        assert [maze.cell(*maze.centre(cell)) for cell in maze.free()] == maze.free()
        assert all(maze.is_free(*maze.centre(cell)) for cell in maze.free())
    assert not UMAZE.is_free(0, 0)
    assert not UMAZE.is_free(99, 0)

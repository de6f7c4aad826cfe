"""Three episodes that can be counted by hand, and their figures."""

from collections.abc import Callable

import numpy as np
import pytest

from flowrl.data.stored_arrays import StoredArrays
from flowrl.inspection import count_figures
from flowrl.inspection.figures import Figures


def three_episodes() -> StoredArrays:
    """Three episodes of 2, 1 and 3 steps; returns 3, −1 and 6."""
    return StoredArrays(
        np.array([[0, 7], [1, 7], [2, 7], [3, 7], [4, 7], [5, 7], [6, 7], [7, 7], [8, 7]], np.float32),
        np.array([[-1], [1], [0], [1], [1], [0.5]], np.float32),
        np.array([1, 2, -1, 3, 2, 1], np.float32),
        np.array([False, True, False, False, False, False]),
        np.array([False, False, True, False, False, False]),
        np.array([2, 1, 3]),
    )


@pytest.fixture
def tiny() -> StoredArrays:
    """Three episodes of 2, 1 and 3 steps; returns 3, −1 and 6."""
    return three_episodes()


@pytest.fixture
def tiny_figures() -> Callable[..., Figures]:
    """Counts arrays of three episodes, these if none are given, with bounds −1 and 1."""

    def count(arrays: StoredArrays | None = None, **keywords) -> Figures:
        bounds = {"action_low": np.array([-1.0]), "action_high": np.array([1.0])}
        return count_figures(arrays or three_episodes(), (4, 5, 9), **(bounds | keywords))

    return count

"""Numbers as an environment takes them: within its bounds, and whole where it wants whole ones."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from flowrl.data.spaces import integer_type, within


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "int32"])
def test_whole_numbers_are_the_nearest_and_never_beyond_their_type(dtype):
    fits = np.iinfo(dtype)
    values = np.array([6.9, 7.1, 7.4999, 0.2, 1e30, -1e30, float(fits.max), float(fits.min)], np.float32)
    got = within(values, np.full(8, fits.min, dtype), np.full(8, fits.max, dtype), np.dtype(dtype))
    assert got.dtype == dtype
    assert got.tolist() == [7, 7, 7, 0, fits.max, fits.min, fits.max, fits.min]


def test_bounds_clip_after_rounding():
    space = Box(np.array([-9, 0]), np.array([9, 3]), (2,), np.int64)
    got = within(np.array([[-9.4, 3.4], [-9.6, 2.6], [8.6, -0.4]]), space.low, space.high, space.dtype)
    assert got.tolist() == [[-9, 3], [-9, 3], [9, 0]]
    assert all(space.contains(row) for row in got)


def test_real_numbers_are_only_clipped():
    got = within(np.array([1.5, -3.0, 0.25]), -1.0, 1.0, np.float32)
    assert got.tolist() == [1.0, -1.0, 0.25]
    assert got.dtype == np.float32


def test_the_type_of_whole_numbers_is_named():
    assert integer_type(Box(0, 9, (1,), np.uint8)) == "uint8"
    assert integer_type(Box(0, 9, (1,), np.float64)) is None

"""What an agent sees is what the environment returned, not what its space declares."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

from flowrl.evaluation.environments import FlatObservation, make_vector_env


class Declares(gym.Env):
    """Returns 3.7 + t and 1e9 + t in a space of another type."""

    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, dtype: str = "float32") -> None:
        self.observation_space = Box(0, 200, (2,), np.dtype(dtype).type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return np.array([3.7 + self.time, 1e9 + self.time])

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.time += 1
        return self._observe(), 0.0, False, self.time == 3, {}


gym.register("test/Declares-v0", f"{__name__}:Declares")


@pytest.mark.parametrize("dtype", ["float32", "int64", "int16"])
def test_a_vector_environment_casts_nothing(dtype):
    spec = gym.spec("test/Declares-v0")
    spec.kwargs = {"dtype": dtype}
    envs = make_vector_env(spec, 2)
    seen = [envs.reset(seed=[0, 1])[0], envs.step(np.zeros((2, 1), np.float32))[0]]
    envs.close()
    np.testing.assert_array_equal(seen, [[[3.7, 1e9]] * 2, [[4.7, 1e9 + 1]] * 2])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_an_offset_is_subtracted_before_anything_is_rounded(dtype):
    spec = gym.spec("test/Declares-v0")
    spec.kwargs = {"dtype": dtype}
    envs = make_vector_env(spec, 2, offset=[0.0, 1e9])
    seen, _ = envs.reset(seed=[0, 1])
    envs.close()
    np.testing.assert_array_equal(seen, [[3.7, 0.0]] * 2)


class Nested(gym.Env):
    """Float64 in every part, whatever is declared."""

    observation_space = Dict(
        {
            "b": Tuple((Box(0, 9, (1, 2), np.float32), Discrete(3, start=1))),
            "a": Box(0, 9, (), np.int64),
            "c": MultiBinary(2),
        }
    )
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        return {"b": (np.array([[1e9 + 1, 0.1]]), np.int64(3)), "a": 3.7, "c": np.array([1, 0], np.int8)}, {}


def test_a_row_keeps_the_precision_of_its_parts():
    env = FlatObservation(Nested())
    row, _ = env.reset()
    assert row.tolist() == [3.7, 1e9 + 1, 0.1, 0, 0, 1, 1, 0]
    assert row.shape == env.observation_space.shape

"""What a slot of a vector environment plays: exactly one episode for a seed, centred as the data are."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

__all__ = ["Centred", "OneEpisode"]


class Centred(gym.ObservationWrapper):
    """Observations less the offset of a dataset, subtracted in float64, see `flowrl.data.precision`.

    Args:
        env: with flat observations.
        offset: (observation size,).
    """

    def __init__(self, env: gym.Env, offset: Sequence[float] | np.ndarray) -> None:
        super().__init__(env)
        self._offset = np.asarray(offset, np.float64)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, self._offset.shape, np.float64)

    def observation(self, observation: Any) -> np.ndarray:
        """The observation (d,) less the offset."""
        return np.asarray(observation, np.float64) - self._offset


class OneEpisode(gym.Wrapper):
    """Play one episode per seeded `reset`; after its end the simulator rests until the next seed.

    Once the episode has ended, `step` and `reset()` without a seed (a vector environment's autoreset, in any mode)
    return the last observation, reward 0 and no flag: the end is flagged once, and no second episode starts. Only the
    first `reset` may omit the seed. Infos are dropped: merging them costs a vector environment as much as a cheap
    simulator does.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._observation: Any = None
        self._over = True
        if isinstance(space := env.observation_space, gym.spaces.Box):
            # A vector environment casts to the declared dtype, and environments that declare whole numbers return
            # others all the same. Bytes of a picture stay small.
            dtype = np.float32 if space.dtype.itemsize == 1 else np.float64
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, space.shape, dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode of `seed`; without a seed, return the last observation and start nothing.

        Raises:
            ValueError: no seed in the middle of an episode, which could mean a new episode or none.
        """
        if seed is None and self._observation is not None:
            if not self._over:
                raise ValueError("reset() without a seed in the middle of an episode; give a seed to start another")
            return self._observation, {}
        self._observation, _ = self.env.reset(seed=seed, options=options)
        self._over = False
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the simulator, or nothing at all once the episode has ended."""
        if self._over:
            return self._observation, 0.0, False, False, {}
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        self._over = terminated or truncated
        return self._observation, float(reward), terminated, truncated, {}

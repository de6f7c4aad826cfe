"""Environments stepped in one process each, whose failures reach this process in the words that they had there."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import gymnasium as gym

from flowrl.errors import InputError

__all__ = ["WorkerProcesses"]


class WorkerProcesses(gym.vector.AsyncVectorEnv):
    """`AsyncVectorEnv` in which an environment that fails, or a process that dies, is an `InputError`.

    Args:
        make: makes the environment of a slot, or raises InputError.
        num_envs: how many slots.
        name: of the environment, for messages.

    Raises:
        InputError: the environment cannot be made in this process, or a process died as it began.
    """

    def __init__(self, make: Callable[[], gym.Env], num_envs: int, name: str) -> None:
        self._name = name
        one = make()
        one.close()
        maker = partial(_made_or_not, make, one.observation_space, one.action_space)
        try:
            super().__init__([maker] * num_envs)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv`."""
        try:
            return super().reset(**how)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv`."""
        try:
            return super().step(actions)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        with warnings.catch_warnings():  # Gymnasium warns of the worker's whole traceback
            warnings.simplefilter("ignore")
            super()._raise_if_errors(successes)

    def _died(self) -> InputError:
        """End all processes, and say how the one ended that did so by itself."""
        processes = getattr(self, "processes", [])
        for process in processes:
            process.join(0.1)
        codes = [process.exitcode for process in processes if process.exitcode is not None]
        for process in processes:
            process.terminate()
            process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()
        self.closed = True
        how = f" with exit code {codes[0]}" if codes else ""
        return InputError(f"environment {self._name}: a process that played it ended{how}")


def _made_or_not(make: Callable[[], gym.Env], observation_space: gym.Space, action_space: gym.Space) -> gym.Env:
    """The environment; where it cannot be made, one of these spaces that says so at its reset.

    An exception would end the worker process before it can tell.
    """
    try:
        return make()
    except InputError as error:
        return _NotMade(str(error), observation_space, action_space)


class _NotMade(gym.Env):
    def __init__(self, why: str, observation_space: gym.Space, action_space: gym.Space) -> None:
        self._why, self.observation_space, self.action_space = why, observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise InputError(self._why)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise InputError(self._why)

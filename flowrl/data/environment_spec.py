"""Gymnasium's specification of an environment by its id."""

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from flowrl.errors import InputError, cause


def environment_spec(env_id: str) -> EnvSpec:
    """The specification of a registered environment, without making it.

    Raises:
        InputError: no environment has that id.
    """
    try:
        return gym.spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise InputError(f"unknown environment {env_id!r}: {cause(error)}") from error

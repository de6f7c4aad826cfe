"""The episodes of a D4RL file written as a Minari dataset."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from flowrl.data.d4rl.reading import HORIZON, D4RLFile, read_file
from flowrl.data.minari_store import DatasetDescription, check_not_taken, write_dataset
from flowrl.errors import InputError, cause

REPEATED = "repeated_final_observations"  # in the metadata of an imported dataset


def import_file(
    path: str | Path,
    dataset_id: str,
    *,
    env_spec: EnvSpec | None,
    reference_scores: tuple[float, float] | None,
    horizon: int | None = HORIZON,
    allow_misaligned: bool = False,
    force: bool = False,
) -> D4RLFile:
    """Read a D4RL HDF5 file (`read_file`) and write it as a Minari dataset, whose description repeats the file's notes.

    The spaces are the environment's, where one is given and the data lie in them; else boxes of the data's sizes,
    unbounded but for actions that all lie in [-1, 1]. The metadata's `repeated_final_observations` counts the episodes
    whose last observation is not real.

    Args:
        reference_scores: mean return of a random and of an expert policy.
        horizon: as `read_file`, with `allow_misaligned`.
        force: replace a dataset of that id.

    Raises:
        InputError: as `read_file`; the id is malformed or taken (without `force`); the environment cannot be made, or
            its sizes are not those of the data.
    """
    path = Path(path)
    check_not_taken(dataset_id, force=force)
    file = read_file(path, horizon=horizon, allow_misaligned=allow_misaligned)
    with warnings.catch_warnings():
        # D4RL's data belong to the -v4 environments: that a -v5 exists is no news.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        observation_space, action_space = _spaces(path, file, env_spec)
        text = [f"D4RL (Fu et al., 2020), imported from {path.name}; licence CC BY 4.0.", *file.notes()]
        about = DatasetDescription(
            env_spec=env_spec,
            observation_space=observation_space,
            action_space=action_space,
            algorithm="D4RL's behaviour policy",
            description=" ".join(text),
            reference_scores=reference_scores,
            author="D4RL",
            metadata={REPEATED: file.repeated},
        )
        write_dataset(dataset_id, file.episodes, about, force=force)
    return file


def _spaces(path: Path, file: D4RLFile, env_spec: EnvSpec | None) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    first = file.episodes[0]
    low = min(float(episode.actions.min()) for episode in file.episodes)
    high = max(float(episode.actions.max()) for episode in file.episodes)
    bound = 1.0 if low >= -1.0 and high <= 1.0 else np.inf
    observation_space = gym.spaces.Box(-np.inf, np.inf, first.observations.shape[1:], np.float32)
    action_space = gym.spaces.Box(-bound, bound, first.actions.shape[1:], np.float32)
    if env_spec is None:
        return observation_space, action_space
    try:
        env = gym.make(env_spec)
    except (Exception, SystemExit) as error:  # its own code may raise anything
        raise InputError(f"environment {env_spec.id} cannot be made here: {cause(error)}") from error
    env.close()
    for what, space, stored in [
        ("observations", env.observation_space, observation_space),
        ("actions", env.action_space, action_space),
    ]:
        if not isinstance(space, gym.spaces.Box) or space.shape != stored.shape:
            raise InputError(
                f"{path}: {what} have {stored.shape[0]} numbers, and the {what[:-1]} space of {env_spec.id} is {space}"
            )
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    inside = all(_lie_in(env.action_space, episode.actions) for episode in file.episodes)
    return env.observation_space, env.action_space if inside else action_space


def _lie_in(space: gym.spaces.Box, rows: NDArray[Any]) -> bool:
    return bool((rows >= space.low).all() and (rows <= space.high).all())

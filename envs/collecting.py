"""Collecting a Minari dataset: one of our own, or any policies in any environment with flat observations."""

import importlib.metadata
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from flowrl.data.minari_store import (
    COLLECTED_NAMESPACE,
    DatasetDescription,
    Episode,
    check_room,
    dataset_path,
    write_dataset,
)
from flowrl.envs.behavior import BehaviorPolicy
from flowrl.envs.mixtures import Mixture, dataset_ids, mixture
from flowrl.envs.own_policies import own_policy
from flowrl.envs.playing import play_episodes, stored_type
from flowrl.errors import InputError
from flowrl.evaluation.environment_choice import choose_environment
from flowrl.evaluation.environments import cores, make_env
from flowrl.evaluation.reference_scores import reference_scores
from flowrl.version import __version__

__all__ = ["CollectedDataset", "collect"]

DEFAULT_STEPS = 200_000


@dataclass(frozen=True)
class CollectedDataset:
    """A dataset that was collected and written."""

    dataset_id: str
    path: Path
    steps: int
    returns: np.ndarray
    """(episodes,), in raw units."""
    seconds: float
    """Spent playing, without the writing."""


def collect(
    dataset_id: str,
    *,
    env: str | None = None,
    policies: Sequence[str | BehaviorPolicy] = (),
    normalizer: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    force: bool = False,
    command: str | None = None,
    progress: bool = False,
) -> CollectedDataset:
    """Play whole episodes and write them as a Minari dataset, all or nothing.

    The same arguments give the same arrays, to the byte, on one kind of machine with the same versions.

    Args:
        dataset_id: one of `flowrl.envs.mixtures.dataset_ids()`; any other id needs `env` and `policies`.
        env: id of an environment with observations in a flat Box, actions in a flat Box or Discrete, and a time limit.
        policies: share the steps equally, in this order; a text is read by `flowrl.envs.own_policies.own_policy`.
        normalizer: the `.pkl` that VecNormalize saved beside the models of Stable-Baselines3.
        steps: the last episode of each policy is played to its end, so rather more are written. If None: the number
            that belongs to the dataset, or 200,000.
        seed: episode i depends on this seed, on i and on its policy alone.
        jobs: processes that play, 0 for one per CPU core; the episodes are the same for any number.
        force: replace the dataset if it exists.
        command: the command line that collects it again, for the dataset's description.
        progress: show a progress bar on stderr.

    Raises:
        InputError: unknown dataset, environment or policy, a number out of range, the dataset exists, it cannot be
            written where datasets are, or a process that played was killed.
        OSError: the disk became full while it was written: nothing is left behind.
    """
    recipe = _recipe(dataset_id, env, policies, normalizer)
    path = dataset_path(dataset_id)
    steps = recipe.steps if steps is None else steps
    for name, value, least in [("steps", steps, 1), ("seed", seed, 0), ("jobs", jobs, 0)]:
        if value < least:
            raise InputError(f"{name} is {value}: it must be at least {least}")
    if path.exists() and not force:
        raise InputError(f"dataset {dataset_id} exists already at {path}")
    check_room(dataset_id, steps * _bytes_of_a_step(recipe))
    began = time.monotonic()
    episodes = _played(recipe, steps, seed, jobs or cores(), progress)
    seconds = time.monotonic() - began
    _write(dataset_id, recipe, episodes, steps, seed, command, author=None if policies else "flowrl", force=force)
    returns = np.array([episode.rewards.sum() for episode in episodes])
    return CollectedDataset(dataset_id, path, sum(len(episode.rewards) for episode in episodes), returns, seconds)


def _recipe(
    dataset_id: str, env_id: str | None, policies: Sequence[str | BehaviorPolicy], normalizer: Path | None
) -> Mixture:
    """One of our own mixtures, or the user's environment and policies."""
    models = [policy for policy in policies if isinstance(policy, str) and policy.endswith(".zip")]
    if normalizer is not None and not models:
        raise InputError(f"normalizer {normalizer} needs a policy that is a model of Stable-Baselines3 (a .zip file)")
    if env_id is None and not policies:
        try:
            return mixture(dataset_id)
        except InputError as error:
            raise InputError(f"{error}; any other dataset needs an environment and policies") from None
    if env_id is None or not policies:
        raise InputError(f"dataset {dataset_id} needs both an environment and policies")
    if dataset_id.startswith(COLLECTED_NAMESPACE) or dataset_id in dataset_ids():
        raise InputError(f"{dataset_id}: names in {COLLECTED_NAMESPACE} are flowrl's own: choose another")
    spec = choose_environment(env_id, None, dataset_id)  # one that a dataset can hold
    env = make_env(spec)
    env.close()
    observations, actions = env.unwrapped.observation_space, env.action_space
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise InputError(f"the observation space of {env_id} is {observations}: it must be a flat Box")
    flat = isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1
    if not (flat or isinstance(actions, gym.spaces.Discrete)):
        raise InputError(f"the action space of {env_id} is {actions}: it must be a flat Box or Discrete")
    players = tuple(own_policy(policy, env, normalizer) if isinstance(policy, str) else policy for policy in policies)
    names = ", ".join(policy if isinstance(policy, str) else type(policy).__name__ for policy in policies)
    about = f"{env_id}, played by {names}" + (" in equal shares of steps." if len(policies) > 1 else ".")
    return Mixture(spec, players, names, about, DEFAULT_STEPS)


def _bytes_of_a_step(recipe: Mixture) -> int:
    env = make_env(recipe.env)
    env.close()
    spaces = [(env.observation_space, env.observation_space.dtype), (env.action_space, stored_type(env.action_space))]
    sizes = [math.prod(space.shape or ()) * np.dtype(kind).itemsize for space, kind in spaces]
    return sum(sizes) + 8 + 2  # the reward and two flags


def _played(recipe: Mixture, steps: int, seed: int, jobs: int, progress: bool) -> list[Episode]:
    """All episodes, in order, under a progress bar; where stderr is no terminal, a line every ten seconds."""
    interval, episodes = 0.2 if sys.stderr.isatty() else 10.0, []
    with tqdm(
        total=steps, unit=" steps", unit_scale=True, mininterval=interval, dynamic_ncols=True, disable=not progress
    ) as bar:
        for episode in play_episodes(recipe.played or recipe.env, recipe.policies, steps, seed, jobs):
            bar.update(min(len(episode.rewards), steps - bar.n))
            # A seed that is stored resets the environment of evaluation, which may start elsewhere.
            episodes.append(replace(episode, seed=None) if recipe.played else episode)
    return episodes


def _write(
    dataset_id: str,
    recipe: Mixture,
    episodes: Sequence[Episode],
    steps: int,
    seed: int,
    command: str | None,
    *,
    author: str | None,
    force: bool,
) -> None:
    versions = [f"{package}=={importlib.metadata.version(package)}" for package in recipe.packages]
    made = f"Made by `{command}`" if command else f"Collected for {steps:,} steps with seed {seed}"
    references = reference_scores(recipe.env.id)
    env = make_env(recipe.env)
    env.close()
    # Minari's metadata have no field for these.
    own = references.flowrl
    metadata: dict[str, Any] = {"collection_seed": seed, "collection_steps": steps}
    if references.d4rl is not None:
        metadata |= {"d4rl_ref_min_score": references.d4rl.random, "d4rl_ref_max_score": references.d4rl.expert}
    write_dataset(
        dataset_id,
        episodes,
        DatasetDescription(
            env_spec=recipe.env,
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm=recipe.algorithm,
            description=f"{recipe.description} {made}, with {', '.join(versions)}.",
            reference_scores=None if own is None else (own.random, own.expert),
            requirements=versions,
            author=author,
            code_permalink=f"flowrl.envs.collecting of flowrl {__version__}",
            metadata=metadata,
        ),
        force=force,
    )

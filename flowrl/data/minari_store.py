"""Minari datasets on disk: find or download one, write one safely."""

import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage.datasets_root_dir import get_dataset_path
from numpy.typing import NDArray

from flowrl.data.stored_arrays import check_shape
from flowrl.errors import InputError, cause

COLLECTED_NAMESPACE = "flowrl/"  # ids made by scripts.collect; they are nowhere to download


@dataclass(frozen=True)
class Episode:
    """One episode of T steps with its T+1 observations, in raw units."""

    observations: NDArray[Any]  # (T+1, observation size)
    actions: NDArray[Any]  # (T, action size)
    rewards: NDArray[Any]  # (T,)
    terminations: NDArray[np.bool_]  # (T,)
    truncations: NDArray[np.bool_]  # (T,)
    seed: int | None = None


def local_ids() -> list[str]:
    """The ids of the datasets in the local Minari root."""
    # Minari's own list fails on a folder that is no dataset.
    root = get_dataset_path()
    found = (file.parent.parent.relative_to(root) for file in root.rglob("data/metadata.json"))
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def open_dataset(dataset: str) -> minari.MinariDataset:
    """Open a dataset by its Minari id, downloading it when it is not here, or by the path of its folder.

    Raises:
        InputError: the id is malformed, the dataset is neither here nor to be had, or its metadata cannot be read.
    """
    if "-v" not in dataset and not Path(dataset).is_dir():
        raise InputError(
            f"{dataset!r} is no dataset id: ids end in a version, as in mujoco/hopper/medium-v0; {_have()}"
        )
    try:
        parse_dataset_id(dataset)
        path = get_dataset_path(dataset) / "data"
    except (ValueError, TypeError):
        path = Path(dataset)
        if not path.is_dir():
            raise InputError(
                f"{dataset!r} is neither a dataset id, as in mujoco/hopper/medium-v0, nor a folder"
            ) from None
        path = path / "data" if (path / "data").is_dir() else path
    if not path.exists():
        _download(dataset)
    try:
        return minari.MinariDataset(path)
    except Exception as error:  # Minari raises many kinds for a foreign or broken folder
        raise InputError(f"the dataset at {path} cannot be opened: {cause(error)}") from error


def _download(dataset_id: str) -> None:
    if dataset_id.startswith(COLLECTED_NAMESPACE):
        raise InputError(
            f"dataset {dataset_id} is not here: make it with `python -m scripts.collect {dataset_id}`; {_have()}"
        )
    print(f"dataset {dataset_id} is not here: downloading it through Minari", flush=True)
    partial = get_dataset_path() / f".partial-{uuid.uuid4().hex}"  # an interrupted download leaves no broken dataset
    try:
        with _minari_root(partial):
            minari.download_dataset(dataset_id)
        _publish(dataset_id, partial, force=True)
    except Exception as error:  # the class depends on huggingface_hub's version
        raise InputError(
            f"dataset {dataset_id} is not here and could not be downloaded ({cause(error)}); {_have()}; "
            "`python -m scripts.collect` makes our own without a network"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _have() -> str:
    ids = local_ids()
    return f"local datasets: {', '.join(ids)}" if ids else "there is no local dataset"


def write_dataset(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env_spec: EnvSpec | None,
    observation_space: gym.spaces.Box,
    action_space: gym.spaces.Box,
    algorithm: str,
    description: str,
    reference_scores: tuple[float, float] | None = None,
    requirements: Sequence[str] = (),
    author: str | None = None,
    code_permalink: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write episodes as a Minari dataset under a temporary name, then rename: never half a dataset.

    Args:
        reference_scores: mean return of a random and of an expert policy, kept as `ref_min_score` and `ref_max_score`.
        requirements: pip requirements that reproduce the data.
        metadata: further entries of the dataset's metadata, plain values.
        force: replace a dataset of that id.

    Returns:
        The folder of the dataset.

    Raises:
        InputError: the id is malformed or taken (without `force`), no episode, or an episode's lengths disagree.
    """
    root = get_dataset_path()
    path = dataset_path(dataset_id)
    if path.exists() and not force:
        raise InputError(f"dataset {dataset_id} exists already at {path}: --force replaces it")
    if not episodes:
        raise InputError(f"dataset {dataset_id} would hold no episode")
    for index, episode in enumerate(episodes):
        length = len(episode.rewards)
        for name, steps in [
            ("observations", length + 1),
            ("actions", length),
            ("terminations", length),
            ("truncations", length),
        ]:
            value = getattr(episode, name)
            check_shape(index, name, value.shape, (steps, *value.shape[1:]), length)
    scores = (
        {} if reference_scores is None else dict(zip(("ref_min_score", "ref_max_score"), reference_scores, strict=True))
    )
    partial = root / f".partial-{uuid.uuid4().hex}"
    try:
        with _minari_root(partial), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(is set to None|env_spec is None)")  # Minari would have all
            written = minari.create_dataset_from_buffers(
                dataset_id,
                [
                    EpisodeBuffer(
                        id=index, seed=e.seed, observations=e.observations, actions=e.actions, rewards=e.rewards,  # pyright: ignore[reportArgumentType]
                        terminations=e.terminations, truncations=e.truncations,  # pyright: ignore[reportArgumentType]
                    )
                    for index, e in enumerate(episodes)
                ],
                env=env_spec,
                eval_env=env_spec,
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name=algorithm,
                description=description,
                author=author,
                code_permalink=code_permalink,
                requirements=list(requirements),
                data_format="hdf5",
                **scores,
            )  # fmt: skip
            written.storage.update_metadata({**(metadata or {}), **scores})  # Minari drops the scores without an env
        _publish(dataset_id, partial, force=force)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _publish(dataset_id: str, partial: Path, *, force: bool) -> None:
    """Move a dataset that is whole from the root `partial` to the real one; see `write_dataset` for `force`."""
    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
    path = get_dataset_path(dataset_id)
    if path.exists() and not force:  # it was not when this began
        raise InputError(f"dataset {dataset_id} exists already at {path}: --force replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _exchange(partial / dataset_id, path, partial / "replaced")


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Put `new` in the place of `path`; what stood there goes to `old`, or stays if that fails."""
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise


def dataset_path(dataset_id: str) -> Path:
    """Where the dataset of that id lies, or would lie.

    Raises:
        InputError: the id is malformed.
    """
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise InputError(
            f"{dataset_id!r} is no dataset id: write NAMESPACE/NAME-vN, as in flowrl/hopper/medium-v0"
        ) from None
    return get_dataset_path(dataset_id)


@contextmanager
def _minari_root(path: Path) -> Iterator[None]:
    """Minari takes its root from the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before

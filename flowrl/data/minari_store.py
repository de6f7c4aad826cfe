"""Minari datasets on disk: find or download one, write one safely."""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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

from flowrl.data import fingerprint_file
from flowrl.data.metadata_file import read_metadata
from flowrl.data.partials import partial_folder, sweep_folders
from flowrl.data.stored_arrays import check_shape, read_arrays
from flowrl.errors import InputError, cause

COLLECTED_NAMESPACE = "flowrl/"  # of the datasets that flowrl collects; they cannot be downloaded


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
    folders = (file.parent.parent.relative_to(root) for file in root.rglob("data/metadata.json"))
    return sorted(path.as_posix() for path in folders if not any(part.startswith(".") for part in path.parts))


def open_dataset(dataset: str) -> minari.MinariDataset:
    """Open a dataset by its Minari id, downloading it when it is not here, or by the path of its folder.

    Raises:
        InputError: the id is malformed; the dataset is not here and cannot be downloaded; its metadata cannot be read.
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
    if not os.path.lexists(path):
        _download(dataset)
    try:
        read_metadata(path)
        return minari.MinariDataset(path)
    except Exception as error:  # Minari raises many kinds for a foreign or broken folder
        raise InputError(f"the dataset at {path} cannot be opened: {cause(error)}") from error


def _download(dataset_id: str) -> None:
    if dataset_id.startswith(COLLECTED_NAMESPACE):
        raise InputError(
            f"dataset {dataset_id} is not here: those in {COLLECTED_NAMESPACE} are collected, not downloaded; {_have()}"
        )
    print(f"dataset {dataset_id} is not here: downloading it through Minari", flush=True)
    sweep_folders(get_dataset_path())
    partial = partial_folder(get_dataset_path())  # an interrupted download leaves no broken dataset
    try:
        with _minari_root(partial):
            minari.download_dataset(dataset_id)
            _record(get_dataset_path(dataset_id) / "data")
        _publish(dataset_id, partial, force=True)
    except Exception as error:  # the class depends on huggingface_hub's version
        raise InputError(
            f"dataset {dataset_id} is not here and could not be downloaded ({cause(error)}); {_have()};"
            f" datasets in {COLLECTED_NAMESPACE} can be collected without a network"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _have() -> str:
    ids = local_ids()
    return f"local datasets: {', '.join(ids)}" if ids else "there is no local dataset"


@dataclass(frozen=True)
class DatasetDescription:
    """What a Minari dataset says about its episodes."""

    observation_space: gym.Space
    action_space: gym.Space
    algorithm: str
    """The behaviour policy, in a few words."""
    description: str
    """What the data are, in a sentence or more."""
    env_spec: EnvSpec | None = None
    """The environment to evaluate in."""
    reference_scores: tuple[float, float] | None = None
    """Mean return of a random and of an expert policy, kept as `ref_min_score` and `ref_max_score`."""
    requirements: Sequence[str] = ()
    """Requirements of pip that reproduce the data."""
    author: str | None = None
    code_permalink: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the dataset's metadata, plain values."""


def write_dataset(
    dataset_id: str, episodes: Sequence[Episode], about: DatasetDescription, *, force: bool = False
) -> Path:
    """Write episodes as a Minari dataset under a temporary name, then rename: never half a dataset.

    Args:
        dataset_id: NAMESPACE/NAME-vN, as in me/hopper/mine-v0.
        episodes: at least one, of at least one step each.
        about: the spaces, and what else is known.
        force: replace a dataset of that id.

    Returns:
        The folder of the dataset.

    Raises:
        InputError: the id is malformed or taken (without `force`), no episode, or an episode's lengths disagree.
    """
    path = check_not_taken(dataset_id, force=force)
    if not episodes:
        raise InputError(f"dataset {dataset_id} would hold no episode")
    for index, episode in enumerate(episodes):
        _check_lengths(index, episode)
    sweep_folders(get_dataset_path())
    partial = partial_folder(get_dataset_path())
    try:
        with _minari_root(partial):
            _create(dataset_id, episodes, about)
            _record(get_dataset_path(dataset_id) / "data")
        _publish(dataset_id, partial, force=force)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _record(folder: Path) -> None:
    """Write the fingerprint of a dataset that is there for the first time, unless training would refuse it anyway."""
    with suppress(InputError):
        read_metadata(folder)
        dataset = minari.MinariDataset(folder)
        fingerprint_file.record(dataset, read_arrays(dataset, cache=False))


def check_not_taken(dataset_id: str, *, force: bool = False) -> Path:
    """The path of a dataset that is to be written.

    Raises:
        InputError: the id is malformed, or taken (without `force`).
    """
    path = dataset_path(dataset_id)
    if path.exists() and not force:
        raise InputError(f"dataset {dataset_id} exists already at {path}: replacing it must be allowed (force)")
    return path


def _check_lengths(index: int, episode: Episode) -> None:
    length = len(episode.rewards)
    for name, steps in [
        ("observations", length + 1),
        ("actions", length),
        ("terminations", length),
        ("truncations", length),
    ]:
        value = getattr(episode, name)
        check_shape(index, name, value.shape, (steps, *value.shape[1:]), length)


def _create(dataset_id: str, episodes: Sequence[Episode], about: DatasetDescription) -> None:
    """Write into Minari's present root."""
    scores = {}
    if about.reference_scores is not None:
        scores = dict(zip(("ref_min_score", "ref_max_score"), about.reference_scores, strict=True))
    with warnings.catch_warnings():
        # Minari warns of everything that is not given.
        warnings.filterwarnings("ignore", message=".*(is set to None|env_spec is None)")
        written = minari.create_dataset_from_buffers(
            dataset_id,
            [_buffer(index, episode) for index, episode in enumerate(episodes)],
            env=about.env_spec,
            eval_env=about.env_spec,
            observation_space=about.observation_space,
            action_space=about.action_space,
            algorithm_name=about.algorithm,
            description=about.description,
            author=about.author,
            code_permalink=about.code_permalink,
            requirements=list(about.requirements),
            data_format="hdf5",
            **scores,
        )
    written.storage.update_metadata({**about.metadata, **scores})  # Minari drops the scores without an env


def _buffer(index: int, episode: Episode) -> EpisodeBuffer:
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    arrays: dict[str, Any] = {name: getattr(episode, name) for name in names}  # Minari's types know only lists
    return EpisodeBuffer(id=index, seed=episode.seed, **arrays)


def _publish(dataset_id: str, partial: Path, *, force: bool) -> None:
    """Move a dataset that is whole from the root `partial` to the real one; see `write_dataset` for `force`."""
    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
    path = check_not_taken(dataset_id, force=force)  # it was free when the writing began
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

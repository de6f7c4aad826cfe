"""Minari datasets on disk: find or download one, write one safely."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import minari
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage.datasets_root_dir import get_dataset_path

from flowrl.data import dataset_folder, fingerprint_file
from flowrl.data.metadata_file import read_metadata
from flowrl.data.minari_files import DatasetDescription, Episode, write_files
from flowrl.data.partials import partial_folder, sweep_folders
from flowrl.data.reading import read_arrays
from flowrl.data.stored_arrays import check_shape
from flowrl.data.stored_environments import open_stored
from flowrl.errors import InputError, cause

COLLECTED_NAMESPACE = "flowrl/"  # of the datasets that flowrl collects; they cannot be downloaded


def local_ids() -> list[str]:
    """The ids of the datasets in the local Minari root."""
    # Minari's own list fails on a folder that is no dataset.
    root = get_dataset_path()
    dataset_folder.restore_all(root)
    folders = (file.parent.parent.relative_to(root) for file in root.rglob("data/metadata.json"))
    return sorted(path.as_posix() for path in folders if not any(part.startswith(".") for part in path.parts))


def open_dataset(dataset: str) -> minari.MinariDataset:
    """Open a dataset by its Minari id or by the path of its folder, or download it by its id.

    A local dataset of that id comes first, then a folder of that name, then the network.

    One whose environment cannot be read is opened as if it named none, see `stored_environments`.

    Raises:
        InputError: the id is malformed; the dataset is not here and cannot be downloaded; its metadata cannot be read.
    """
    if "-v" not in dataset and not Path(dataset).is_dir():
        raise InputError(
            f"{dataset!r} is no dataset id: ids end in a version, as in mujoco/hopper/medium-v0; {_have()}"
        )
    try:
        parse_dataset_id(dataset)
        path = dataset_path(dataset) / "data"
    except (ValueError, TypeError):
        path = Path(dataset)
        if not path.is_dir():
            raise InputError(
                f"{dataset!r} is neither a dataset id, as in mujoco/hopper/medium-v0, nor a folder"
            ) from None
        path = _data_in(path)
    else:
        folder = _data_in(Path(dataset))
        if (folder / "metadata.json").is_file() and folder.resolve() != path.resolve():
            if path.exists():
                print(f"{dataset} is a local dataset and a folder here: taking the dataset, not the folder", flush=True)
            else:
                path = folder
    if not os.path.lexists(path):
        if Path(dataset).is_dir():
            print(f"the folder {dataset} holds no dataset: it has no metadata.json", flush=True)
        _download(dataset)
    try:
        read_metadata(path)
        return open_stored(path)
    except Exception as error:  # Minari raises many kinds for a foreign or broken folder
        raise InputError(f"the dataset at {path} cannot be opened: {cause(error)}") from error


def _data_in(folder: Path) -> Path:
    """Where a dataset's files lie, given its folder or the folder `data` in it."""
    return folder / "data" if (folder / "data").is_dir() else folder


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
        OSError: the disk is full or read-only; what was there stays, and nothing is left behind.
    """
    path = check_not_taken(dataset_id, force=force)
    if not episodes:
        raise InputError(f"dataset {dataset_id} would hold no episode")
    for index, episode in enumerate(episodes):
        _check_lengths(index, episode)
    sweep_folders(get_dataset_path())
    partial = partial_folder(get_dataset_path())
    try:
        write_files(partial / dataset_id / "data", dataset_id, episodes, about)
        _record(partial / dataset_id / "data")
        _publish(dataset_id, partial, force=force)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # of a write, which knows no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
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
    _refuse_taken(dataset_id, path, force=force)
    return path


def _refuse_taken(dataset_id: str, path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"dataset {dataset_id} exists already at {path}: replacing it must be allowed (force)")


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


def check_room(dataset_id: str, size: int = 0) -> None:
    """Check, before hours of work, that a dataset can be written.

    Args:
        size: bytes that it has at least.

    Raises:
        InputError: the id is malformed, its folder cannot be made, or the disk has less room.
    """
    root = _writable_root()
    path = dataset_path(dataset_id)
    dataset_folder.check_writable(path.parent)
    dataset_folder.check_free(root, size)


@contextmanager
def one_at_a_time(dataset_id: str, waits: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process that asks so makes the dataset; `waits` is called before one that does is waited for.

    Raises:
        InputError: nothing can be written into Minari's root.
    """
    with dataset_folder.one_at_a_time(dataset_id, _writable_root(), waits):
        yield


def _writable_root() -> Path:
    try:
        root = get_dataset_path()
    except OSError as error:  # it is a file, or cannot be made
        raise InputError(f"datasets cannot be written to {error.filename}: {error.strerror}") from error
    dataset_folder.check_writable(root)
    return root


def _publish(dataset_id: str, partial: Path, *, force: bool) -> None:
    """Move a dataset that is whole from the root `partial` to the real one; see `write_dataset` for `force`."""
    path, root = dataset_path(dataset_id), get_dataset_path()
    with dataset_folder.publishing(path, root):
        _refuse_taken(dataset_id, path, force=force)  # it was free when the writing began
        dataset_folder.publish(dataset_id, partial, root)


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
    path = get_dataset_path(dataset_id)
    dataset_folder.restore(path, get_dataset_path())
    return path


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

"""Random damage to the files of a dataset is found, or changes nothing that is read of them."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.fingerprint_file import NAME
from flowrl.data.minari_store import open_dataset
from flowrl.data.reading import read_arrays
from flowrl.data.stored_arrays import StoredArrays
from flowrl.errors import InputError

ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations", "lengths")
BELIEVED = ("dataset_id", "env_spec", "observation_space", "action_space", "ref_min_score", "ref_max_score")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """One bit or byte changed, or a block zeroed."""
    changed, at = bytearray(content), int(generator.integers(len(content)))
    match generator.integers(3):
        case 0:
            changed[at] ^= 1 << int(generator.integers(8))
        case 1:
            changed[at] ^= int(generator.integers(1, 256))
        case _:
            length = int(generator.choice([16, 512, 4096]))
            changed[at : at + length] = bytes(len(changed[at : at + length]))
    return bytes(changed)


def damages(content: bytes, times: int, seed: int) -> Iterator[bytes]:
    generator = np.random.default_rng(seed)
    for _ in range(times):
        yield damaged(content, generator)


def loaded(folder: Path) -> tuple[StoredArrays, TrajectoryDataset, dict] | None:
    """What is read of a dataset; None where it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stored = open_dataset(str(folder))
            arrays = read_arrays(stored)
            return arrays, TrajectoryDataset.from_stored(stored, arrays), stored.storage.read_raw_metadata(folder)
        except InputError:
            return None


def unchanged(one, other) -> bool:
    return (
        all(np.array_equal(getattr(one[0], name), getattr(other[0], name)) for name in ARRAYS)
        and torch.equal(one[1].returns_to_go, other[1].returns_to_go)
        and all(one[2].get(name) == other[2].get(name) for name in BELIEVED)
    )


@pytest.fixture
def collected(reach_dataset, minari_root):
    """The data folder of a dataset that flowrl collected, without a cache, and what is read of it."""
    folder = minari_root / reach_dataset / "data"
    (folder / CACHE_NAME).unlink(missing_ok=True)
    assert (folder / NAME).exists()
    sound = loaded(folder)
    (folder / CACHE_NAME).unlink()
    return folder, sound


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_damaged_bytes_are_found_or_harmless(collected, name):
    folder, sound = collected
    content, found = (folder / name).read_bytes(), 0
    for number, changed in enumerate(damages(content, 120, seed=7)):
        (folder / name).write_bytes(changed)
        read = loaded(folder)
        assert read is None or unchanged(read, sound), f"damage {number} of {name} is believed"
        found += read is None
        (folder / CACHE_NAME).unlink(missing_ok=True)
    assert found > 15  # the others hit what nobody reads
    (folder / name).write_bytes(content)
    assert unchanged(loaded(folder), sound)


def test_a_damaged_cache_does_no_harm(collected):
    folder, sound = collected
    loaded(folder)
    content = (folder / CACHE_NAME).read_bytes()
    for changed in [*damages(content, 60, seed=8), content[:-1], content[: len(content) // 3], b""]:
        (folder / CACHE_NAME).write_bytes(changed)
        assert unchanged(loaded(folder), sound)
        assert unchanged(loaded(folder), sound), "it is whole again"


def test_a_damaged_fingerprint_is_said_and_written_again(collected, capsys):
    folder, sound = collected
    content = (folder / NAME).read_bytes()
    for changed in [*damages(content, 40, seed=9), b"", b"{}", b"[" * 100_000, b"null", b'{"check": 1}']:
        if json_of(changed) == json.loads(content):
            continue
        (folder / NAME).write_bytes(changed)
        assert unchanged(loaded(folder), sound)
        assert "damaged" in capsys.readouterr().err
        assert unchanged(loaded(folder), sound)
        assert not capsys.readouterr().err


def json_of(content: bytes):
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None

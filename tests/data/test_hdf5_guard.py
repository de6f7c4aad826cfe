"""A Minari dataset whose files would hang, read other files, or allocate what nobody wrote ends in one sentence."""

import json
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from flowrl.data import hdf5_guard
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.fingerprint_file import NAME
from flowrl.errors import InputError

ID = "test/numbered-v0"
REWARDS = "episode_1/rewards"
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")


@pytest.fixture
def folder(write, numbered_episode):
    """The data folder of a dataset of three episodes, without a fingerprint."""
    folder = write(ID, [numbered_episode(e, length) for e, length in enumerate((4, 5, 6))]) / "data"
    (folder / NAME).unlink()
    return folder


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        TrajectoryDataset.from_minari(ID)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def remade(folder: Path, make, at: str = REWARDS) -> str:
    """The sentence for a file whose array `at` was taken out and made again by `make(file)`."""
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file[at]
        make(file)
    return refusal()


# Links


def test_a_link_to_another_file_is_refused(folder, tmp_path):
    with h5py.File(tmp_path / "secret.hdf5", "w") as other:
        other["x"] = np.arange(5.0)
    link = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "x")
    assert "episode 1: rewards is a link" in remade(folder, lambda file: file.__setitem__(REWARDS, link))


@needs_fifo
@pytest.mark.parametrize("at", [REWARDS, "episode_1"])
def test_a_link_to_a_pipe_is_not_opened(folder, tmp_path, at):
    os.mkfifo(tmp_path / "pipe")
    link = h5py.ExternalLink(str(tmp_path / "pipe"), "x")
    assert "is a link" in remade(folder, lambda file: file.__setitem__(at, link), at)


@pytest.mark.parametrize("target", ["/episode_0/rewards", "/nowhere", "/episode_1/rewards"])
def test_a_soft_link_is_refused(folder, target):
    link = h5py.SoftLink(target)
    assert "is a link" in remade(folder, lambda file: file.__setitem__(REWARDS, link))


def test_two_names_of_one_array_are_refused(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.create_dataset("episode_0/rewards2", data=np.zeros(100_000), chunks=True)
        for episode in range(3):
            del file[f"episode_{episode}/rewards"]
            file[f"episode_{episode}/rewards"] = file["episode_0/rewards2"]
    assert "share their storage" in refusal()


# Storage


def test_numbers_in_a_file_of_their_own_are_refused(folder, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(40))

    def make(file):
        file.create_dataset(REWARDS, (5,), "f8", external=[(str(tmp_path / "raw"), 0, 40)])

    assert "not wholly in the file" in remade(folder, make)


def test_a_virtual_array_is_refused(folder, tmp_path):
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.arange(5.0)
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", (5,))
    assert "not wholly in the file" in remade(folder, lambda file: file.create_virtual_dataset(REWARDS, layout))


@pytest.mark.parametrize("chunks", [None, (5,), (2,)])
def test_numbers_that_were_never_written_are_refused(folder, chunks):
    def make(file):
        array = file.create_dataset(REWARDS, (5,), "f8", chunks=chunks)
        if chunks == (2,):
            array[:2] = 1.0  # one chunk of three

    assert "not wholly in the file" in remade(folder, make)


def test_a_missing_corner_is_refused(folder):
    def make(file):
        array = file.create_dataset("episode_1/observations", (6, 3), "f8", chunks=(4, 2))
        array[:, :2] = 1.0
        array[:4] = 1.0  # three chunks of four, which hold more numbers than the array has

    assert "not wholly in the file" in remade(folder, make, "episode_1/observations")


def pack(file, filters: int, packed: bytes, length: int) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((length,))
    for _ in range(filters):
        layout.set_deflate(9)
    space = h5py.h5s.create_simple((length,))
    array = h5py.h5d.create(file["episode_1"].id, b"rewards", h5py.h5t.IEEE_F64LE, space, layout)
    array.write_direct_chunk((0,), packed)


def test_zeros_packed_twice_are_not_unpacked(folder):
    once = zlib.compress(bytes(8 * 10**7), 9)
    assert "not wholly in the file" in remade(folder, lambda file: pack(file, 2, zlib.compress(once, 9), 10**7))


def test_more_than_the_memory_is_not_unpacked(folder, monkeypatch):
    monkeypatch.setattr(hdf5_guard.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 100}.get(name, 4))
    assert "of memory" in refusal()


def test_packed_numbers_are_read(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        rewards = file[REWARDS][()]
        del file[REWARDS]
        file.create_dataset(REWARDS, data=rewards, compression="gzip", shuffle=True, chunks=(2,))
    assert TrajectoryDataset.from_minari(ID).rewards[4:9].tolist() == rewards.tolist()


def test_a_filter_that_is_not_installed_is_named(folder):
    def make(file):
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((5,))
        layout.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((5,))
        array = h5py.h5d.create(file["episode_1"].id, b"rewards", h5py.h5t.IEEE_F64LE, space, layout)
        array.write_direct_chunk((0,), bytes(40))

    assert "filter 32123" in remade(folder, make)


# Types


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("a", "f8"), ("b", "f4")]), h5py.string_dtype(), h5py.vlen_dtype(np.float64), h5py.ref_dtype,
        np.dtype("S8"), np.dtype("V8"), np.complex64, np.dtype("(2,)f4"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["rewards", "observations", "actions", "terminations"])
def test_other_things_than_numbers_are_refused(folder, dtype, name):
    at = f"episode_1/{name}"

    def make(file):
        file.create_dataset(at, (5,), dtype)

    assert f"episode 1: {name} are of type" in remade(folder, make, at)


def test_a_group_or_nothing_in_the_place_of_an_array_is_refused(folder):
    assert "cannot be read" in remade(folder, lambda file: file.create_group(REWARDS))
    assert "hold nothing" in remade(folder, lambda file: file.create_dataset(REWARDS, dtype="f8"))


# Other things than files


def put(kind: str, path: Path) -> None:
    """Something that is no file in the place of one."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to("/dev/zero")


@needs_fifo
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_what_is_no_file_is_not_opened(folder, kind, name):
    put(kind, folder / name)
    assert "cannot be" in (message := refusal()) or "is no file" in message


@needs_fifo
@pytest.mark.parametrize("kind", ["pipe", "loop", "device"])
def test_what_is_no_folder_is_not_opened_or_downloaded(folder, kind):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.touch()
    put(kind, folder)
    assert "cannot be opened" in refusal()


@needs_fifo
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
@pytest.mark.parametrize("name", ["flowrl_cache.npz", NAME])
def test_what_is_no_cache_or_fingerprint_is_passed_over(folder, kind, name):
    (folder / name).touch()
    put(kind, folder / name)
    assert TrajectoryDataset.from_minari(ID).episodes == 3


# Metadata


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_episodes", 10**9), ("total_episodes", 10**30), ("total_episodes", -1), ("total_episodes", "3"),
        ("total_episodes", 3.0), ("total_episodes", True), ("total_episodes", None), ("total_episodes", [3]),
        ("total_steps", "15"), ("total_steps", -15), ("total_steps", {}), ("dataset_id", 3), ("dataset_id", None),
        ("minari_version", 5), ("data_format", ["hdf5"]), ("observation_space", 7),
        ("author", 4), ("ref_min_score", "low"), ("ref_max_score", [1.0]), ("requirements", 1),
        ("observation_space", json.dumps({"type": "Box", "dtype": "float32", "shape": [10**9], "low": 0, "high": 1})),
        ("action_space", "not json"), ("action_space", "[" * 10_000 + "]" * 10_000),
    ],
)  # fmt: skip
def test_metadata_of_other_kinds_are_refused_by_name(folder, name, value):
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {name: value}))
    message = refusal()
    assert "cannot be opened" in message
    assert name in message or name.replace("_", " ") in message or "JSON" in message


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b"3", b'"text"', b"{}", b"\xff\xfe{}", b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b" " * (2**24 + 1),
    ],
    ids=lambda content: repr(content[:8]),
)  # fmt: skip
def test_what_is_no_metadata_is_refused(folder, content):
    (folder / "metadata.json").write_bytes(content)
    assert "cannot be opened" in refusal()

"""What killed processes left behind is removed; what belongs to a living one is not."""

import os
import subprocess
import sys
import time

import pytest

from flowrl.data import partials
from flowrl.data.array_cache import CACHE_NAME
from flowrl.data.dataset import TrajectoryDataset

ID = "test/numbered-v0"


@pytest.fixture(scope="module")
def dead():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def of_process(path, process):
    """The same temporary name as that process would give it."""
    return path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{process}-"))


def fill(folder, part="test/other-v0"):
    (folder / part / "data").mkdir(parents=True)
    (folder / part / "data/metadata.json").write_text("{}")
    return folder


def age(path, seconds):
    for entry in (path, *path.rglob("*")):
        os.utime(entry, (time.time() - seconds,) * 2)


def test_folders_of_dead_processes_go_as_a_dataset_is_written(write, numbered_episode, minari_root, dead):
    gone = fill(of_process(partials.partial_folder(minari_root), dead))
    living = fill(of_process(partials.partial_folder(minari_root), os.getppid()))
    mine = fill(partials.partial_folder(minari_root))
    elsewhere = fill(minari_root / f".partial-00000000-{dead}-0a1b2c3d")  # another machine's, on a shared disk
    earlier = fill(minari_root / ".partial-0123456789abcdef0123456789abcdef")  # as earlier versions named it
    old = fill(minari_root / ".partial-fedcba9876543210fedcba9876543210")
    age(old, 2 * partials.DAY)
    write(ID, [numbered_episode(0, 3)])
    assert not gone.exists()
    assert not old.exists()
    assert all(folder.exists() for folder in (living, mine, elsewhere, earlier))
    age(elsewhere, 2 * partials.DAY)
    age(earlier, 2 * partials.DAY)
    (earlier / "test/other-v0/data/more").write_text("")  # somebody is still writing
    write(ID, [numbered_episode(0, 3)], force=True)
    assert not elsewhere.exists()
    assert earlier.exists()
    assert TrajectoryDataset.from_minari(ID).episodes == 1


def test_temporary_caches_of_dead_processes_go_as_a_cache_is_written(write, numbered_episode, dead):
    folder = write(ID, [numbered_episode(0, 3)]) / "data"
    left = []
    for process in (dead, os.getppid()):
        with partials.replacing(folder / CACHE_NAME) as partial:
            left.append(of_process(partial, process))
            partial.touch()
    earlier = folder / f".{CACHE_NAME.removesuffix('.npz')}.0123456789abcdef.partial.npz"
    young, other = earlier.with_name(earlier.name.replace("0123", "4567")), folder / ".mine.partial.npz"
    for path in (*left, earlier, young, other):
        path.write_bytes(b"half")
    age(earlier, 2 * partials.DAY)
    age(other, 2 * partials.DAY)
    TrajectoryDataset.from_minari(ID)
    assert [path.exists() for path in (*left, earlier, young, other)] == [False, True, False, True, True]
    assert (folder / CACHE_NAME).exists()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "x.json").write_text("old")

    def write_half():
        with partials.replacing(tmp_path / "x.json") as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"

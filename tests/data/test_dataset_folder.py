"""A dataset is whole at every moment of its replacement, and two processes that write do not disturb each other."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import minari
import numpy as np
import pytest
from filelock import FileLock

from flowrl.data import dataset_folder
from flowrl.data.minari_store import check_room, dataset_path, local_ids, one_at_a_time, open_dataset
from flowrl.data.reading import read_arrays
from flowrl.errors import InputError

ID = "some/deep/data-v0"

# Each child is killed at another call of the system that Python reports: none of its `finally` blocks runs.
KILLED = """
import os, sys
import gymnasium as gym, numpy as np
from flowrl.data import dataset_folder
from flowrl.data.minari_store import DatasetDescription, Episode, local_ids, open_dataset, write_dataset
from flowrl.data.reading import read_arrays

ID = "some/deep/data-v0"
box = gym.spaces.Box(-9, 9, (1,), np.float32)

def write(length):
    ends = np.arange(length) == length - 1
    column = np.zeros((length + 1, 1), np.float32)
    episode = Episode(column, column[1:], np.ones(length), ends, ~ends)
    write_dataset(ID, [episode], DatasetDescription(box, box, "none", "a line"), force=True)

if sys.argv[1] == "moved away":
    dataset_folder._exchanged = lambda new, path: False
write(3)
moment, done, seen = 0, False, set()
while not done:
    moment += 1
    child = os.fork()
    if child == 0:
        left = [moment]
        def kill(event, arguments):
            if event.split(".")[0] in ("os", "shutil", "open", "fcntl", "ctypes"):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
        sys.addaudithook(kill)
        write(5)
        os._exit(0)
    done = os.waitpid(child, 0)[1] == 0
    assert local_ids() == [ID], moment
    lengths = read_arrays(open_dataset(ID)).lengths.tolist()
    seen.add(lengths[0])
    if lengths != [3]:
        write(3)
assert seen == {3, 5}
print(moment)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", ["exchanged", "moved away"])
def test_a_kill_at_any_moment_of_a_replacement_loses_nothing(how):
    done = subprocess.run([sys.executable, "-c", KILLED, how], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


@pytest.fixture
def away(write, numbered_episode):
    """The path of a dataset that a killed process had moved away."""
    path = write(ID, [numbered_episode(0, 3)])
    os.replace(path, path.with_name(f".{path.name}.replaced"))
    return path


@pytest.mark.parametrize("find", [open_dataset, dataset_path, lambda _: local_ids()])
def test_what_was_moved_away_is_found_again(away, find):
    find(ID)
    assert local_ids() == [ID]
    assert read_arrays(open_dataset(ID)).lengths.tolist() == [3]
    assert [entry.name for entry in away.parent.iterdir() if entry.is_dir()] == [away.name]


def test_what_was_moved_away_is_not_overwritten_unforced(away, write, numbered_episode):
    with pytest.raises(InputError, match="exists already"):
        write(ID, [numbered_episode(0, 4)])
    write(ID, [numbered_episode(0, 5)], force=True)
    assert read_arrays(open_dataset(ID)).lengths.tolist() == [5]
    assert [entry.name for entry in away.parent.iterdir() if entry.is_dir()] == [away.name]


def test_new_namespaces_at_once_are_all_there(write, numbered_episode, minari_root):
    """Each finds the namespace missing before any has made it."""
    ids = [f"new/deep{number % 2}/data{number}-v0" for number in range(6)]
    threads = [threading.Thread(target=write, args=(name, [numbered_episode(0, 2)])) for name in ids]
    with FileLock(minari_root / ".lock"):  # all have written their files and wait
        for thread in threads:
            thread.start()
        while len(list(minari_root.glob(".partial-*/*/*/*/data/metadata.json"))) < len(ids):
            threads[0].join(0.01)
    for thread in threads:
        thread.join()
    assert local_ids() == sorted(ids)
    assert minari.namespace.list_local_namespaces() == ["new", "new/deep0", "new/deep1"]
    assert not list(minari_root.glob(".partial-*"))


def test_a_namespace_is_made_with_its_dataset_or_not_at_all(write, numbered_episode, minari_root, monkeypatch):
    def failing(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dataset_folder.os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            write(ID, [numbered_episode(0, 2)])
    assert not list(minari_root.iterdir())


def test_one_waits_for_the_other(minari_root):
    said, order, begun = [], [], threading.Event()

    def other():
        with one_at_a_time(ID, lambda: (said.append("waits"), begun.set())):
            order.append("other")

    thread = threading.Thread(target=other)
    with one_at_a_time(ID, lambda: said.append("never")):
        with one_at_a_time("another/data-v0", lambda: said.append("never")):
            thread.start()
        assert begun.wait(20)
        order.append("first")
    thread.join(20)
    assert (said, order) == (["waits"], ["first", "other"])
    assert not list(minari_root.iterdir())


def test_a_place_that_cannot_be_written_is_named(minari_root, monkeypatch, tmp_path):
    check_room(ID, 1000)
    assert not list(minari_root.iterdir())
    (minari_root / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot be written to .*taken: "):
        check_room("taken/data-v0")
    monkeypatch.setattr(dataset_folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(InputError, match=r"disk of .* is full: 2\.0 MB are left, .* needs 3\.0 MB"):
        check_room(ID, 3_000_000)
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        (tmp_path / "file").write_text("a file")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
        with pytest.raises(InputError, match="cannot be written to .*file"):
            check_room(ID)


def test_a_read_only_root_is_named(minari_root, monkeypatch):
    def read_only(self, *arguments, **keywords):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(InputError, match="cannot be written to .*: Read-only file system"):
        check_room(ID)
    with pytest.raises(InputError, match="Read-only"), one_at_a_time(ID, lambda: None):
        pass


def test_observations_of_a_replaced_dataset_are_the_new_ones(write, numbered_episode):
    one, other = numbered_episode(0, 3), numbered_episode(5, 3)
    write(ID, [one])
    write(ID, [other], force=True)
    np.testing.assert_array_equal(read_arrays(open_dataset(ID)).observations, other.observations)

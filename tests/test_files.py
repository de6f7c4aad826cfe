"""A file is replaced whole or not at all."""

import errno
import os
import stat
import threading

import pytest

from flowrl import files
from flowrl.files import replacing, write_atomically


@pytest.fixture
def path(tmp_path):
    (tmp_path / "clip.gif").write_bytes(b"old")
    return tmp_path / "clip.gif"


def test_a_block_that_ends_replaces_the_file(path):
    with replacing(path) as partial:
        assert (partial.parent, partial.suffix) == (path.parent, ".gif")
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("begun", [False, True])
def test_a_block_that_raises_leaves_the_old_file_alone(path, error, begun):
    def write():
        with replacing(path) as partial:
            if begun:
                partial.write_bytes(b"ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_no_two_writers_share_a_temporary_name(path):
    barrier, names = threading.Barrier(4), []

    def write(number):
        with replacing(path) as partial:
            names.append(partial)
            partial.write_bytes(bytes([number]) * 1000)
            barrier.wait()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4
    assert path.read_bytes() in [bytes([number]) * 1000 for number in range(4)]
    assert list(path.parent.iterdir()) == [path]


def test_bytes_are_written_whole(path):
    write_atomically(path, memoryview(b"new"))
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False], ids=["link", "copy"])
def test_the_old_file_can_be_kept_under_another_name(path, monkeypatch, links):
    if not links:  # as FAT and some network file systems

        def refused(*arguments, **keywords):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(files.os, "link", refused)
    kept = path.with_name("kept.gif")
    for number in range(3):
        write_atomically(path, b"%d" % number, keep=kept)
        assert path.read_bytes() == b"%d" % number
        assert kept.read_bytes() == (b"%d" % (number - 1) if number else b"old")
    assert {file.name for file in path.parent.iterdir()} == {"clip.gif", "kept.gif"}


def of_folders(error):
    """An `os.fsync` that fails for folders."""
    original = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        original(descriptor)

    return fsync


def test_a_file_system_that_flushes_no_folders_is_written_to_all_the_same(path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", of_folders(errno.EINVAL))
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    monkeypatch.setattr(files.os, "fsync", of_folders(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(path, b"newer")


def test_the_folder_is_flushed_after_its_entries_changed(path, monkeypatch):
    seen, original = [], os.fsync

    def fsync(descriptor):
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        original(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_atomically(path, b"new")
    assert seen == [(False, b"old"), (True, b"new")]
    with replacing(path) as partial:
        partial.write_bytes(b"newer")
    assert seen[2:] == [(False, b"new"), (True, b"newer")]


def test_what_is_no_file_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert files.read_file(tmp_path / "file") == b"content"
    assert files.read_file(tmp_path / "nothing") is None
    assert files.read_file(tmp_path / "file/below") is None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("", "pipe", "loop"):
        with pytest.raises(OSError, match=f"{tmp_path / name}"):
            files.read_file(tmp_path / name)

"""A file is replaced whole or not at all."""

import threading

import pytest

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

"""Work in several processes: all of it in order, errors as they were raised, and no waiting for one that was killed."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from flowrl.envs.side_by_side import Workers
from flowrl.errors import InputError

LARGE = np.zeros(1_000_000)  # more than a pipe holds


def prepared(array, deadly=None):
    """Adds to the array's sum, or dies of one task."""

    def add(number):
        if number == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise InputError(f"{number} is below 0")
        return number + array.sum(), np.full(100_000, number)

    return add


def unprepared(array):
    raise InputError("cannot be prepared")


def test_everything_is_done_and_what_is_raised_is_raised_here():
    with Workers(prepared, (LARGE + 1,), 2) as workers:
        waiting = [workers.start(number) for number in range(6)]
        assert [wait()[0] for wait in waiting] == [number + 1_000_000 for number in range(6)]
        with pytest.raises(InputError, match="-1 is below 0") as caught:
            workers.start(-1)()
        assert "in add" in "".join(caught.value.__notes__)
        assert workers.start(7)()[1].tolist()[:2] == [7, 7]
    assert not multiprocessing.active_children()


def test_what_cannot_be_prepared_says_why():
    with Workers(unprepared, (LARGE,), 1) as workers, pytest.raises(InputError, match="cannot be prepared"):
        workers.start(1)()


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_one_that_is_killed_as_it_starts_is_not_waited_for(monkeypatch, delay):
    kind = multiprocessing.get_context("spawn").Process
    original, began = kind.start, time.monotonic()

    def started_and_killed(self):
        original(self)
        time.sleep(delay)
        os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(kind, "start", started_and_killed)
    with pytest.raises(InputError, match="was killed"), Workers(prepared, (LARGE,), 2) as workers:
        workers.start(1)()
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()


def test_one_that_is_killed_at_work_is_not_waited_for():
    with Workers(prepared, (LARGE, 0), 2) as workers, pytest.raises(InputError, match="was killed"):
        workers.start(0)()
    assert not multiprocessing.active_children()

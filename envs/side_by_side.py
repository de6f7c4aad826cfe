"""Processes that play episodes; one that is killed, whenever it is, ends all in one sentence.

Each has a pipe of its own, whose other end this process does not hold: a pool of `concurrent.futures` waits for ever
for the rest of what a killed process began to read or to write.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from flowrl.errors import InputError

Done = TypeVar("Done")

_PATIENCE = 5.0  # seconds for what a process does when the others are stopped


class Workers(Generic[Done]):
    """Processes that each make a function by ``prepare(*given)`` and call it with one task after another.

    Args:
        prepare: found by its name in the new processes.
        given: may be large.
        count: processes.

    Raises:
        InputError: a process was killed.
    """

    def __init__(self, prepare: Callable[..., Callable[..., Done]], given: Sequence[Any], count: int) -> None:
        # Spawned, not forked: a policy may have started threads, which do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._tasks: deque[tuple[Any, ...]] = deque()
        self._idle: deque[Connection] = deque()
        self._done: dict[tuple[Any, ...], tuple[bool, Any]] = {}
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                # What is given goes through this pipe, not with the process's arguments: both ends of the pipe that
                # those go through are here while the process starts, and one that is killed then never reads them.
                process = context.Process(target=_work, args=(prepare, theirs))
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
            for pipe in self._pipes:
                self._send(pipe, tuple(given))
        except BaseException:
            self._end()
            raise
        self._idle.extend(self._pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
            process.join()
            process.close()

    def start(self, *task: Any) -> Callable[[], Done]:
        """Begin a task, or queue it; the function that is returned waits for what it gives.

        Raises:
            InputError: a process was killed; the function raises what the task raised as well.
        """
        self._tasks.append(task)
        self._hand_out()
        return lambda: self._result(task)

    def _result(self, task: tuple[Any, ...]) -> Done:
        while task not in self._done:
            for pipe in wait(self._pipes):
                assert isinstance(pipe, Connection)
                try:
                    done, *result = pipe.recv()
                except (EOFError, OSError):
                    raise _killed() from None
                self._done[done] = (result[0], result[1])
                self._idle.append(pipe)
            self._hand_out()
        succeeded, result = self._done.pop(task)
        if not succeeded:
            raise result
        return result

    def _hand_out(self) -> None:
        while self._tasks and self._idle:
            self._send(self._idle.popleft(), self._tasks.popleft())

    def _send(self, pipe: Connection, message: tuple[Any, ...]) -> None:
        try:
            pipe.send(message)
        except OSError:
            raise _killed() from None


def _killed() -> InputError:
    return InputError(
        "a process that played was killed: nothing is written, start again, with fewer at a time if the memory ran out"
    )


def _work(prepare: Callable[..., Callable[..., Any]], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has what it needs
        run = _outcome(prepare, pipe.recv())
        while True:
            task = pipe.recv()
            pipe.send((task, *(_outcome(run[1], task) if run[0] else run)))


def _outcome(function: Callable[..., Any], given: Sequence[Any]) -> tuple[bool, Any]:
    """(True, what the function gives) or (False, what it raises), which can be sent to another process."""
    try:
        return True, function(*given)
    except Exception as error:
        error.add_note(traceback.format_exc())  # a traceback is not sent
        try:
            return False, pickle.loads(pickle.dumps(error))
        except Exception:
            return False, RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

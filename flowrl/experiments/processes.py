"""Runs the cells of a comparison on this machine, a process for each."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import flowrl
from flowrl.experiments.cells import Cell, run_in_this_process


class Processes:
    """Starts a process for every cell: one that dies takes nothing with it, and its memory is freed with it."""

    def __init__(self) -> None:
        # Not forked from here: torch's threads do not survive that. A server with torch imported, and no thread, is
        # forked instead, where the system has it.
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["flowrl.api", "flowrl.scripts.train"])
            from multiprocessing import forkserver  # not on Windows

            with _search_path_handed_on():
                forkserver.ensure_running()
        else:
            self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, tuple[Cell, BaseProcess, Connection]] = {}  # by the process's sentinel
        self._not_started: list[tuple[Cell, str | None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [process for _, process, _ in self._running.values()]
        try:
            for process in processes:
                process.terminate()  # SIGTERM: it saves its checkpoint, after the evaluation that it may be in
            for process in processes:
                process.join()
        except KeyboardInterrupt:  # once more: at once then, and the checkpoint is an older one
            for process in processes:
                process.kill()
            raise

    def start(self, cell: Cell) -> None:
        """See `flowrl.experiments.cells.Executor`."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(cell, dict(os.environ), Path.cwd(), sender))
        try:
            with _main_program_left_out():
                process.start()
        except (OSError, EOFError):  # it, or the server that it is forked from, is gone before it has read its cell
            receiver.close()
            self._not_started.append((cell, "its process was killed as it started"))
        else:
            self._running[process.sentinel] = cell, process, receiver
        finally:
            sender.close()

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """See `flowrl.experiments.cells.Executor`."""
        ended, self._not_started = self._not_started, []
        for sentinel in wait(list(self._running), 0 if ended else timeout):
            assert isinstance(sentinel, int)
            cell, process, receiver = self._running.pop(sentinel)
            process.join()
            with receiver:
                try:
                    failure = receiver.recv()
                except (EOFError, OSError):
                    failure = _last_words(process.exitcode or 0)
            process.close()
            ended.append((cell, failure))
        return ended


@contextmanager
def _main_program_left_out() -> Iterator[None]:
    """Inside, a process that is started does not import the main program, which may be a user's script without a guard:
    it would start the comparison again. A cell needs nothing from there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _search_path_handed_on() -> Iterator[None]:
    """Inside, a Python that is started finds this very flowrl, and the modules that this one does.

    Python 3.11's server would look in the working directory first, then for a flowrl installed elsewhere.
    """
    root = str(Path(flowrl.__file__).absolute().parent.parent)
    paths = [path for path in sys.path if path]
    if root not in paths:  # it was found by an empty path, from another working directory
        paths.insert(0, root)
    variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(cell: Cell, environment: dict[str, str], folder: Path, sender: Connection) -> None:
    # The server that this process was forked from may have begun elsewhere.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)  # a terminal's Ctrl-C is the parent's alone: it sends SIGTERM
    _die_with_parent()
    failure = run_in_this_process(cell)
    with suppress(BrokenPipeError):  # the parent is gone
        sender.send(failure)


def _die_with_parent() -> None:
    """Stop this process, its checkpoint saved, when the one that started it is gone, however that died."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _last_words(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"its process was killed by {name}" + (
        ", as the system does when memory runs out" if name == "SIGKILL" else ""
    )

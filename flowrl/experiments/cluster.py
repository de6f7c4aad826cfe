"""Runs the cells of a comparison as Ray tasks."""

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowrl.errors import InputError, cause
from flowrl.experiments.matrix import Cell, train_in_own_process
from flowrl.scripts.cli import warn

_ROOT = Path(__file__).resolve().parent.parent

_PATHS = ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR")
_VARIABLES = (*_PATHS, "HF_HUB_OFFLINE", "MUJOCO_GL")
_TRIES = 2  # of a cell whose worker dies; the second goes on from the checkpoint
_ANSWER_SECONDS = 10.0
_STOP_SECONDS = 60.0


class Cluster:
    """A connection to Ray; every cell is a task in a worker of its own, with this checkout's code.

    Args:
        address: `auto` for the cluster that runs here, `local` to start one, else HOST:PORT or ray://HOST:PORT.
        cpus: of each cell.
        gpus: of each cell; a fraction shares one.

    Raises:
        InputError: Ray is not installed, or nothing answers at the address; later, that the cluster was lost.
    """

    def __init__(self, address: str, *, cpus: int, gpus: float) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise InputError('--ray needs the package ray: pip install "flowrl[ray]"') from None
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "auto")  # as Ray itself reads it
        if address not in ("auto", "local"):
            _check_answers(address)
        variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        variables |= {name: os.path.abspath(variables[name]) for name in _PATHS if name in variables}
        runtime = {"py_modules": [str(_ROOT)], "env_vars": variables}
        try:
            self._ray.init(address, runtime_env=runtime, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            # `ray start` asks for a token by default (Ray 2.60), and a driver elsewhere offers one only if told to.
            token = (
                "" if "RAY_AUTH_MODE" in os.environ else " (where the cluster asks for a token: RAY_AUTH_MODE=token)"
            )
            raise InputError(f"Ray address {address!r} cannot be used: {cause(error)}{token}") from error
        found = self._ray.cluster_resources()
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            if found.get(name, 0) < needed:
                warn(
                    f"a cell asks for {needed:g} {name} and the cluster has {found.get(name, 0):g}: cells wait until it"
                    " has more"
                )
        # max_calls: a fresh process for every cell. max_retries: another try is ours to give, and to count.
        task = self._ray.remote(max_calls=1, max_retries=0, num_cpus=cpus, num_gpus=gpus)
        self._task = task(_work)
        self._running: dict[Any, tuple[Cell, int]] = {}  # by reference: the cell, and which try this is

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        references = list(self._running)
        try:
            for reference in references:
                self._ray.cancel(reference)  # as Ctrl-C: it saves its checkpoint
            if references:
                self._ray.wait(references, num_returns=len(references), timeout=_STOP_SECONDS)
        finally:
            self._ray.shutdown()

    def start(self, cell: Cell) -> None:
        """See `scripts.matrix.Executor`."""
        self._submit(cell, 1)

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """See `scripts.matrix.Executor`."""
        found = []
        with self._connected():
            ready, _ = self._ray.wait(list(self._running), timeout=timeout)
        for reference in ready:
            cell, tried = self._running.pop(reference)
            try:
                found.append((cell, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                if tried < _TRIES and not isinstance(error, self._ray.exceptions.RayTaskError):
                    self._submit(cell, tried + 1)
                else:
                    found.append((cell, f"its Ray worker failed {tried} times, the last time so: {cause(error)}"))
        return found

    def _submit(self, cell: Cell, tried: int) -> None:
        # The folder is shared, the place it is seen from need not be.
        absolute = replace(cell, args=replace(cell.args, run_dir=cell.run_dir.resolve()))
        with self._connected():
            self._running[self._task.remote(absolute, str(Path.cwd()))] = cell, tried

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Raise InputError where the cluster is lost: nothing that runs there can be asked or stopped any more."""
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            self._running.clear()
            raise InputError(
                f"the Ray cluster was lost: {cause(error)}; the same command goes on from the checkpoints"
            ) from error


def _work(cell: Cell, folder: str) -> str | None:
    with suppress(OSError):  # a dataset may be a folder named from here
        os.chdir(folder)
    return train_in_own_process(cell)


def _check_answers(address: str) -> None:
    """Raise InputError where no Ray is: Ray itself would wait for minutes."""
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"Ray address {address!r} is none of auto, local, HOST:PORT, ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray address {address!r} does not answer: {cause(error)}") from error
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    import grpc  # comes with Ray's clients and with TensorBoard

    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            raise InputError(f"Ray address {address!r} does not answer as Ray does") from None

"""Runs the cells of a comparison as Ray tasks."""

import importlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import flowrl
from flowrl.errors import InputError, cause
from flowrl.experiments.cells import Cell, run_in_this_process
from flowrl.training.tracking import warn

_PATHS = ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR")
_VARIABLES = (*_PATHS, "HF_HUB_OFFLINE", "MUJOCO_GL")
_TRIES = 2  # of a cell whose worker dies; the second goes on from the checkpoint
_ANSWER_SECONDS = 10.0
_STOP_SECONDS = 60.0


class Cluster:
    """A connection to Ray; every cell is a task in a new worker process, with this very flowrl package.

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
            raise InputError('ray is not installed: pip install "flowrl[ray]"') from None
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "auto")  # as Ray itself reads it
        if address not in ("auto", "local"):
            _check_answers(address)
        variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        variables |= {name: os.path.abspath(variables[name]) for name in _PATHS if name in variables}
        try:
            with TemporaryDirectory() as folder:
                runtime = {"py_modules": [str(_copied_package(Path(folder)))], "env_vars": variables}
                self._ray.init(address, runtime_env=runtime, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            # `ray start` wants a token by default (Ray 2.60), and a driver elsewhere sends one only with this variable.
            token = "" if "RAY_AUTH_MODE" in os.environ else " (where the cluster wants a token: RAY_AUTH_MODE=token)"
            raise InputError(f"Ray address {address!r} cannot be used: {cause(error)}{token}") from error
        resources = self._ray.cluster_resources()
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            if (there := resources.get(name, 0)) < needed:
                warn(f"a cell needs {needed:g} {name} and the cluster has {there:g}: cells wait until it has more")
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
        """See `flowrl.experiments.cells.Executor`."""
        self._submit(cell, 1)

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """See `flowrl.experiments.cells.Executor`."""
        ended = []
        with self._connected():
            ready, _ = self._ray.wait(list(self._running), timeout=timeout)
        for reference in ready:
            cell, tried = self._running.pop(reference)
            try:
                ended.append((cell, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                if tried < _TRIES and not isinstance(error, self._ray.exceptions.RayTaskError):
                    self._submit(cell, tried + 1)
                else:
                    ended.append((cell, f"its Ray worker failed {tried} times, the last time with: {cause(error)}"))
        return ended

    def _submit(self, cell: Cell, tried: int) -> None:
        # The folder is shared, the place it is seen from need not be.
        absolute = replace(cell, options=replace(cell.options, run_dir=cell.run_dir.resolve()))
        with self._connected():
            self._running[self._task.remote(absolute, str(Path.cwd()))] = cell, tried

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Raise InputError where the cluster is lost: nothing that runs there can be reached or stopped any more."""
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            self._running.clear()
            raise InputError(
                f"the Ray cluster was lost: {cause(error)}; the same command goes on from the checkpoints"
            ) from error


def _copied_package(folder: Path) -> Path:
    """A whole copy of the flowrl package in `folder`: in a checkout, some of its folders are links or lie beside it."""
    unneeded = shutil.ignore_patterns("__pycache__")
    copy = shutil.copytree(Path(flowrl.__file__).parent, folder / "flowrl", ignore=unneeded)
    for name in ("agents", "envs", "scripts"):
        module = importlib.import_module(f"flowrl.{name}")
        assert module.__file__ is not None
        if not (copy / name).is_dir():
            shutil.copytree(Path(module.__file__).parent, copy / name, ignore=unneeded)
    return copy


def _work(cell: Cell, folder: str) -> str | None:
    with suppress(OSError):  # a dataset may be a folder named from here
        os.chdir(folder)
    return run_in_this_process(cell)


def _check_answers(address: str) -> None:
    """Raise InputError where no Ray is: Ray itself would wait for minutes."""
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"Ray address {address!r} must be auto, local, HOST:PORT or ray://HOST:PORT")
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

"""The cells of a comparison: each is a command that trains, and the run folder that it fills."""

import os
import re
import runpy
import shlex
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO, TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from flowrl.analysis.studies import stored_study
from flowrl.data import scales
from flowrl.data.selection import Selection, folder_name
from flowrl.errors import InputError
from flowrl.evaluation.reference_scores import usable_reference
from flowrl.experiments.options import RunOptions, words_of
from flowrl.experiments.preparation import Prepared, is_finished, prepare
from flowrl.report import Run
from flowrl.training.rows import EVALUATIONS
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import warn

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_TAIL = 65_536  # bytes of a log that surely hold its last line


class MatrixAgent(NamedTuple):
    """An agent of the comparison."""

    label: str  # in folders and tables
    options: RunOptions  # of its runs, but for dataset, seed and folder
    default: RunOptions  # what its name alone stands for


@dataclass(frozen=True, eq=False)
class Cell:
    """One training run of the matrix."""

    label: str
    options: RunOptions
    default: RunOptions
    """What the agent's name alone stands for."""

    def __str__(self) -> str:
        return f"{self.label} seed {self.options.seed} on {self.options.dataset}"

    @property
    def run_dir(self) -> Path:
        return self.options.folder

    @property
    def log(self) -> Path:
        """The output of its process."""
        return self.run_dir / "train.log"

    @property
    def words(self) -> list[str]:
        """What stands after ``flowrl train`` on its command line."""
        return words_of(self.options, self.default)

    @property
    def command(self) -> str:
        """The command line that trains this run alone."""
        return f"python -m flowrl train {shlex.join(self.words)}"

    def command_as_run(self, config: dict[str, Any] | None) -> str:
        """The same with the threads that a run with this configuration began with."""
        if config is None or "threads" not in config:
            return self.command
        return replace(self, options=replace(self.options, threads=config["threads"])).command


def make_cells(datasets: Sequence[str], agents: Sequence[MatrixAgent], seeds: int, out: Path) -> list[Cell]:
    """The cells in the order in which they are run: every agent with a seed before the next seed.

    Args:
        seeds: training seeds 0, 1, ...; only the first is studied, where the options ask for studies.
        out: each run folder is `out`/DATASET/LABEL-seedN.

    Raises:
        InputError: a label cannot be a folder's name, or two cells would share a run folder.
    """
    for agent in agents:
        if not _LABEL.fullmatch(agent.label):
            raise InputError(
                f"label {agent.label!r} must begin with a letter or digit and consist of these and . _ + -"
            )
    datasets = list(dict.fromkeys(datasets))
    for what, names in (("datasets", [folder_name(name) for name in datasets]), ("labels", [a.label for a in agents])):
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InputError(f"{what}: {twice[0]} is given twice, and each needs its own run folder")
    return [
        Cell(
            agent.label,
            replace(
                agent.options,
                dataset=dataset,
                seed=seed,
                run_dir=out / folder_name(dataset) / f"{agent.label}-seed{seed}",
                study=agent.options.study and seed == 0,
            ),
            agent.default,
        )
        for dataset in datasets
        for seed in range(seeds)
        for agent in agents
    ]


def finished_cells(cells: Sequence[Cell], *, device: str | None = None) -> set[Cell]:
    """The cells that are finished already. All are checked, so every mistake is reported before the first one starts.

    Args:
        device: to check on, where the cells run on another machine.

    Raises:
        InputError: an option cannot be used, or a run folder began with other options.
    """
    finished = set()
    prepared: dict[tuple[str, Selection], Prepared] = {}
    ids: dict[str, str] = {}  # of the datasets, and the name that each was given by
    said: set[str] = set()
    for cell in cells:
        options = cell.options if device is None else replace(cell.options, device=device)
        if not any(dataset == options.dataset for dataset, _ in prepared):
            prepared.clear()  # one dataset at a time in memory
        data = options.dataset, options.selection
        try:
            prepared[data] = prepare(options, prepared.get(data))
        except InputError as error:
            raise InputError(f"agent {cell.label}: {error}" if cell.label != options.agent else str(error)) from None
        mine = prepared[data]
        words = [*mine.agreement.warnings, *mine.agreement.notes, *mine.env_cautions, *mine.dataset.cautions]
        words += [*scales.cautions(mine.dataset, mine.columns), *usable_reference(mine.dataset.declared.references)[1]]
        new = [sentence for sentence in dict.fromkeys(words) if sentence not in said]
        said.update(new)
        warn(*new)
        dataset = prepared[data].dataset.id
        if (known := ids.setdefault(dataset, options.dataset)) != options.dataset:
            raise InputError(f"datasets: {known} and {options.dataset} are both {dataset}: give it once")
        folder = RunFolder(cell.run_dir)
        try:
            folder.config()
            folder.rows(EVALUATIONS)
        except (InputError, OSError):  # damaged: the cell's process reports that, and the others go on
            continue
        if not is_finished(options, prepared[data]):
            continue
        try:
            loaded = load_run(cell)
        except (InputError, OSError):  # the same
            continue
        if not (cell.options.study and loaded.study is None):
            finished.add(cell)
    return finished


def load_run(cell: Cell) -> Run:
    """A cell's finished run, with its study if it has one that can be read.

    Raises:
        InputError: the run is not finished, or damaged.
    """
    folder, study = RunFolder(cell.run_dir), None
    if cell.options.study:
        with suppress(InputError):  # such as a damaged checkpoint: the episodes are known all the same
            study = stored_study(folder)
    return Run.load(folder, cell.label, study=study)


def run_in_this_process(cell: Cell) -> str | None:
    """Run a cell's command in this process, which does nothing else; its output goes to the cell's log.

    Returns:
        What went wrong, in a sentence; None where nothing did.
    """
    try:
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        log = os.open(cell.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    for number in (1, 2):  # of the process, not only of Python: a C library's last words count
        os.dup2(log, number)
    os.close(log)
    sys.stdout, sys.stderr = (
        TextIOWrapper(FileIO(number, "w", closefd=False), "utf-8", line_buffering=True) for number in (1, 2)
    )
    print(f"{socket.gethostname()}, process {os.getpid()}: {cell.command}")
    sys.argv = ["flowrl", "train", *cell.words]
    try:
        runpy.run_module("flowrl", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return failure_of(cell, end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        return failure_of(cell, 1)
    return None


def failure_of(cell: Cell, exit_code: int) -> str | None:
    """What went wrong in a command that ended so, by the last line of its log; None where nothing did."""
    if exit_code == 0:
        return None
    with open(cell.log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    last = lines[-1].strip() if lines else ""
    return last.removeprefix("error: ") or f"its process ended with exit code {exit_code}"


class Executor(Protocol):
    """Where cells run. Leaving it stops those that still do, with their checkpoints saved."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, cell: Cell) -> None:
        """Begin a cell, or queue it."""
        ...

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """The cells that ended since the last call, each with what went wrong; waits at most `timeout` seconds."""
        ...

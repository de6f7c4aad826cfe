"""The cells of a comparison: which runs they are, which of them are finished, and how one is trained."""

import io
import os
import re
import shlex
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from flowrl.analysis.studies import stored_study, study
from flowrl.data.selection import Selection, folder_name
from flowrl.errors import InputError, cause
from flowrl.evaluation.episodes import choose_device
from flowrl.report import Run
from flowrl.scripts import train
from flowrl.scripts.cli import keep_freed_memory
from flowrl.training.loop import Stopped
from flowrl.training.run_folder import RunFolder

# What must be the same for every agent, and what the comparison itself deals out.
_NOT_OF_AN_AGENT = (
    *("dataset", "env", "env-kwargs", "seed", "targets", "episodes", "episode-seed"),
    *("run-dir", "device", "threads"),
)


@dataclass(frozen=True)
class AgentSpec:
    """An agent of the comparison: its label in folders and tables, its name, and options of its own."""

    label: str
    name: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read NAME, or `LABEL=NAME --option value ...`.

        Raises:
            InputError: the label or an option cannot be taken.
        """
        labelled = re.match(r"([^\s=]*)=(.*)", text, re.DOTALL)
        try:
            words = shlex.split(labelled[2] if labelled else text)
        except ValueError as error:
            raise InputError(f"agent {text!r} cannot be read: {error}") from None
        if not words:
            raise InputError(f"agent {text!r} names no agent: write NAME or LABEL=NAME --option value")
        label, (name, *options) = labelled[1] if labelled else words[0], words
        if options and not labelled:
            raise InputError(f"agent {text!r} has options and so needs a label: write LABEL={text}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", label):
            raise InputError(
                f"label {label!r} of agent {text!r} must begin with a letter or digit and be made of those and . _ + -"
            )
        for option in options:
            if (plain := option.partition("=")[0].removeprefix("--").replace("_", "-")) in _NOT_OF_AN_AGENT:
                raise InputError(f"agent {label}: --{plain} is the whole comparison's and cannot be one agent's")
        return cls(label, name, tuple(options))


@dataclass(frozen=True)
class Cell:
    """One training run of the matrix, with the command line that makes it."""

    label: str
    args: train.Args
    argv: tuple[str, ...]
    study: bool
    """Whether the finished run is studied too, see `scripts.studies`."""

    def __str__(self) -> str:
        return f"{self.label} seed {self.args.seed} on {self.args.dataset}"

    @property
    def run_dir(self) -> Path:
        return self.args.run_dir or train.default_run_dir(self.args)

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.run_dir / "train.log"

    @property
    def command(self) -> str:
        """The command that makes the same run alone."""
        return f"python -m scripts.train {shlex.join(self.argv)}"

    def command_as_run(self, config: dict[str, Any] | None) -> str:
        """The same with the threads that a run of this configuration has begun with, whatever is asked for now."""
        words = list(self.argv)
        if config is not None and "threads" in config and "--threads" in words:
            words[words.index("--threads") + 1] = str(config["threads"])
        return replace(self, argv=tuple(words)).command


def make_cells(
    datasets: Sequence[str], agents: Sequence[AgentSpec], seeds: int, out: Path, words: Sequence[str], *, study: bool
) -> list[Cell]:
    """The cells in the order in which they are run: every agent with a seed before the next seed.

    Args:
        study: whether the first seed of every agent is studied.
        words: the options that all have in common; an agent's own come after them and so override.
        out: each run folder is `out`/DATASET/LABEL-seedN.

    Raises:
        InputError: two cells would share a run folder, or an option of an agent cannot be used.
    """
    datasets = list(dict.fromkeys(datasets))
    for what, names in (("datasets", [folder_name(name) for name in datasets]), ("labels", [a.label for a in agents])):
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InputError(f"{what}: {twice[0]} stands there twice, and each needs a run folder of its own")
    parsed = {}
    for agent in agents:
        try:
            parsed[agent] = train.parse_args([agent.name, *words, *agent.options])
        except InputError as error:
            raise InputError(f"agent {agent.label}: {error}" if agent.options else str(error)) from None
    cells = []
    for dataset in datasets:
        for seed in range(seeds):
            for agent in agents:
                run_dir = out / folder_name(dataset) / f"{agent.label}-seed{seed}"
                own = ("--dataset", dataset, "--seed", str(seed), "--run-dir", str(run_dir))
                args = replace(parsed[agent], dataset=dataset, seed=seed, run_dir=run_dir)
                argv = (agent.name, *own, *words, *agent.options)
                cells.append(Cell(agent.label, args, argv, study and seed == 0))
    return cells


def finished(cells: Sequence[Cell], *, device: str | None = None) -> set[Cell]:
    """The cells that are finished already, after a check of all: every mistake is told before the first one starts.

    Args:
        device: to check on, where the cells' own is another machine's.

    Raises:
        InputError: what the user gave cannot be used, or a run folder began with other options.
    """
    found = set()
    prepared: dict[tuple[str, Selection], train.Prepared] = {}
    ids: dict[str, str] = {}  # of the datasets, and how each was asked for
    for cell in cells:
        args = cell.args if device is None else replace(cell.args, device=device)
        if not any(dataset == args.dataset for dataset, _ in prepared):
            prepared.clear()  # one dataset at a time in memory
        data = args.dataset, args.selection
        try:
            prepared[data] = train.prepare(args, prepared.get(data))
        except InputError as error:
            raise InputError(f"agent {cell.label}: {error}" if cell.label != args.agent else str(error)) from None
        dataset = prepared[data].dataset.id
        if (known := ids.setdefault(dataset, args.dataset)) != args.dataset:
            raise InputError(f"datasets: {known} and {args.dataset} are both {dataset}, and each can stand there once")
        folder = RunFolder(cell.run_dir)
        try:
            folder.config()
            folder.rows("evaluations.jsonl")
        except (InputError, OSError):  # damaged: its own process says so, and the others go on
            continue
        if not train.is_finished(args, prepared[data]):
            continue
        try:
            loaded = load_run(cell)
        except (InputError, OSError):  # the same
            continue
        if not (cell.study and loaded.study is None):
            found.add(cell)
    return found


def load_run(cell: Cell) -> Run:
    """A cell's finished run, with its study if one is due and can be read.

    Raises:
        InputError: it is not finished, or damaged.
    """
    folder, found = RunFolder(cell.run_dir), None
    if cell.study:
        with suppress(InputError):  # such as a damaged checkpoint: what was played is known all the same
            found = stored_study(folder)
    return Run.load(folder, cell.label, study=found)


def train_cell(cell: Cell) -> str | None:
    """Train one cell in this process, and study it if that is due.

    Returns:
        What went wrong, in a sentence; None where nothing did.
    """
    try:
        train.main(cell.args)
        if cell.study:
            study(RunFolder(cell.run_dir), choose_device(cell.args.device))
    except (InputError, Stopped) as error:
        return str(error)
    except OSError as error:
        traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {cause(error)}"
    return None


def train_in_own_process(cell: Cell) -> str | None:
    """`train_cell` in a process that does nothing else; what it says goes to the cell's `train.log`."""
    keep_freed_memory()
    try:
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        log = os.open(cell.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    for number in (1, 2):  # of the process, not only of Python: a C library's last words count
        os.dup2(log, number)
    os.close(log)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", line_buffering=True) for number in (1, 2)
    )
    print(f"{socket.gethostname()}, process {os.getpid()}: {cell.command}")
    if failure := train_cell(cell):
        print(f"error: {failure}", file=sys.stderr)
    return failure


class Executor(Protocol):
    """Where cells run. Leaving it stops those that still do, their checkpoints saved."""

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

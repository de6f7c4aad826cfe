"""Running a matrix of cells, and the report of those that finished."""

import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from flowrl.errors import InputError
from flowrl.evaluation.environments import cores
from flowrl.experiments.cells import Cell, Executor, load_run
from flowrl.experiments.cluster import Cluster
from flowrl.experiments.live import View
from flowrl.experiments.processes import Processes
from flowrl.report import Report, Run, baseline_of
from flowrl.training.device import choose_device


@dataclass(frozen=True)
class MatrixOptions:
    """Where the cells of a comparison run, and how many at a time."""

    out: Path = Path("runs/compare")
    """Where run folders and report go; with Ray on a filesystem that all nodes share."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU if this machine has one."""
    jobs: int = 0
    """Cells side by side; 0 for as many as there are CPU cores for (one on a GPU; with Ray as many as Ray allows)."""
    threads: int = 1
    """CPU threads of each cell; 0 divides the cores among the jobs. The last bits of a result depend on their number:
    1 gives the same on machines with any number of cores."""
    ray: str | None = None
    """Run the cells as Ray tasks: auto for the cluster that runs here, local to start one, else HOST:PORT or
    ray://HOST:PORT. Needs the extra flowrl[ray]; run folders must be on a filesystem that all nodes share."""
    gpus_per_cell: float | None = None
    """With Ray: GPUs of each cell, of which several can share one; by default 1 on a GPU and 0 on the CPU."""

    def check(self) -> None:
        """Raise InputError where a number is out of range."""
        for name in ("jobs", "threads"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"{name} is {value}: it must be at least 0")
        if self.gpus_per_cell is not None and not (self.ray and 0 <= self.gpus_per_cell < float("inf")):
            raise InputError(f"gpus_per_cell is {self.gpus_per_cell}: it must be at least 0, and needs ray")

    def devices(self, precision: str) -> tuple[str, str | None]:
        """The kind of device that cells run on, and the one to check them on where that is not here.

        Raises:
            InputError: there is no such device, or the precision depends on one that is not here.
        """
        if self.ray is None or not self.device.startswith("cuda") or torch.cuda.is_available():
            return choose_device(self.device).type, None
        if precision == "auto":
            raise InputError("precision 'auto' depends on the GPU, and this machine has none: choose fp32 or bf16")
        return "cuda", "cpu"

    def places(self, device: str, cells: int) -> tuple[int, int]:
        """How many cells run at once, and the CPU threads of each."""
        if self.ray is not None:
            return self.jobs or cells, self.threads or 1
        jobs = self.jobs or (1 if device == "cuda" else max(1, min(cells, cores() // max(1, self.threads))))
        return jobs, self.threads or max(1, cores() // jobs)


def run_matrix(
    cells: Sequence[Cell], reused: set[Cell], options: MatrixOptions, *, jobs: int, threads: int, device: str
) -> dict[Cell, str]:
    """Run the cells that are not reused, at most `jobs` at once, with a live view; what went wrong with those that
    failed.

    Args:
        threads: CPU threads of each cell.
        device: the kind that cells run on.

    Raises:
        InputError: Ray cannot be used.
        KeyboardInterrupt: the user stopped it; checkpoints are saved.
    """
    waiting = [cell for cell in cells if cell not in reused]
    if not waiting:
        return {}
    if options.ray is not None:
        gpus = options.gpus_per_cell if options.gpus_per_cell is not None else float(device == "cuda")
        executor: Executor = Cluster(options.ray, cpus=threads, gpus=gpus)
    else:
        executor = Processes()
    with _sigterm_as_ctrl_c(), executor:
        options.out.mkdir(parents=True, exist_ok=True)
        with View(cells, reused, Console()) as view:
            return run_cells(waiting, executor, jobs, view)


def run_cells(cells: Sequence[Cell], executor: Executor, jobs: int, view: View) -> dict[Cell, str]:
    """Run the cells, at most `jobs` at once; what went wrong with those that failed."""
    waiting, running, failures = deque(cells), set[Cell](), dict[Cell, str]()
    while waiting or running:
        while waiting and len(running) < jobs:
            cell = waiting.popleft()
            view.submitted(cell)
            executor.start(cell)
            running.add(cell)
        for cell, failure in executor.ended(timeout=1.0):
            running.remove(cell)
            if failure is not None:
                failures[cell] = failure = f"{failure} ({cell.log})"
            view.ended(cell, failure)
        view.refresh()
    return failures


def load_runs(cells: Sequence[Cell], failures: dict[Cell, str]) -> list[Run]:
    """The finished runs, agent by agent; cells that cannot be read are added to the failures."""
    places = {label: place for place, label in reversed(list(enumerate(cell.label for cell in cells)))}
    runs = []
    for cell in sorted(cells, key=lambda cell: places[cell.label]):
        try:
            runs.append(load_run(cell))  # one whose study failed is finished all the same
        except (InputError, OSError) as error:
            failures.setdefault(cell, str(error))
    return runs


def report_of(cells: Sequence[Cell], runs: Sequence[Run], failures: Mapping[Cell, str], command: str) -> Report:
    """The report of the runs that are finished.

    Args:
        command: the command line of the whole; may be empty.
    """
    configs = {run.path: run.config for run in runs}
    commands = [cell.command_as_run(configs.get(cell.run_dir)) for cell in cells]
    failed = [f"{cell}: {failure}" for cell, failure in failures.items()]
    return Report.of(runs, [*filter(None, [command]), *commands], failed, baseline_of([cell.label for cell in cells]))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Train every agent with every seed, play all on the same episodes, and report how they fare.

    python -m scripts.compare --datasets flowrl/hopper/medium-replay-v0 \
        --agents flow dt bc "bc-10=bc --top-fraction 0.1" --seeds 3 --out runs/compare

Every cell (dataset, agent, seed) is a run folder under --out: finished ones are reused, interrupted ones go on, and one
that fails is reported and stops no other. An agent is a name, or a label of your own, a name, and options of its own in
one quoted word: "LABEL=NAME --option value".
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from flowrl.data.selection import Selection
from flowrl.errors import InputError
from flowrl.evaluation.episodes import EvaluationConfig, choose_device
from flowrl.experiments.cluster import Cluster
from flowrl.experiments.live import View
from flowrl.experiments.matrix import AgentSpec, Cell, Executor, finished, load_run, make_cells
from flowrl.experiments.processes import Processes
from flowrl.report import Report, Run, baseline_of, overview_tables, write_report
from flowrl.scripts import train
from flowrl.scripts.cli import command, parse, run
from flowrl.scripts.evaluate import print_comparison
from flowrl.text import table as console


@dataclass(frozen=True)
class Args:
    """Train every agent with every seed, play all on the same episodes, and report how they fare."""

    datasets: tuple[str, ...] = (train.DEFAULT_DATASET,)
    """Minari ids, or folders of datasets; A+B is a mixture of two, as in scripts.train."""
    selection: Selection = Selection()
    agents: tuple[str, ...] = ("flow", "dt")
    """Names of agents, or "LABEL=NAME --option value ..." in one quoted word, with options of scripts.train that
    override those given here; differences are taken against dt where a label is dt, else against the first."""
    seeds: int = 1
    """How many training seeds: 0, 1, ..."""
    steps: int = 5_000
    """Gradient steps of each."""
    batch_size: int | None = None
    """Windows in a step; by default each agent's own."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """As in scripts.train."""
    evaluation: EvaluationConfig = EvaluationConfig(targets=("r0", "r25", "r50", "r75", "p90", "best", "r125"))
    evaluate_every: int = 1_000
    """Steps between the evaluations of the learning curves; 0 for none."""
    evaluate_episodes: int = 5
    """Episodes per target in them."""
    out: Path = Path("runs/compare")
    """Where run folders and report go; with --ray on a filesystem that all nodes share."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where this machine has one."""
    jobs: int = 0
    """Cells side by side; 0 for as many as there are CPU cores for (one on a GPU; with --ray as many as Ray allows)."""
    study: bool = True
    """Also study the first seed of every agent: how its action depends on the return, what it attends to, a clip."""
    threads: int = 1
    """CPU threads of each cell; 0 divides the cores among the jobs. The last bits of a result depend on their number:
    1 gives the same on machines of any number of cores."""
    ray: str | None = None
    """Run the cells as Ray tasks: auto for the cluster that runs here, local to start one, else HOST:PORT or
    ray://HOST:PORT. Needs the extra flowrl[ray]; run folders must be on a filesystem that all nodes share."""
    gpus_per_cell: float | None = None
    """With --ray: GPUs of each cell, of which several can share one; by default 1 on a GPU and 0 on the CPU."""


def main(args: Args) -> list[Path]:
    """Run the matrix and write the report; the paths of what was written.

    Raises:
        InputError: what the user gave cannot be used, or a cell failed: then the others have finished and the report
            of these is written.
    """
    for name, least in (("seeds", 1), ("jobs", 0), ("threads", 0)):
        if (value := getattr(args, name)) < least:
            raise InputError(f"{name} is {value}: it must be at least {least}")
    for name in ("datasets", "agents"):
        if not getattr(args, name):
            raise InputError(f"{name} is empty: it must name at least one")
    if args.gpus_per_cell is not None and not (args.ray and 0 <= args.gpus_per_cell < float("inf")):
        raise InputError(f"gpus_per_cell is {args.gpus_per_cell}: it must be at least 0, and needs --ray")
    agents = [AgentSpec.parse(text) for text in args.agents]
    device, checked_on = _devices(args)
    jobs, threads = _places(args, device, len(dict.fromkeys(args.datasets)) * len(agents) * args.seeds)
    cells = make_cells(args.datasets, agents, args.seeds, args.out, _options(args, threads), study=args.study)
    reused = finished(cells, device=checked_on)

    at_once = "as many at a time as Ray has room for" if args.ray and not args.jobs else f"{jobs} at a time"
    again = f"; {len(reused)} of them are finished" if reused else ""
    print(f"{len(cells)} runs on {device}, {at_once}, {threads} CPU thread(s) each{again}", flush=True)
    left = [cell for cell in cells if cell not in reused]
    failures = _run(args, cells, left, jobs, threads, device) if left else {}
    runs = _load(cells, failures)
    made, told = [], "; no report was written, and one that is there is of earlier runs"
    try:
        if runs:
            made, told = _report(args, cells, runs, failures), ""
    except OSError as error:
        if not failures:
            raise
        told += f" ({error.filename or args.out}: {error.strerror or error})"
    if failures:
        listed = "".join(f"\n  {cell}: {failure}" for cell, failure in failures.items())
        raise InputError(
            f"{len(failures)} of {len(cells)} runs failed{told}; the same command tries them again:{listed}"
        )
    return made


def _devices(args: Args) -> tuple[str, str | None]:
    """The kind of device that cells run on, and the one to check them on where that is not here."""
    if args.ray is None or not args.device.startswith("cuda") or torch.cuda.is_available():
        return choose_device(args.device).type, None
    if args.precision == "auto":
        raise InputError("precision 'auto' depends on the GPU, and this machine has none to ask: give fp32 or bf16")
    return "cuda", "cpu"


def _places(args: Args, device: str, cells: int) -> tuple[int, int]:
    """How many cells run at once, and the CPU threads of each."""
    if args.ray is not None:
        return args.jobs or cells, args.threads or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = args.jobs or (1 if device == "cuda" else max(1, min(cells, cores // max(1, args.threads))))
    return jobs, args.threads or max(1, cores // jobs)


def _options(args: Args, threads: int) -> list[str]:
    """What all cells have in common, as options of scripts.train."""
    evaluation = args.evaluation
    options = {
        **{name.replace("_", "-"): value for name, value in asdict(args.selection).items()},
        "steps": args.steps,
        "batch-size": args.batch_size,
        "precision": args.precision,
        "evaluate-every": args.evaluate_every,
        "evaluate-episodes": args.evaluate_episodes,
        "episodes": evaluation.episodes,
        "episode-seed": evaluation.episode_seed,
        "vector": evaluation.vector,
        "device": args.device,
        "threads": threads,
    }
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return ["--targets", *evaluation.targets, *given]


def _run(
    args: Args, cells: Sequence[Cell], left: Sequence[Cell], jobs: int, threads: int, device: str
) -> dict[Cell, str]:
    """Run the cells that are left; what went wrong with those that failed."""
    if args.ray is not None:
        gpus = args.gpus_per_cell if args.gpus_per_cell is not None else float(device == "cuda")
        executor: Executor = Cluster(args.ray, cpus=threads, gpus=gpus)
    else:
        executor = Processes()
    view = View(cells, set(cells) - set(left), Console())
    with _sigterm_as_ctrl_c(), executor:
        args.out.mkdir(parents=True, exist_ok=True)
        try:
            with view:
                return run_cells(left, executor, jobs, view)
        except KeyboardInterrupt:
            print("stopping, once the checkpoints are saved; the same command goes on from them", file=sys.stderr)
            raise


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


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(cells: Sequence[Cell], failures: dict[Cell, str]) -> list[Run]:
    """The finished runs, agent by agent; cells that cannot be read are added to the failures."""
    places = {label: place for place, label in reversed(list(enumerate(cell.label for cell in cells)))}
    runs = []
    for cell in sorted(cells, key=lambda cell: places[cell.label]):
        try:
            runs.append(load_run(cell))  # one whose study failed is finished all the same
        except (InputError, OSError) as error:
            failures.setdefault(cell, str(error))
    return runs


def _report(args: Args, cells: Sequence[Cell], runs: Sequence[Run], failures: Mapping[Cell, str]) -> list[Path]:
    """Report the runs that are finished; the paths of what was written."""
    places = {run.path: run.config for run in runs}
    commands = [command("compare"), *(cell.command_as_run(places.get(cell.run_dir)) for cell in cells)]
    failed = [f"{cell}: {failure}" for cell, failure in failures.items()]
    report = Report.of(runs, commands, failed, baseline_of([cell.label for cell in cells]))
    for comparison in report.comparisons:
        print(f"\n{comparison.dataset}")
        print_comparison(comparison)
    for title, lines in overview_tables(report):
        print(f"\n{title}\n{console(lines)}")
    print(f"\n{report.summary()}")
    made = write_report(report, args.out)
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in made))
    python, example = _interpreter(), runs[0].path
    print("\nnext:")
    print(f"  {python} -m scripts.evaluate {example} --episodes 100 --targets best    # more episodes, other targets")
    print(f"  {python} -m scripts.evaluate {example} --episodes 1 --video {args.out / 'episode.gif'}    # watch one")
    print(f"  {python} -m tensorboard.main --logdir {args.out}    # the training curves")
    return made


def _interpreter() -> str:
    """How this very Python is typed from here, whether or not its environment is activated."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else "python"


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

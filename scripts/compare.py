"""Train every agent with every seed, play all on the same episodes, and report how they fare.

    python -m scripts.compare --datasets flowrl/hopper/medium-replay-v0 --agents flow dt --seeds 3 --out runs/compare

Every cell (dataset, agent, seed) is a run folder under --out: finished ones are reused, interrupted ones go on.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from flowrl.checkpoint import RunFolder
from flowrl.errors import InputError
from flowrl.report import Comparison, console, cost_table, dataset_table, difference_table, score_table, write_report
from flowrl.training import Stopped
from scripts import train
from scripts.cli import parse, run
from scripts.datasets import Selection, folder_name
from scripts.episodes import EvaluationConfig, choose_device


@dataclass(frozen=True)
class Args:
    """Train every agent with every seed, play all on the same episodes, and report how they fare."""

    datasets: tuple[str, ...] = (train.DEFAULT_DATASET,)
    """Minari ids, or folders of datasets; A+B is a mixture of two, as in scripts.train."""
    selection: Selection = Selection()
    agents: tuple[str, ...] = ("flow", "dt")
    """Names of agents; differences are taken against dt where it is among them, else against the first."""
    seeds: int = 1
    """How many training seeds: 0, 1, ..."""
    steps: int = 5_000
    """Gradient steps of each."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """As in scripts.train."""
    evaluation: EvaluationConfig = EvaluationConfig(targets=("p50", "p75", "p90", "best"))
    evaluate_every: int = 1_000
    """Steps between the evaluations of the learning curves; 0 for none."""
    evaluate_episodes: int = 5
    """Episodes per target in them."""
    out: Path = Path("runs/compare")
    """Where run folders and report go."""
    device: str = "auto"
    """cpu, cuda, or auto for a GPU where there is one."""
    jobs: int = 0
    """Cells trained side by side; 0 for as many as there are CPU cores (one on a GPU)."""
    threads: int = 1
    """CPU threads of each cell; the last bits of a result depend on it, and on nothing else here."""


@dataclass(frozen=True)
class Cell:
    """One training run of the matrix, with the command that makes it."""

    dataset: str
    agent: str
    seed: int
    run_dir: Path
    argv: tuple[str, ...]

    @property
    def command(self) -> str:
        return f"python -m scripts.train {shlex.join(self.argv)}"


def main(args: Args) -> list[Path]:
    """Run the matrix and write the report; the paths of what was written.

    Raises:
        InputError: what the user gave cannot be used, or a cell failed (after all others have finished).
    """
    if args.seeds < 1 or args.jobs < 0 or not args.datasets or not args.agents:
        raise InputError(
            f"seeds is {args.seeds}, jobs {args.jobs}, datasets {len(args.datasets)}, agents {len(args.agents)}:"
            " at least 1, 0, 1 and 1 are needed"
        )
    device = choose_device(args.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cells = _cells(args)
    jobs = args.jobs or (1 if device.type == "cuda" else min(cores, len(cells)))
    # Every mistake is told before the first cell starts.
    first_of = {cell.dataset: train.parse_args(list(cell.argv)) for cell in reversed(cells)}
    for first in first_of.values():
        train.prepare(first)

    print(f"{len(cells)} runs on {device}, {jobs} at a time; each is a command that can be typed alone:")
    print("\n".join(f"  {cell.command}" for cell in cells), flush=True)
    _run_all(cells, jobs)
    comparisons = [
        Comparison.load({(c.agent, c.seed): RunFolder(c.run_dir) for c in cells if c.dataset == dataset})
        for dataset in dict.fromkeys(args.datasets)
    ]
    made = write_report(comparisons, args.out, [cell.command for cell in cells])
    for comparison in comparisons:
        print(f"\n{comparison.dataset}: returns in the dataset\n{console(dataset_table(comparison))}")
        print(f"\nreturns of the agents (the last checkpoint)\n{console(score_table(comparison))}")
        if len(comparison.agents) > 1:
            print(f"\npaired differences\n{console(difference_table(comparison))}")
        print(f"\ncost\n{console(cost_table(comparison))}\n\n{comparison.summary()}")
    print("\nwritten:")
    print("\n".join(f"  {path}" for path in made))
    python, example = _interpreter(), cells[0].run_dir
    print("\nnext:")
    print(f"  {python} -m scripts.evaluate {example} --episodes 100 --targets best    # more episodes, other targets")
    print(f"  {python} -m scripts.evaluate {example} --episodes 1 --video {args.out / 'episode.gif'}    # watch one")
    print(f"  {python} -m tensorboard.main --logdir {args.out}    # the training curves")
    return made


def _interpreter() -> str:
    """How this very Python is typed from here, whether or not its environment is activated."""
    path, here = Path(sys.executable), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else "python"


def _cells(args: Args) -> list[Cell]:
    cells = []
    for dataset in dict.fromkeys(args.datasets):
        for seed in range(args.seeds):
            for agent in dict.fromkeys(args.agents):
                run_dir = args.out / folder_name(dataset) / f"{agent}-seed{seed}"
                evaluation = args.evaluation
                options = {
                    "dataset": dataset,
                    **{name.replace("_", "-"): value for name, value in asdict(args.selection).items()},
                    "seed": seed,
                    "steps": args.steps,
                    "precision": args.precision,
                    "evaluate-every": args.evaluate_every,
                    "evaluate-episodes": args.evaluate_episodes,
                    "episodes": evaluation.episodes,
                    "episode-seed": evaluation.episode_seed,
                    "vector": evaluation.vector,
                    "device": args.device,
                    "threads": args.threads,
                    "run-dir": run_dir,
                }
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                cells.append(Cell(dataset, agent, seed, run_dir, (agent, *words, "--targets", *evaluation.targets)))
    return cells


def _run_all(cells: list[Cell], jobs: int) -> None:
    if jobs == 1:
        failures = [failure for cell in cells if (failure := _failure_of(cell))]
    else:
        failures = _run_side_by_side(cells, jobs)
    if failures:
        raise InputError(f"{len(failures)} of {len(cells)} runs failed: {'; '.join(failures)}")


def _run_side_by_side(cells: list[Cell], jobs: int) -> list[str]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_die_with_parent) as pool:
            futures = [pool.submit(_train_in_worker, cell) for cell in cells]
            try:
                return [failure for future in as_completed(futures) if (failure := future.result())]
            except BrokenProcessPool:
                raise InputError(
                    "a training process was killed: the same command goes on from its checkpoint"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()  # SIGTERM: it saves its checkpoint and stops
                raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    """Stop this worker, its checkpoint saved, when the process that started it is gone, however that died."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _train_in_worker(cell: Cell) -> str | None:
    try:
        return _failure_of(cell)
    except Stopped:  # its checkpoint is saved; the process must end with it, not take the next cell
        sys.stdout.flush()
        os._exit(1)


def _failure_of(cell: Cell) -> str | None:
    """Train one cell; what went wrong, if anything the others need not die of."""
    try:
        train.main(train.parse_args(list(cell.argv)))
    except (InputError, OSError, RuntimeError) as error:
        return f"{cell.agent} seed {cell.seed} on {cell.dataset} ({error})"
    return None


def start(argv: list[str]) -> None:
    """Parse the command line and run."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

"""What is shown of a comparison while it runs; read from the run folders, so that it does not matter where they are."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowrl.experiments.cells import Cell
from flowrl.text import duration, printable

State = Literal["waiting", "running", "evaluating", "finished", "reused", "failed"]

# Where a terminal has too few lines for all cells: what happens now stands first.
_ORDER: tuple[State, ...] = ("running", "evaluating", "failed", "waiting", "finished", "reused")
_STYLES: dict[State, str] = {"running": "bold", "evaluating": "bold", "failed": "bold red", "finished": "green"}
_TAIL = 16_384  # bytes of metrics.jsonl that surely hold its last row of training metrics
_MINUTE = 60.0


@dataclass
class _Progress:
    """What is known of one cell."""

    state: State
    submitted: bool = False
    step: int = 0
    speed: float | None = None  # training steps/s, as the run itself measured it
    log_size: int = 0  # before it was submitted: once the log grows, the cell runs
    waited: float = 0.0  # when it was last seen waiting; seconds on the view's clock, as are all times
    began: float = 0.0
    began_step: int = 0
    seen: float = 0.0  # when `step` was first seen
    pace: float | None = None  # seconds per step, evaluations included


class View:
    """Every cell's state, step, speed and time left: a table redrawn in place, or lines where that cannot be.

    Args:
        cells: all of the matrix.
        reused: those of them that were finished before.
        console: a terminal gets the table; anything else a line when a cell starts or ends, and a summary each minute.
        clock: seconds.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        reused: set[Cell],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = {cell: _Progress("reused" if cell in reused else "waiting") for cell in cells}
        for cell, progress in self._progress.items():
            progress.step = cell.options.training.steps if cell in reused else last_progress(cell.run_dir)[0]
        self._console, self._clock = console, clock
        self._summed = clock()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
            self._draw(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._draw(self._live)
            self._live.__exit__(kind, error, trace)

    def submitted(self, cell: Cell) -> None:
        """The cell runs, or will as soon as there is a place for it."""
        progress = self._progress[cell]
        progress.log_size, (progress.began_step, _) = _size(cell.log), last_progress(cell.run_dir)
        progress.submitted, progress.waited = True, self._clock()

    def ended(self, cell: Cell, failure: str | None) -> None:
        """The cell finished, or failed for the reason given."""
        self._look(cell)
        progress, now = self._progress[cell], self._clock()
        if progress.step > progress.began_step and now > progress.began:
            progress.pace = (now - progress.began) / (progress.step - progress.began_step)
        took = f" in {duration(now - progress.began)}" if progress.state != "waiting" else ""
        progress.state = "finished" if failure is None else "failed"
        self._say(f"{cell}: {progress.state}{took}{f': {failure}' if failure else ''}")

    def refresh(self) -> None:
        """Read the run folders again and show what is new."""
        for cell, progress in self._progress.items():
            if progress.submitted and progress.state in ("waiting", "running", "evaluating"):
                self._look(cell)
        if self._live is not None:
            self._draw(self._live)
        elif (now := self._clock()) - self._summed >= _MINUTE:
            self._summed = now
            self._say(self.summary())

    def summary(self) -> str:
        """The whole matrix in one line."""
        counts = Counter(progress.state for progress in self._progress.values())
        parts = [f"{counts[state]} {state}" for state in reversed(_ORDER) if counts[state]]
        left = self.seconds_left()
        return f"{len(self._progress)} runs: {', '.join(parts)}" + ("" if left is None else f"; {duration(left)} left")

    def seconds_left(self) -> float | None:
        """Of the whole matrix, as fast as its cells went so far; None while that is not known."""
        running = [self._seconds_left(cell) for cell, p in self._progress.items() if p.state == "running"]
        waiting = [self._seconds_left(cell) for cell, p in self._progress.items() if p.state == "waiting"]
        known = [seconds for seconds in running + waiting if seconds is not None]
        if not known or len(known) < len(running + waiting):
            return None
        places = max(1, sum(p.state in ("running", "evaluating") for p in self._progress.values()))
        return max(*known, sum(known) / places) if len(known) > 1 else known[0]

    def _seconds_left(self, cell: Cell) -> float | None:
        progress, steps = self._progress[cell], cell.options.training.steps
        if progress.state == "running" and progress.pace is not None:
            return max(0.0, (steps - progress.step) * progress.pace - (self._clock() - progress.seen))
        paces = {other: p.pace for other, p in self._progress.items() if p.pace is not None}
        own = [pace for other, pace in paces.items() if other.label == cell.label]
        if not (known := own or list(paces.values())):
            return None
        return (steps - progress.step) * sum(known) / len(known)

    def _look(self, cell: Cell) -> None:
        progress, now = self._progress[cell], self._clock()
        if progress.state == "waiting" and _size(cell.log) > progress.log_size:
            step = progress.began_step
            progress.state, progress.began, progress.step, progress.seen = "running", progress.waited, step, now
            self._say(f"{cell}: " + (f"goes on from about step {step:,}" if step else "started") + f" ({cell.log})")
        if progress.state not in ("running", "evaluating"):
            progress.waited = now
            return
        step, progress.speed = last_progress(cell.run_dir)
        if step < progress.began_step:  # it went back to its checkpoint
            progress.began_step = progress.step = step
        if step > progress.step:
            progress.step, progress.seen = step, now
            if now > progress.began:
                progress.pace = (now - progress.began) / (step - progress.began_step)
        progress.state = "evaluating" if step >= cell.options.training.steps else "running"

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(printable(line), soft_wrap=True, markup=False, highlight=False)

    def _draw(self, live: Live) -> None:
        ordered = sorted(self._progress.items(), key=lambda item: _ORDER.index(item[1].state))
        rows = max(1, self._console.height - 6)
        table = Table()
        for name in ("dataset", "agent", "seed", "state", "step", "steps/s", "left"):
            table.add_column(name, justify="left" if name in ("dataset", "agent", "state") else "right")
        for cell, progress in ordered[:rows]:
            busy = progress.state in ("running", "evaluating")
            left = self._seconds_left(cell) if progress.state == "running" else None
            table.add_row(
                Text(cell.options.dataset), Text(cell.label), str(cell.options.seed),
                Text(progress.state, _STYLES.get(progress.state, "")),
                f"{progress.step:,}/{cell.options.training.steps:,}",
                f"{progress.speed:.1f}" if busy and progress.speed else "",
                "" if left is None else duration(left),
            )  # fmt: skip
        hidden = [Text(f"and {len(ordered) - rows} more")] if len(ordered) > rows else []
        live.update(Group(table, *hidden, Text(self.summary())), refresh=True)


def last_progress(run_dir: Path) -> tuple[int, float | None]:
    """The last step that a run has written training metrics of, and its speed in steps/s; 0 and None before any."""
    try:
        with open(run_dir / "metrics.jsonl", "rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - _TAIL))
            lines = file.read().split(b"\n")[(1 if end > _TAIL else 0) : -1]  # whole lines alone
    except OSError:
        return 0, None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # damaged: the run itself says so
            continue
        if "steps_per_second" in row:
            return row["step"], row["steps_per_second"]
    return 0, None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

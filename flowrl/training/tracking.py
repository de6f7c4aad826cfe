"""What a run reports while it runs: lines on the console, rows in `metrics.jsonl`, points in TensorBoard."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch.utils.tensorboard import SummaryWriter

from flowrl.text import duration

if TYPE_CHECKING:  # a run folder warns
    from flowrl.training.run_folder import RunFolder


class Tracker:
    """Writes a run's metrics to the console, `metrics.jsonl` and TensorBoard; nothing before the first.

    Args:
        run: the folder to write to.
        name: stands before every console line.
        first_step: the step the run goes on from; TensorBoard forgets what a killed run wrote after it.
        last_step: the step the run ends at.
    """

    def __init__(self, run: "RunFolder", name: str, first_step: int, last_step: int) -> None:
        self.run, self.name, self.last_step = run, name, last_step
        self._first_step = self._step = first_step
        self._time, self._cpu_time = time.perf_counter(), time.process_time()

    @cached_property
    def _writer(self) -> SummaryWriter:
        return SummaryWriter(str(self.run.path), purge_step=self._first_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_writer" in vars(self):
            self._writer.close()

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Record training metrics at `step`, with the speed and the CPU seconds of this process since the last call."""
        now, cpu_now = time.perf_counter(), time.process_time()
        speed, cpu_seconds = (step - self._step) / (now - self._time), cpu_now - self._cpu_time
        self._step, self._time, self._cpu_time = step, now, cpu_now
        self._write(step, metrics | {"steps_per_second": speed, "cpu_seconds": cpu_seconds})
        values = "  ".join(f"{name.rpartition('/')[2]} {value:.4g}" for name, value in metrics.items())
        left = duration((self.last_step - step) / speed)
        self.say(f"step {step:,}/{self.last_step:,}  {values}  {speed:.1f} steps/s  {left} left")

    def record(self, step: int, metrics: dict[str, float], line: str) -> None:
        """Record other metrics at `step`, with a console line."""
        self._write(step, metrics)
        self.say(line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside is not counted as training."""
        began, cpu_began = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._time += time.perf_counter() - began
            self._cpu_time += time.process_time() - cpu_began

    def flush(self) -> None:
        """Bring what was recorded into TensorBoard's file; rows are in theirs at once."""
        if "_writer" in vars(self):
            self._writer.flush()

    def say(self, line: str) -> None:
        """A line on the console."""
        print(f"[{self.name}] {line}", flush=True)

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        self.run.append("metrics.jsonl", [{"step": step, **metrics}])
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)


def warn(*sentences: str) -> None:
    """Say on stderr what is allowed and probably not meant."""
    sys.stdout.flush()  # a warning follows what was printed before it, also where both go to one file
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)

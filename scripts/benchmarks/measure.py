"""Measuring contenders in alternation, and the rows that come of it."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

SHORTEST = 0.02  # seconds that one timing lasts at least: a shorter call is repeated within it


@dataclass(frozen=True)
class Contender:
    """Something to be timed."""

    name: str
    run: Callable[[], object]
    units: float = 1.0
    """What one call gets done (tokens, steps): its time is divided by it."""
    prepare: Callable[[], object] | None = None
    """Called before each timing and not timed; a call that has to be prepared is timed alone."""
    warm_up: Callable[[], object] | None = None
    """Called once in place of `run` before all timings, where that takes very long."""


@dataclass(frozen=True)
class Sample:
    """Repeated measurements of one thing."""

    name: str
    unit: Literal["s", "B", "GFLOP/s", "GB/s", "error"]
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    def told(self) -> str:
        """The median and, of several values, the quartiles, in a unit that suits them."""
        if len(self.values) == 1:
            return quantity(self.median, self.unit)
        factor, suffix = _scale(self.median, self.unit)
        middle, low, high = (_digits(value / factor) for value in (self.median, *self.quartiles))
        return f"{middle} [{low}, {high}]{suffix}"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": _plain(self.median),
            "quartiles": [_plain(value) for value in self.quartiles],
            "values": [_plain(value) for value in self.values],
        }


@dataclass(frozen=True)
class Row:
    """One line of a table: a measurement, what it is held against, and what their ratio should be."""

    what: str
    ours: Sample
    other: Sample | None = None
    sense: Literal["at most", "at least"] = "at most"
    """`at most`: the ratio is ours over the other's; `at least`: the other's over ours."""
    bound: float | None = None
    """The ratio that is wanted; None where it is reported alone."""
    words: str = "× the time"
    """What the ratio reads as."""

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if self.other is None:
            return None
        over, under = (self.ours, self.other) if self.sense == "at most" else (self.other, self.ours)
        return over.median / under.median

    @property
    def met(self) -> bool | None:
        """Whether the target is; None where there is none."""
        if self.ratio is None or self.bound is None:
            return None
        return self.ratio <= self.bound if self.sense == "at most" else self.ratio >= self.bound

    def cells(self) -> list[str]:
        """What a table shows of it, under `HEADINGS`."""
        ratio = "-" if self.ratio is None else f"{_digits(self.ratio)}{self.words}"
        target = "-" if self.bound is None else f"{'≤' if self.sense == 'at most' else '≥'} {self.bound:g}"
        other = ["-", "-"] if self.other is None else [self.other.name, self.other.told()]
        met = {True: "met", False: "missed", None: "-"}[self.met]
        return [self.what, self.ours.name, self.ours.told(), *other, ratio, target, met]

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "what": self.what,
            "ours": self.ours.record(),
            "other": None if self.other is None else self.other.record(),
            "ratio": None if self.ratio is None else _plain(self.ratio),
            "reads": self.words.strip(),
            "sense": self.sense,
            "target": self.bound,
            "met": self.met,
        }


HEADINGS = ["what", "ours", "median [quartiles]", "against", "median [quartiles]", "ratio", "target", ""]


def table(rows: Sequence[Row]) -> str:
    """Rows in columns below their headings: names on the left, figures on the right."""
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    signs = "<<><>>><"
    lines = ("  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(line, signs, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def faster(what: str, ours: Sample, other: Sample, bound: float | None = None) -> Row:
    """How many times the other's time ours goes into; at least `bound` is wanted."""
    return Row(what, ours, other, "at least", bound, "× faster")


def alternate(contenders: Sequence[Contender], repetitions: int, device: torch.device) -> list[Sample]:
    """Time every contender once in turn, `repetitions` times over, after a warm-up of each; seconds a unit.

    What disturbs the machine for a while so meets all of them. The garbage collector rests meanwhile, and a GPU is
    waited for.
    """
    calls = [_warm_up(contender, device) for contender in contenders]
    values: list[list[float]] = [[] for _ in contenders]
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for contender, times, mine in zip(contenders, calls, values, strict=True):
                mine.append(_time(contender, times, device) / contender.units)
    finally:
        if collects:
            gc.enable()
    return [Sample(c.name, "s", tuple(mine)) for c, mine in zip(contenders, values, strict=True)]


def _warm_up(contender: Contender, device: torch.device) -> int:
    """Run it, more than once if it is short; the number of calls that make up one timing."""
    if contender.warm_up is not None:
        contender.warm_up()
        return 1
    seconds = _time(contender, 1, device)
    if contender.prepare is not None:
        return 1
    if seconds < 5 * SHORTEST:  # a first call is slower than those that follow
        seconds = _time(contender, 2, device)
    return max(1, math.ceil(SHORTEST / seconds))


def _time(contender: Contender, times: int, device: torch.device) -> float:
    """Seconds of one call, the mean of so many."""
    if contender.prepare is not None:
        contender.prepare()
    _synchronise(device)
    began = time.perf_counter()
    for _ in range(times):
        contender.run()
    _synchronise(device)
    return (time.perf_counter() - began) / times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """The memory that tensors keep alive: whole storages, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


_SCALES: dict[str, list[tuple[float, str]]] = {
    "s": [(1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")],
    "B": [(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")],
}


def quantity(value: float, unit: str) -> str:
    """`0.0123 s` as 12.3 ms, and so on."""
    factor, suffix = _scale(value, unit)
    return f"{_digits(value / factor)}{suffix}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    if unit == "error":
        return 1.0, ""
    scales = _SCALES.get(unit, [(1.0, f" {unit}")])
    return next((scale for scale in scales if value >= scale[0]), scales[-1])


def _digits(value: float) -> str:
    """Three significant digits, without an exponent where the number is near 1."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN

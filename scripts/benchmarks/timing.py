"""Timing calls in alternation, and the rows and the table that come of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from flowrl.text import DASH, number, table
from flowrl.training.device import choose_precision

Row = dict[str, Any]
"""One contender of a comparison, as plain values: `what` is compared, the contender's `name`, the `median` and the
quartiles `low` and `high` of its values, their `unit` ("s", "B", "/s" or "" for relative errors), and its `ratio`, the
median over that of the first contender. In place of the numbers it may have a `note` that says why there are none."""

SHORTEST = 0.02  # seconds of one timing: a shorter call is repeated within it
LONG = 1.0  # seconds of a call that is timed less often
UNITS = {
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
    "B": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")],
    "/s": [(1.0, "/s")],
}


def alternate(
    calls: Mapping[str, Callable[[], object]], repetitions: int, *, cpu: bool = False
) -> dict[str, list[float]]:
    """Seconds of every call, `repetitions` times, or a quarter as often where one takes more than a second.

    After a warm-up each call is timed once in turn, over and over: what disturbs the machine for a while slows all of
    them.

    Args:
        cpu: seconds of the CPU, of all threads together, not of the clock on the wall.
    """
    first = {name: _warm_up(call) for name, call in calls.items()}
    if max(first.values()) > LONG:
        repetitions = math.ceil(repetitions / 4)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            seconds[name].append(_time(call, max(1, math.ceil(SHORTEST / first[name])), cpu=cpu))
    return seconds


def _warm_up(call: Callable[[], object]) -> float:
    """Seconds of a call that is not the first one, unless it is long."""
    seconds = _time(call, 1)
    return _time(call, 2) if seconds < 5 * SHORTEST else seconds


def _time(call: Callable[[], object], times: int, *, cpu: bool = False) -> float:
    """Mean seconds of so many calls; a GPU is waited for."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else (lambda: None)
    now = time.process_time if cpu else time.perf_counter
    wait()
    began = now()
    for _ in range(times):
        call()
    wait()
    return (now() - began) / times


def precisions(device: torch.device) -> dict[Literal["fp32", "bf16"], torch.dtype]:
    """Those that the device has units for."""
    fast = choose_precision("auto", device) == "bf16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16} if fast else {"fp32": torch.float32}


def compared(what: str, values: Mapping[str, Sequence[float]], unit: str = "s") -> list[Row]:
    """A row a contender; ratios are to the first one.

    Args:
        values: of each contender, by its name.
    """
    medians = {name: float(np.median(mine)) for name, mine in values.items()}
    first = next(iter(medians.values()))
    rows = []
    for name, median in medians.items():
        low, high = map(float, np.quantile(values[name], (0.25, 0.75)))
        row = {"what": what, "name": name, "median": median, "low": low, "high": high, "unit": unit}
        rows.append(row | {"ratio": median / first})
    return rows


def untimed(what: str, name: str, note: str) -> Row:
    """The row of a contender that has no values; `note` says why."""
    return {"what": what, "name": name, "note": note}


def rows_table(rows: Sequence[Row]) -> str:
    """The rows for the console; what is compared is written once."""
    lines, what = [["", "", "median", "quartiles", "ratio"]], None
    for row in rows:
        title, what = "" if row["what"] == what else row["what"], row["what"]
        if "note" in row:
            lines.append([title, row["name"], DASH, row["note"], DASH])
            continue
        scales = UNITS.get(row["unit"], [(1.0, "")])
        scale, unit = next((scale for scale in scales if row["median"] >= scale[0]), scales[-1])
        median, low, high = (number(row[name] / scale, significant=3) for name in ("median", "low", "high"))
        quartiles, ratio = f"[{low}, {high}]", number(row["ratio"], significant=3)
        lines.append([title, row["name"], f"{median} {unit}", quartiles, ratio])
    return table(lines)

"""The machine: what it is, and how fast it multiplies and copies at the model's sizes."""

import os
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowrl.scripts.benchmarks.measure import Contender, Row, Sample, alternate, quantity
from flowrl.scripts.benchmarks.setting import Setting


def machine(setting: Setting) -> Iterator[Row]:
    """The rates that the least time of a step follows from: matrix products, batched ones, copies."""
    sizes, device = setting.sizes, setting.device
    tokens, width = 3 * sizes.batch * sizes.context, sizes.width
    for precision in setting.precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        for rows, inner, columns in (
            (tokens, width, 3 * width),  # to q, k and v
            (tokens, width, 4 * width),  # up
            (tokens, 4 * width, width),  # down
        ):
            a, b = torch.randn(rows, inner).to(device, dtype), torch.randn(inner, columns).to(device, dtype)
            product = Contender(f"matmul {precision}", partial(torch.mm, a, b))
            yield _rate(setting, product, f"{rows} × {inner} × {columns}", 2e-9 * rows * inner * columns, "GFLOP/s")
        for batch, heads, length, features in sizes.core_shapes:
            a = torch.randn(batch * heads, length, features).to(device, dtype)
            product = Contender(f"bmm {precision}", partial(torch.bmm, a, a.mT))
            work = 2e-9 * batch * heads * length**2 * features
            yield _rate(setting, product, f"{batch * heads} of {length} × {features} × {length}", work, "GFLOP/s")
    for what, size in (("the tokens of a batch", tokens * width), (quantity(4 * sizes.copied, "B"), sizes.copied)):
        source = torch.randn(size).to(device)
        copy = Contender("copy fp32", partial(torch.empty_like(source).copy_, source))
        yield _rate(setting, copy, f"{what}, read and written", 8e-9 * size, "GB/s")


def _rate(setting: Setting, contender: Contender, what: str, work: float, unit: Any) -> Row:
    (times,) = alternate([contender], setting.repetitions, setting.device)
    return Row(what, Sample(contender.name, unit, tuple(work / seconds for seconds in times.values)))


def describe(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, and when."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

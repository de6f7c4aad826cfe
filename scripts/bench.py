"""Measure speed and exactness against what people use, and print a table a section.

    flowrl bench --quick
    flowrl bench --sections core step --threads 1 --out bench.json

Contenders are timed in turn, after a warm-up. A ratio is that of the medians, to the first contender; brackets hold the
quartiles.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flowrl.errors import InputError
from flowrl.evaluation.environments import cores
from flowrl.evaluation.episodes import versions
from flowrl.experiments.preparation import commit
from flowrl.files import write_atomically
from flowrl.scripts.benchmarks.agents import acting, evaluation, step
from flowrl.scripts.benchmarks.attention import core, exactness, layers
from flowrl.scripts.benchmarks.data import loading
from flowrl.scripts.benchmarks.gpu import gpu
from flowrl.scripts.benchmarks.timing import Row, rows_table
from flowrl.scripts.benchmarks.values import values
from flowrl.scripts.cli import parse, run
from flowrl.training.device import choose_device, isolated_rng

SECTIONS: dict[str, Callable[[torch.device, int, bool], list[Row]]] = {
    "core": core,
    "layers": layers,
    "step": step,
    "acting": acting,
    "values": values,
    "evaluation": evaluation,
    "loading": loading,
    "exactness": exactness,
    "gpu": gpu,
}


@dataclass(frozen=True)
class Args:
    """Measure speed and exactness against what people use, and print a table a section."""

    sections: tuple[str, ...] = tuple(name for name in SECTIONS if name != "gpu")
    """What is measured: core and layers (attention alone), step (of training), acting, values (updates of value-based
    agents), evaluation, loading, exactness; gpu, only if it is named: all that a GPU does, in 6 minutes at most."""
    quick: bool = False
    """Smaller sizes and fewer repetitions, to see that it runs; the numbers mean little."""
    device: str | None = None
    """cpu, cuda, or auto for a GPU where there is one; by default cpu, or auto where the section gpu is named."""
    threads: int = 1
    """CPU threads of torch."""
    repetitions: int | None = None
    """Timings of each contender, by default 11, or 3 if quick; a quarter of them where one takes more than a second."""
    out: Path | None = None
    """A JSON file for the rows and what they were measured on, written at the end."""


def main(args: Args) -> list[Row]:
    """Measure, print and write; the rows, each with its section.

    Raises:
        InputError: an option cannot be used; nothing has been measured.
    """
    repetitions = (3 if args.quick else 11) if args.repetitions is None else args.repetitions
    _check(args, repetitions)
    device = choose_device(args.device or ("auto" if "gpu" in args.sections else "cpu"))
    if device.index:
        torch.cuda.set_device(device)  # the one that the timing waits for
    header = _header(args, device, repetitions)
    print(f"{header['processor']}, {header['cores']} cores, load {header['load']:.1f}, on {header['device']}")
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with isolated_rng(0, device):
            for name in dict.fromkeys(args.sections):
                began = time.perf_counter()
                measured = SECTIONS[name](device, repetitions, args.quick)
                print(f"\n{name} ({time.perf_counter() - began:.0f} s)\n{rows_table(measured)}", flush=True)
                rows += [{"section": name} | row for row in measured]
    finally:
        torch.set_num_threads(threads)
    if args.out is not None:
        write_atomically(args.out, (json.dumps({"header": header, "rows": rows}, indent=1) + "\n").encode())
        print(f"\nwritten to {args.out}")
    return rows


def _check(args: Args, repetitions: int) -> None:
    if not args.sections:
        raise InputError(f"no section is named: known are {', '.join(SECTIONS)}")
    if unknown := set(args.sections) - set(SECTIONS):
        raise InputError(f"unknown section {min(unknown)!r}: known are {', '.join(SECTIONS)}")
    for name, value in (("repetitions", repetitions), ("threads", args.threads)):
        if value < 1:
            raise InputError(f"{name} is {value}: it must be at least 1")
    if args.out is not None and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        raise InputError(f"{args.out} cannot be written")


def _header(args: Args, device: torch.device, repetitions: int) -> dict[str, Any]:
    """What the numbers were measured on, when and how."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    processors = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    options = {name: value for name, value in asdict(args).items() if name != "out"}
    return options | {
        "repetitions": repetitions,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": next(processors, platform.machine()),
        "cores": cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "versions": versions(),
        "commit": commit(),
    }


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

"""Measure speed, memory and exactness against what people use, and print a table a section.

    python -m scripts.bench --quick
    python -m scripts.bench --sections core step --threads 1 --json bench.json

Every comparison alternates: after a warm-up each contender is timed once in turn, as often as asked for, and the ratio
is that of the medians. Brackets hold the quartiles.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from flowrl.errors import InputError
from flowrl.evaluation.episodes import choose_device, versions
from flowrl.files import write_atomically
from flowrl.scripts.benchmarks.acting import cache, evaluation, rollout
from flowrl.scripts.benchmarks.attention import core, layers, memory
from flowrl.scripts.benchmarks.loading import loading
from flowrl.scripts.benchmarks.machine import cores, describe, machine
from flowrl.scripts.benchmarks.measure import Row, quantity, table
from flowrl.scripts.benchmarks.numerics import numerics
from flowrl.scripts.benchmarks.setting import FULL, QUICK, Setting
from flowrl.scripts.benchmarks.training import context, memory_training, sampling, step
from flowrl.scripts.cli import parse, run

Name = Literal[
    "machine",
    "core",
    "layers",
    "memory",
    "step",
    "sampling",
    "context",
    "memory-training",
    "rollout",
    "cache",
    "evaluation",
    "loading",
    "numerics",
]


class Section(NamedTuple):
    """What is measured under one name."""

    title: str
    measure: Callable[[Setting], Iterator[Row]]
    by_threads: bool = True
    """Whether the number of threads matters to it."""


SECTIONS: dict[Name, Section] = {
    "machine": Section("what the machine can do", machine),
    "core": Section("the attention alone, forward and backward, float32 unless said otherwise", core),
    "layers": Section("whole layers of every attention, float32", layers),
    "memory": Section("what autograd saves between forward and backward", memory, by_threads=False),
    "step": Section("a whole training step", step),
    "sampling": Section("sampling a batch", sampling),
    "context": Section("a training step in long windows, by the token", context),
    "memory-training": Section(
        "a training step on whole episodes or with a carried state, by the token", memory_training
    ),
    "rollout": Section("a step of many episodes, the model alone", rollout),
    "cache": Section("a step with the whole history", cache),
    "evaluation": Section("a step of one environment, model and simulator", evaluation),
    "loading": Section("a dataset on disk into tensors", loading, by_threads=False),
    "numerics": Section("errors against float64, at the last tokens", numerics, by_threads=False),
}


@dataclass(frozen=True)
class Args:
    """Measure speed, memory and exactness against what people use, and print a table a section."""

    sections: tuple[Name, ...] = get_args(Name)
    """Which parts are measured."""
    quick: bool = False
    """Smaller sizes and fewer repetitions: under a minute. The targets are stated for the full sizes."""
    threads: tuple[int, ...] = ()
    """Numbers of CPU threads, one after the other; by default 1 and the number of cores, or 1 if quick."""
    repetitions: int | None = None
    """Timings of each contender, a quarter as many where one takes seconds; by default 21, or 5 if quick."""
    json: Path | None = None
    """A file for all of it, written at the end."""
    device: str = "cpu"
    """cpu, cuda, or auto for a GPU where there is one."""


def main(args: Args) -> list[dict[str, Any]]:
    """Measure, print and write; the rows as the file holds them.

    Raises:
        InputError: what the user gave cannot be used; nothing has been measured.
    """
    setting, threads = _prepare(args)
    header = describe(setting.device) | {
        "versions": versions(),
        "threads": threads,
        "repetitions": setting.repetitions,
        "quick": args.quick,
        "precisions": setting.precisions,
        "sizes": asdict(setting.sizes),
    }
    _print_header(header)
    rows = []
    before = torch.get_num_threads()
    try:
        for name in dict.fromkeys(args.sections):
            rows += _measure(name, setting, threads)
    finally:
        torch.set_num_threads(before)
    judged = [row["met"] for row in rows if row["met"] is not None]
    print(f"\n{sum(judged)} of {len(judged)} targets met")
    if args.json is not None:
        document = {"header": header, "rows": rows}
        write_atomically(args.json, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        print(f"written to {args.json}")
    return rows


def _prepare(args: Args) -> tuple[Setting, tuple[int, ...]]:
    repetitions = (5 if args.quick else 21) if args.repetitions is None else args.repetitions
    if repetitions < 1:
        raise InputError(f"repetitions is {repetitions}: it must be at least 1")
    if not args.sections:
        raise InputError(f"sections is empty: known are {', '.join(SECTIONS)}")
    if bad := [count for count in args.threads if not 1 <= count <= 1_024]:
        raise InputError(f"threads is {bad[0]}: it must be at least 1 and at most 1,024")
    if args.json is not None:
        folder = args.json.parent
        if not folder.is_dir():
            raise InputError(f"--json {args.json}: there is no folder {folder}")
        if args.json.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"--json {args.json}: no file can be written there")
    device = choose_device(args.device)
    default = (1, cores()) if device.type == "cpu" and not args.quick else (1,)
    threads = tuple(dict.fromkeys(args.threads or default))
    return Setting(device, repetitions, QUICK if args.quick else FULL), threads


def _print_header(header: dict[str, Any]) -> None:
    print(
        f"{header['processor']}, {header['cores']} cores, {quantity(header['memory_bytes'], 'B')}"
        f" (load {header['load']:.1f} at the start), {header['date']}, on {header['device']}"
    )
    print(", ".join(f"{name} {version}" for name, version in header["versions"].items()))
    threads = " and ".join(map(str, header["threads"]))
    print(f"threads: {threads}; repetitions: {header['repetitions']}, a quarter where one takes seconds")
    if "bf16" not in header["precisions"]:
        print("bf16 is not measured: this device has no units for it")
    if header["load"] > 0.5:
        print(
            "other work runs beside this, or did: several threads then wait for each other, and ratios can be far off"
        )
    if header["quick"]:
        print("quick: smaller sizes and fewer repetitions than those that the targets are stated for")


def _measure(name: Name, setting: Setting, threads: Sequence[int]) -> list[dict[str, Any]]:
    """Measure a section with each number of threads and print its tables."""
    section = SECTIONS[name]
    records = []
    for count in threads if section.by_threads else threads[:1]:
        torch.set_num_threads(count)
        with_threads = f", {count} thread{'s' * (count > 1)}" if section.by_threads else ""
        print(f"\n{name}: {section.title}{with_threads}", end="", flush=True)
        began = time.perf_counter()
        rows = list(section.measure(setting))
        print(f" ({time.perf_counter() - began:.0f} s)")
        print(table(rows), flush=True)
        records += [{"section": name, "threads": count} | row.record() for row in rows]
    return records


def start(argv: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    main(parse(Args, argv))


if __name__ == "__main__":
    run(start)

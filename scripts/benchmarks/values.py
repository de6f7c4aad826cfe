"""Value-based agents: updates of each beside a textbook version, and beside the matrix products that they need."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowrl.agents import AGENTS
from flowrl.data.dataset import TrajectoryDataset
from flowrl.scripts.benchmarks.agents import STEPS, training_step
from flowrl.scripts.benchmarks.data import random_dataset
from flowrl.scripts.benchmarks.textbook_values import TEXTBOOK_VALUES, Replay
from flowrl.scripts.benchmarks.timing import Row, alternate, compared, precisions
from flowrl.training.config import AgentConfig, TrainingConfig

VALUE_AGENTS = ("iql-paper", "td3-bc-paper", "awac-paper", "rebrac-paper", "cql-paper", "fql-paper", "iql", "rebrac")
LAYERS = 2
PERIOD = 2  # updates of one call: some agents train their policy at every second one

Shapes = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Of the two factors of a matrix product, or of a batch of them, and their dtype."""


def values(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """Updates a second of the CPU (on a GPU: of the clock), from drawing the batch on; a ratio above 1 is faster.

    Each contender is followed by its matrix products alone, as fast as this machine multiplies: no update with the same
    products can be faster.
    """
    batch, width = (32, 32) if quick else (256, 256)
    data, rows, cpu = random_dataset(5 if quick else 100), [], device.type == "cpu"
    replay, on_device = Replay(data, batch), data.to(device)
    for name in VALUE_AGENTS:
        config, updates = of_size(AGENTS[name].config.for_dataset(data), width), {}
        if (textbook := TEXTBOOK_VALUES.get(name.removesuffix("-paper"))) is not None and cpu:
            updates["textbook fp32"] = textbook(replay, STEPS, width).update
        for precision in precisions(device):
            updates[f"{name} {precision}"] = training_step(config, TrainingConfig(STEPS, batch, precision), on_device)
        calls: dict[str, Callable[[], object]] = {}
        for contender, update in updates.items():
            calls[contender] = some = repeated(update)
            calls[f"{contender}, its products alone"] = multiply(products_of(some), device)
        if textbook is not None and not quick:
            calls |= compiled(config, batch, on_device)
        seconds = alternate(calls, repetitions, cpu=cpu)
        rates = {contender: [PERIOD / value for value in each] for contender, each in seconds.items()}
        rows += compared(f"updates of {name}, batch {batch}, {LAYERS} × {width}", rates, "/s")
    return rows


def compiled(config: AgentConfig, batch: int, data: TrajectoryDataset) -> dict[str, Callable[[], object]]:
    """The same updates with compiled losses, ready to be timed."""
    network = replace(config.network, compile=True)  # pyright: ignore[reportAttributeAccessIssue]
    config, calls = replace(config, network=network), {}  # pyright: ignore[reportCallIssue, reportArgumentType]
    for precision in precisions(torch.device(data.rewards.device)):
        calls[f"compiled {precision}"] = some = repeated(
            training_step(config, TrainingConfig(STEPS, batch, precision), data)
        )
        some()
    return calls


def of_size(config: AgentConfig, width: int) -> AgentConfig:
    """The settings with `LAYERS` hidden layers of that width."""
    network = replace(config.network, width=width, layers=LAYERS)  # pyright: ignore[reportAttributeAccessIssue]
    return replace(config, network=network)  # pyright: ignore[reportArgumentType,reportCallIssue]


def repeated(update: Callable[[], object]) -> Callable[[], None]:
    """`PERIOD` updates as one call."""

    def some() -> None:
        for _ in range(PERIOD):
            update()

    return some


class _Products(TorchDispatchMode):
    """Counts the matrix products that are computed inside, those of gradients too, by their shapes."""

    kinds = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Shapes] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self.kinds:
            left, right = args[-2:]
            self.counts[tuple(left.shape), tuple(right.shape), left.dtype] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], object]) -> Counter[Shapes]:
    """How often a call computes which matrix products."""
    with _Products() as products:
        call()
    return products.counts


def multiply(products: Counter[Shapes], device: torch.device) -> Callable[[], None]:
    """Computes these products and nothing else, into memory that is there."""
    ready = []
    for (left, right, dtype), count in products.items():
        out = torch.empty(*left[:-1], right[-1], dtype=dtype, device=device)
        factors = (torch.randn(shape, device=device).to(dtype) for shape in (left, right))
        ready.append((count, torch.mm if len(left) == 2 else torch.bmm, *factors, out))

    def alone() -> None:
        for count, product, left, right, out in ready:
            for _ in range(count):
                product(left, right, out=out)

    return alone

"""What a GPU does in minutes: training steps eager, compiled and as CUDA graphs, updates of value-based agents, acting.

On a CPU it is a rehearsal with small sizes. What cannot be timed has a row that says why, and the others go on.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.agents import AGENTS
from flowrl.agents.cloning import CloningLearner
from flowrl.agents.sequence import SequenceConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import WHOLE, Batch
from flowrl.errors import InputError, cause
from flowrl.nn.normaliser import Normaliser
from flowrl.nn.state import tensors_of
from flowrl.nn.trajectory_actor import TrajectoryActor
from flowrl.scripts.benchmarks.agents import STEPS, act, history, preset, random_actor, random_step, training_step
from flowrl.scripts.benchmarks.data import ACTION_SIZE, OBSERVATION_SIZE, random_dataset
from flowrl.scripts.benchmarks.timing import Row, alternate, compared, precisions, untimed
from flowrl.scripts.benchmarks.values import LAYERS, VALUE_AGENTS, of_size
from flowrl.training.config import TrainingConfig

Call = Callable[[], object]

PREPARED = 300.0  # seconds after which no contender is prepared any more
ENDED = 345.0  # seconds after which nothing is timed any more
EACH = 90.0  # seconds that one contender may take to be ready: some compilations take minutes
HEAD = 64  # features of an attention head
WARM_UP = 3  # calls before a CUDA graph is recorded


def gpu(device: torch.device, repetitions: int, quick: bool) -> list[Row]:
    """Everything in the order in which it may be left out when time is up: compilations come last."""
    clock, quick = _Clock(), quick or device.type != "cuda"
    data = random_dataset(5 if quick else 100).to(device)
    rows = _updates(data, clock, repetitions, quick)
    for slots in (1, 4) if quick else (1, 256):
        rows += _acting(device, slots, clock, repetitions, quick)
    for context, batch in ((5, 4), (12, 2)) if quick else ((20, 64), (1_000, 8)):
        for width in (16,) if quick else (128, 512):
            rows += _training(data, context, batch, width, clock, repetitions)
    return rows


def _training(
    data: TrajectoryDataset, context: int, batch: int, width: int, clock: "_Clock", repetitions: int
) -> list[Row]:
    """A whole training step, from drawing the batch to the learning rate's schedule."""
    device = data.rewards.device
    heads, (*slower, best) = max(1, width // HEAD), precisions(device)
    training = TrainingConfig(STEPS, batch, best)

    def graph(config: SequenceConfig) -> Call:
        return captured_step(config.build(Normaliser.of(data).cpu(), training, device), data, batch)

    makers: dict[str, Callable[[], Call]] = {}
    agents = {name: preset(name, heads=heads, context=context, width=width) for name in ("dt", "flow")}
    for name, config in agents.items():
        makers[f"{name} eager"] = partial(training_step, config, training, data)
        for precision in slower:
            makers[f"{name} eager, {precision}"] = partial(
                training_step, config, replace(training, precision=precision), data
            )
        makers[f"{name} CUDA graph"] = partial(graph, config)
    for name, config in agents.items():
        compiled = replace(config, cloning=replace(config.cloning, compile=True))
        makers[f"{name} compiled"] = partial(training_step, compiled, training, data)
    what = f"training step, K {context:,}, batch {batch}, width {width}, H {heads}, {best}"
    return timed(what, makers, clock, repetitions)


def _updates(data: TrajectoryDataset, clock: "_Clock", repetitions: int, quick: bool) -> list[Row]:
    """An update of every value-based agent, from drawing the batch on."""
    batch, width = (32, 32) if quick else (256, 256)
    makers = {
        f"{name} {precision}": partial(
            training_step,
            of_size(AGENTS[name].config.for_dataset(data), width),
            TrainingConfig(STEPS, batch, precision),
            data,
        )
        for name in VALUE_AGENTS
        for precision in precisions(data.rewards.device)
    }
    return timed(f"update, batch {batch}, {LAYERS} × {width}", makers, clock, repetitions)


def _acting(device: torch.device, slots: int, clock: "_Clock", repetitions: int, quick: bool) -> list[Row]:
    """A step of many episodes, late in them, without a simulator."""
    late, width = (30, 16) if quick else (1_000, 128)

    def make(name: str, mode: str, finish: Callable[..., Call]) -> Call:
        actor = random_actor(name, device, width=width, rollout=mode)
        return finish(actor, history(actor, slots, late, device), *random_step(slots, device))

    def perceptron() -> Call:
        normaliser = Normaliser(OBSERVATION_SIZE, ACTION_SIZE)
        actor: Any = AGENTS["bc"].config.build(normaliser, TrainingConfig(), device).actor
        return partial(act, actor.eval(), None, *random_step(slots, device))

    ways = [("flow", "recurrent"), ("flow", "window"), ("dt", "recurrent"), ("dt", "window")]
    makers: dict[str, Callable[[], Call]] = {
        f"{name} {mode}": partial(make, name, mode, partial(partial, act)) for name, mode in ways
    }
    makers["flow recurrent, CUDA graph"] = partial(make, "flow", "recurrent", captured_act)
    makers["perceptron"] = perceptron
    return timed(f"acting at step {late:,}, {slots} slots, width {width}", makers, clock, repetitions)


def captured_step(learner: CloningLearner, data: TrajectoryDataset, batch_size: int) -> Call:
    """As `training_step`; what the GPU does in a step, its optimiser included, is recorded once as a CUDA graph.

    Raises:
        InputError: the data are on no GPU.
    """
    device, generator = data.rewards.device, torch.Generator().manual_seed(0)
    sampler = learner.sampler(data, batch_size, WHOLE)
    learner.actor.train()
    batch: Batch = sampler.draw(torch.Generator().manual_seed(1))  # its memory is read at every replay
    for group in learner.optimiser.param_groups:
        group |= {"capturable": True, "lr": torch.tensor(group["lr"], device=device)}

    def work() -> None:
        # Weights that autocast caches would be those of the recording for ever.
        with torch.autocast(device.type, torch.bfloat16, enabled=learner.bf16, cache_enabled=False):
            loss = learner.loss(batch)
        learner.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters, learner.config.clip_norm)
        learner.optimiser.step()

    replay = captured(work, device)

    def step() -> None:
        for mine, drawn in zip(batch, sampler.draw(generator), strict=True):
            mine.copy_(drawn)
        replay()
        learner.schedule.step()

    return step


def captured_act(actor: TrajectoryActor, carry: Any, observations: Tensor, rewards: Tensor) -> Call:
    """A recurrent actor's step as a CUDA graph; each call is the next step of the same observations.

    Raises:
        InputError: the observations are on no GPU.
    """

    @torch.inference_mode()
    def work() -> None:
        after = act(actor, carry, observations, rewards)
        for mine, new in zip(tensors_of(carry), tensors_of(after), strict=True):
            mine.copy_(new)
        carry.timestep.copy_(after.timestep)  # one for all slots: not among the tensors of the state

    return captured(work, observations.device)


def captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`work` recorded as a CUDA graph after a few calls of it; it must read and write the same memory every time.

    Raises:
        InputError: the device is no GPU.
    """
    if device.type != "cuda":
        raise InputError("a CUDA graph needs a GPU")
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class _Clock:
    """Seconds since the section began."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def until(self, end: float) -> float:
        """Seconds left until then."""
        return end - (time.perf_counter() - self._began)


class _TimeUp(BaseException):
    """Not an Exception, which a compiler would catch and report as a failure of its own."""


def timed(what: str, makers: Mapping[str, Callable[[], Call]], clock: _Clock, repetitions: int) -> list[Row]:
    """The rows of contenders that are made one after the other, called once, and then timed in turn.

    A contender that fails, or is not ready in time, has a note in place of values; the ratios are to the first that has
    values.
    """
    calls, notes = {}, {}
    for name, make in makers.items():
        try:
            with _at_most(min(EACH, clock.until(PREPARED))):
                call = make()
                call()
            calls[name] = call
        except _TimeUp as up:
            notes[name] = str(up)
        except Exception as error:  # out of memory, no compiler, what a graph cannot record: whatever it is
            notes[name] = cause(error)
    values: dict[str, list[float]] = {}
    try:
        with _at_most(clock.until(ENDED)):
            values = alternate(calls, repetitions) if calls else {}
    except _TimeUp as up:
        notes |= dict.fromkeys(calls, str(up))
    except Exception as error:
        notes |= dict.fromkeys(calls, cause(error))
    rows = {row["name"]: row for row in compared(what, values)} if values else {}
    return [rows.get(name) or untimed(what, name, notes[name]) for name in makers]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `_TimeUp` inside once so many seconds have passed, or at once where none are left.

    Where there is no such signal, and in other threads than the main one, what has begun is not interrupted.
    """
    if seconds <= 0:
        raise _TimeUp("not begun: time was up")
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def up(signum: int, frame: Any) -> None:
        raise _TimeUp(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

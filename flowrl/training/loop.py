"""The training loop: any agent, any dataset; stopped or killed at any step, it goes on to the same weights."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Chunks, Context, sample_episodes, sample_windows
from flowrl.errors import InputError, cause
from flowrl.nn.trajectory import map_state, tensors_of
from flowrl.protocols import Agent, CarryingAgent
from flowrl.training import distributed
from flowrl.training.run_folder import RunFolder
from flowrl.training.tracking import Tracker


@dataclass(frozen=True)
class TrainingConfig:
    """How an agent is trained: AdamW, with linear warm-up."""

    steps: int = 10_000
    """Gradient steps."""
    batch_size: int = 64
    """Windows in a step (episodes, or chunks with a carried state), of all processes together."""
    windows: Literal["uniform", "full"] = "uniform"
    """Windows begin at any step alike, and one that reaches over its episode's end is padded; full: such a one begins
    so much earlier that it is full, or with its episode."""
    learning_rate: float = 1e-3
    """AdamW's learning rate after warm-up."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear"] = "linear"
    """After warm-up the learning rate stays, or falls linearly to 0 at the last step: its checkpoint is the result."""
    clip_norm: float = 0.25
    """Largest norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 trains under bfloat16 autocast, weights and flows in float32; auto: where that is fast."""
    compile: bool = False
    """Compile the loss with torch.compile."""
    log_every: int = 100
    """Steps between two rows of training figures."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name, known in (
            ("precision", ("auto", "fp32", "bf16")),
            ("schedule", ("constant", "linear")),
            ("windows", ("uniform", "full")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: known are {', '.join(known)}")

    def rate(self, step: int) -> float:
        """The factor on the learning rate of the step after `step` steps, in (0, 1]."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1, self.steps - self.warmup_steps)
        return warm if self.schedule == "constant" else min(warm, left)


def choose_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """What `auto` means on a device: bf16 where it has units for it; emulated it is many times slower than fp32."""
    if name != "auto":
        return "bf16" if name == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fast = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16" if fast else "fp32"


class Stopped(Exception):
    """SIGINT or SIGTERM ended the training early; its checkpoint is saved.

    Args:
        signum: the signal's number.
        step: the last step done.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(signum, step)  # both, so that it can be pickled back from a worker process
        self.signum, self.step = signum, step

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name} after step {self.step:,}"


def train(
    agent: Agent,
    dataset: TrajectoryDataset,
    config: TrainingConfig,
    run: RunFolder,
    *,
    seed: int,
    name: str,
    evaluate: Callable[[int, Tracker], None],
    evaluate_every: int = 0,
) -> None:
    """Train `agent` in place from the run folder's checkpoint, or from its present weights, to `config.steps`.

    Call it inside `isolated_rng(seed, device)` and with the folder locked; of several processes, in every one inside
    `distributed.group()`. Rank 0 alone writes, evaluates and needs the lock.

    Args:
        dataset: on the agent's device.
        seed: of the data order.
        name: stands before console lines.
        evaluate: called as ``evaluate(step, tracker)`` every `evaluate_every` steps (0: never); it must draw nothing
            from torch's generator.

    Raises:
        InputError: the checkpoint is of another architecture or dataset, training diverged, or the processes cannot
            share a batch equally.
        Stopped: a signal asked for the end; the checkpoint is saved.
    """
    assert isinstance(agent, nn.Module)
    distributed.share(config.batch_size)
    device = dataset.rewards.device
    optimiser = torch.optim.AdamW(
        agent.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: config.rate(step))
    windows = torch.Generator().manual_seed(seed)
    precision = choose_precision(config.precision, device)
    batches = Batches(agent, dataset, config)
    loss_of = torch.compile(batches.loss_of) if config.compile else batches.loss_of
    parameters = list(agent.parameters())

    def snapshot(step: int) -> dict[str, Any]:
        return {
            "step": step,
            "agent": agent.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "generators": {"windows": windows.get_state(), **_rng_states(device)},
            "loss": {"sum": loss_sum, "count": loss_count},
            "carried": batches.snapshot(),
            "config": run.config(),
            "fingerprint": dataset.fingerprint,
        }

    first = 0
    distributed.seed_own_dropout(seed)
    loss_sum, loss_count = torch.zeros((), device=device), 0  # since the last row of figures
    if (checkpoint := run.load()) is not None:
        if checkpoint["fingerprint"] != dataset.fingerprint:
            raise InputError(f"the data of {dataset.id} have changed since run folder {run.path} began")
        load_weights(agent, checkpoint, run)
        optimiser.load_state_dict(checkpoint["optimiser"])
        schedule.load_state_dict(checkpoint["schedule"])
        windows.set_state(checkpoint["generators"]["windows"])
        _set_rng_states(device, checkpoint["generators"])
        loss_sum, loss_count = checkpoint["loss"]["sum"].to(device), checkpoint["loss"]["count"]
        batches.restore(checkpoint.get("carried"))
        first = checkpoint["step"]
    if len(set(distributed.gather(first))) > 1:
        raise InputError(f"the processes do not see the same checkpoint: {run.path} must be a folder that all share")
    distributed.from_rank_zero(run.rewind, first)

    with (
        distributed.data_parallel(agent, loss_of) as loss_of,
        Tracker(run, name, first, config.steps) as tracker,
        _signal_caught() as caught,
    ):
        if first and distributed.rank() == 0:
            tracker.say(f"goes on from step {first:,}")
        agent.train()
        for step in range(first + 1, config.steps + 1):
            batch = batches.next(windows)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                try:
                    loss = batches.carry(loss_of(*batch))
                except Exception as error:  # without a compiler inductor raises classes of its own
                    if config.compile and step == first + 1:
                        raise InputError(f"--compile does not work here: {cause(error)}") from error
                    raise
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            rate = schedule.get_last_lr()[0]
            optimiser.step()
            schedule.step()
            loss_sum, loss_count = loss_sum + loss.detach(), loss_count + 1

            last = step == config.steps
            if evaluate_every and (step % evaluate_every == 0) and not last:
                with tracker.paused():
                    distributed.from_rank_zero(evaluate, step, tracker)
            logging = last or step % config.log_every == 0
            saving = last or step % config.checkpoint_every == 0
            signum = distributed.largest(caught[0] if caught else 0)  # all stop, and after the same step
            stopping = signum > 0
            if logging or saving or stopping:
                loss_sum = distributed.mean(loss_sum)
                mean_loss = float(loss_sum) / loss_count
                if not (math.isfinite(mean_loss) and all(bool(p.isfinite().all()) for p in parameters)):
                    raise InputError(
                        f"training diverged by step {step:,} (the loss is {mean_loss:.4g}): a lower --learning-rate may"
                        " help; these weights were not saved"
                    )
                if logging:
                    figures = {"loss": mean_loss, "gradient_norm": float(norm), "learning_rate": float(rate)}
                    named = {f"train/{name}": figure for name, figure in figures.items()}
                    distributed.from_rank_zero(tracker.progress, step, named)
                    loss_sum, loss_count = torch.zeros((), device=device), 0
            if saving or stopping:
                distributed.from_rank_zero(run.save, snapshot(step))
            if stopping:
                raise Stopped(signum, step)


def check_batches(config: TrainingConfig, context: Context, *, carries: bool) -> None:
    """Check that batches can be made as asked for.

    Args:
        context: the agent's.
        carries: whether it is trained on chunks that follow each other.

    Raises:
        InputError: a setting is of windows, and these are none.
    """
    if context != "episode" and not carries:
        return
    what = "a carried state" if carries else "whole episodes"
    if config.windows == "full":
        raise InputError(f"windows is 'full' with {what}: it must be 'uniform', since no window is cut short")
    if config.compile:
        raise InputError(f"compile is True with {what}: batches are of many lengths, and each would be compiled anew")


class Batches:
    """What the loss takes, step by step: a batch, and where a state is carried from one to the next, that as well."""

    def __init__(self, agent: Agent, dataset: TrajectoryDataset, config: TrainingConfig) -> None:
        carries = isinstance(agent, CarryingAgent) and agent.carries
        check_batches(config, agent.context, carries=carries)
        self.context: Context = agent.context
        self.dataset, self.config = dataset, config
        self.part = {"rank": distributed.rank(), "ranks": distributed.world_size()}
        self.loss_of: Callable[..., Any] = agent.loss
        self.chunks, self.state = None, None
        if carries:
            assert isinstance(agent, CarryingAgent)
            assert agent.context != "episode"
            self.loss_of = agent.carried_loss
            self.chunks = Chunks(dataset, config.batch_size, agent.context, **self.part)
            self.state = agent.initial_state(distributed.share(config.batch_size))

    def next(self, generator: torch.Generator) -> tuple[Any, ...]:
        """The arguments of the loss for the next step."""
        size, context = self.config.batch_size, self.context
        if self.chunks is not None:
            return *self.chunks.next(generator), self.state
        if context == "episode":
            return (sample_episodes(self.dataset, size, generator, **self.part),)
        full = self.config.windows == "full"
        return (sample_windows(self.dataset, size, context, generator, full=full, **self.part),)

    def carry(self, result: Any) -> torch.Tensor:
        """The loss of what the loss function returned; a state in it is kept for the next batch."""
        if self.chunks is None:
            return result
        loss, self.state = result
        return loss

    def snapshot(self) -> dict[str, Any] | None:
        """What is carried, to be saved: the states of all ranks, row by row."""
        if self.chunks is None:
            return None
        of_ranks = distributed.gather([x.cpu() for x in tensors_of(self.state)])
        return {"rows": self.chunks.rows, "state": [torch.cat(parts) for parts in zip(*of_ranks, strict=True)]}

    def restore(self, saved: dict[str, Any] | None) -> None:
        """Go on from a snapshot."""
        if self.chunks is None or saved is None:
            return
        self.chunks.rows = saved["rows"]
        own = iter(x.chunk(self.part["ranks"])[self.part["rank"]] for x in saved["state"])
        self.state = map_state(lambda x: next(own).to(x), self.state)


def load_weights(agent: Agent, checkpoint: dict, run: RunFolder) -> None:
    """Copy a checkpoint's weights into `agent`.

    Raises:
        InputError: they are of another architecture; the message names the first tensor that disagrees.
    """
    assert isinstance(agent, nn.Module)
    weights, expected = checkpoint["agent"], agent.state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the checkpoint in {run.path} is of another architecture: {name} is {shapes[0]}, not {shapes[1]}"
            )
    agent.load_state_dict(weights)
    # Agents of other attentions have the same tensors: only the configuration tells them apart.
    # So do those that are shown other features, or whose action is another kind of the same size.
    for name in ("agent", "agent_config", "observation_columns", "discrete_start"):
        was, is_ = ((config or {}).get(name) for config in (checkpoint["config"], run.config()))
        if was != is_:
            raise InputError(f"the checkpoint in {run.path} is of another agent: its {name} is {was}, not {is_}")


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (initial weights, dropout) inside, and leave them outside as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _rng_states(device: torch.device) -> dict[str, Any]:
    """Rank 0's state, and under `other_ranks` those of the others, if any."""
    first, *others = distributed.gather(_rng_state(device))
    return {**first, "other_ranks": others} if others else first


def _set_rng_states(device: torch.device, states: dict[str, Any]) -> None:
    """Set this rank's state; one that was not there when they were taken keeps its own."""
    known = [states, *states.get("other_ranks", [])]
    if distributed.rank() < len(known):
        _set_rng_state(device, known[distributed.rank()])


def _set_rng_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def _signal_caught() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of the first; a second one acts as ever."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python takes signals in the main thread alone
        yield caught
        return

    def note(signum: int, frame: object) -> None:
        caught.append(signum)
        signal.signal(signum, before[signum])

    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, note)
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

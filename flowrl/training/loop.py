"""The training loop: any learner, any dataset; stopped or killed at any step, it goes on to the same weights."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Part
from flowrl.errors import InputError, cause
from flowrl.protocols import Learner, Sampler
from flowrl.training import distributed
from flowrl.training.checkpoint import UNFIT, is_finite, restore
from flowrl.training.config import TrainingConfig
from flowrl.training.device import rng_states, set_rng_states
from flowrl.training.run_folder import RunFolder
from flowrl.training.stored_json import is_whole_number
from flowrl.training.tracking import Tracker


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
    learner: Learner,
    dataset: TrajectoryDataset,
    config: TrainingConfig,
    run: RunFolder,
    *,
    seed: int,
    name: str,
    evaluate: Callable[[int, Tracker], None] | None = None,
    evaluate_every: int = 0,
) -> None:
    """Train `learner` in place from the run folder's checkpoint, or from its present weights, to `config.steps`.

    Call it inside `isolated_rng(seed, device)` and with the folder locked; of several processes, in every one inside
    `distributed.group()`. Rank 0 alone writes, evaluates and needs the lock.

    Args:
        dataset: on the learner's device.
        seed: of the data order.
        name: stands before console lines.
        evaluate: called as ``evaluate(step, tracker)`` every `evaluate_every` steps (0: never) but the last; it must
            draw nothing from torch's generator.

    Raises:
        InputError: the checkpoint is of another agent or dataset, training diverged, or the processes cannot share a
            batch equally.
        Stopped: a signal ended the training early; the checkpoint is saved.
    """
    distributed.share(config.batch_size)
    device = dataset.rewards.device
    order = torch.Generator().manual_seed(seed)
    sampler = learner.sampler(dataset, config.batch_size, Part(distributed.rank(), distributed.world_size()))
    metrics = Means()
    first = 0
    distributed.seed_own_dropout(seed)
    if (checkpoint := run.load()) is not None:
        restore(learner, checkpoint, run.config() or {}, run.path, dataset.fingerprint)
        _restore_place(sampler, order, metrics, device, checkpoint, run)
        first = checkpoint["step"]
    if len(set(distributed.gather(first))) > 1:
        raise InputError(f"the processes do not see the same checkpoint: {run.path} must be a folder that all share")
    if first > config.steps:
        raise InputError(f"the checkpoint in {run.path} is of step {first:,}, and steps is {config.steps:,}")
    distributed.from_rank_zero(run.rewind, first, ended=first == config.steps)

    def snapshot(step: int) -> dict[str, Any]:
        return {
            "step": step,
            "learner": learner.state_dict(),
            "sampler": sampler.state_dict(),
            "generators": {"order": order.get_state(), "ranks": rng_states(device)},
            "metrics": metrics.state_dict(),
            "config": run.config(),
            "fingerprint": dataset.fingerprint,
        }

    with Tracker(run, name, first, config.steps) as tracker, _signal_caught() as caught:
        if first and distributed.rank() == 0:
            tracker.say(f"goes on from step {first:,}")
        learner.actor.train()
        for step in range(first + 1, config.steps + 1):
            metrics.add(learner.update(sampler.draw(order), step))

            last = step == config.steps
            if evaluate is not None and evaluate_every and step % evaluate_every == 0 and not last:
                with tracker.paused():
                    distributed.from_rank_zero(evaluate, step, tracker)
            logging = last or step % config.log_every == 0
            saving = last or step % config.checkpoint_every == 0
            signum = distributed.largest(caught[0] if caught else 0)  # all stop, and after the same step
            if not (logging or saving or signum):
                continue
            means = metrics.means()
            _check_finite(means, step)
            if logging:
                named = {f"train/{key}": value for key, value in means.items()}
                distributed.from_rank_zero(tracker.progress, step, named)
                metrics = Means()
            if saving or signum:
                state = snapshot(step)
                if not is_finite(state["learner"]):
                    raise _diverged(step, "a weight or a statistic is NaN or infinite")
                tracker.flush()  # a kill after the checkpoint loses no point before it
                distributed.from_rank_zero(run.save, state)
            if signum:
                raise Stopped(signum, step)


def _restore_place(
    sampler: Sampler,
    order: torch.Generator,
    metrics: "Means",
    device: torch.device,
    checkpoint: dict[str, Any],
    run: RunFolder,
) -> None:
    """Set all but the learner to where a run's checkpoint goes on; raise InputError where it does not say."""
    try:
        sampler.load_state_dict(checkpoint["sampler"])
        order.set_state(checkpoint["generators"]["order"])
        set_rng_states(device, checkpoint["generators"]["ranks"])
        metrics.load_state_dict(checkpoint["metrics"])
    except UNFIT as error:
        raise InputError(f"the checkpoint in {run.path} does not say how to go on: {cause(error)}") from error


class Means:
    """Means of metrics over training steps and processes; a metric counts the steps that returned it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Count the scalars of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means since the beginning, over all processes, which must call it at the same time."""
        # Every process goes on with the mean of the sums, so that a resumed run rounds as an uninterrupted one.
        self._sums = {name: distributed.mean(total) for name, total in self._sums.items()}
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """The sums as `means` left them, and the counts."""
        return {"sums": {name: total.cpu() for name, total in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        sums, counts = dict(state["sums"]), dict(state["counts"])
        if sums.keys() != counts.keys() or not all(map(is_whole_number, counts.values())):
            raise ValueError("its metrics have sums without counts")
        if not all(isinstance(total, Tensor) and total.ndim == 0 for total in sums.values()):
            raise ValueError("a sum of its metrics is no scalar")
        self._sums, self._counts = sums, counts


def _check_finite(means: dict[str, float], step: int) -> None:
    for name, mean in means.items():
        if not math.isfinite(mean):
            raise _diverged(step, f"the {name.replace('_', ' ')} is {mean:.4g}")


def _diverged(step: int, what: str) -> InputError:
    return InputError(
        f"training diverged by step {step:,} ({what}): a lower learning rate may help; these weights were not saved"
    )


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

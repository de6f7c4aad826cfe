"""Training in several processes that torchrun started: who am I, what do all agree on, what does rank 0 do alone.

Without torchrun there is one process, rank 0, and every function here is what it says for that one.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowrl.data.samplers import Batch
from flowrl.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")


def world_size() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def rank() -> int:
    """This process's number, from 0 to `world_size()` - 1."""
    return int(os.environ["RANK"]) if _launched() else 0


def _launched() -> bool:
    # Not by WORLD_SIZE alone: cluster managers set that for processes that know nothing of each other.
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def group() -> Iterator[None]:
    """The processes can speak with each other inside: gloo between CPUs, and nccl between GPUs where there are any."""
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    # All wait while rank 0 plays an evaluation, which may last hours. A rank that dies is noticed by torchrun.
    dist.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU where `device` is one, whatever its number; else `device`.

    Raises:
        InputError: there are more processes than GPUs.
    """
    if world_size() == 1 or device.type != "cuda":
        return device
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > gpus:
        raise InputError(
            f"{processes} processes on a machine with {gpus} GPUs: each needs one (--device cpu needs none)"
        )
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


def share(batch_size: int) -> int:
    """How many of `batch_size` windows are each process's.

    Raises:
        InputError: they cannot be shared equally.
    """
    each, over = divmod(batch_size, world_size())
    if over:
        raise InputError(f"batch_size is {batch_size}: it must be divisible by the number of processes, {world_size()}")
    return each


def seed_own_dropout(seed: int) -> None:
    """Seed torch's generator of every rank but 0 by `seed` and the rank; rank 0 draws what one process would."""
    if rank():
        torch.manual_seed(int(np.random.SeedSequence((seed, rank())).generate_state(1, np.uint64)[0]))


@contextmanager
def data_parallel(agent: nn.Module, loss_of: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Inside, the ranks' parts of the loss of the whole batch; the agent's weights become those of rank 0.

    Args:
        loss_of: the mean over the real steps of a rank's windows; one that takes more than these returns more as well.

    Returns:
        A function of what `loss_of` takes. It returns the same, but for the mean: the mean over the ranks of its
        values, and of their gradients after ``backward()``, is that of the mean over the real steps of all windows.
    """
    if world_size() == 1:
        yield loss_of
        return
    parallel = DistributedDataParallel(_Loss(agent, loss_of), gradient_as_bucket_view=True)
    try:
        yield parallel
    finally:
        # These hold the group. The last holder's end waits for gloo's threads; by a later garbage collection it would
        # do so with the interpreter's lock held, which those threads may need to end: a deadlock.
        del parallel.reducer, parallel.logger


# What follows is called by all ranks alike, in the same order.


def mean(value: Tensor) -> Tensor:
    """The mean of the ranks' values."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of the ranks; they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_zero(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns on rank 0, which alone calls it; the others wait.

    Raises:
        InputError, OSError: on rank 0 what it raised; on the others an InputError of the same words.
    """
    if world_size() == 1:
        return function(*args, **kwargs)
    value = _raised_by_all(function, *args, **kwargs) if rank() == 0 else _raised_by_all(lambda: None)
    return gather(value)[0]  # pyright: ignore[reportReturnType]


def rank_zero_first(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns on this rank; the others call it after rank 0, so that what it downloads is there.

    Raises:
        InputError, OSError: as `from_rank_zero`, whichever rank it was that failed.
    """
    if world_size() == 1:
        return function(*args, **kwargs)
    if rank() == 0:
        value = _raised_by_all(function, *args, **kwargs)
        _raised_by_all(lambda: None)
        return value
    _raised_by_all(lambda: None)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # rank 0 has said it all
        return _raised_by_all(function, *args, **kwargs)


def _raised_by_all(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns; where it fails on one rank, all ranks raise."""
    value: Any = None
    failure = None
    try:
        value = function(*args, **kwargs)
    except (InputError, OSError) as error:
        failure = error
    said = [words for words in gather(None if failure is None else str(failure)) if words is not None]
    if failure is not None:
        raise failure
    if said:
        raise InputError(said[0])
    return value


class _Loss(nn.Module):
    """DistributedDataParallel calls `forward`; agents have a loss."""

    def __init__(self, agent: nn.Module, loss_of: Callable[..., Any]) -> None:
        super().__init__()
        self.agent, self.loss_of = agent, loss_of

    def forward(self, batch: Batch, *carried: Any) -> Any:
        result = self.loss_of(batch, *carried)
        loss, *state = result if carried else (result,)
        real = (~batch.is_pad).sum().to(loss.dtype)
        loss = loss * (real / mean(real))  # the ranks' windows may hold more padding or less
        return (loss, *state) if carried else loss

"""Training in several processes that torchrun started: ranks, what all agree on, and what rank 0 does alone.

Without torchrun there is one process, rank 0, and every function here is what it says for that one.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowrl.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")


def world_size() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def _alone() -> bool:
    """Whether there is nobody to exchange with: one process, or several outside of `group`."""
    return world_size() == 1 or not dist.is_initialized()


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
        dist.barrier()  # none leaves while another still receives
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process of several with exit code 0; all must be written and closed. Does nothing in one process alone.

    Python's own way out is skipped: while it ends, a thread of torch.distributed that still wants its lock is unwound,
    and now and then that aborts the process ("terminate called without an active exception"), which torchrun takes for
    a failure of all.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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


# What follows is called by all ranks alike, in the same order.


def mean(value: Tensor) -> Tensor:
    """The mean of the ranks' values."""
    if _alone():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def part_of_mean(value: Tensor, weight: Tensor) -> Tensor:
    """A mean over this rank's items, scaled so that the mean over the ranks is the mean over all items of all ranks.

    Args:
        value: scalar, the mean over this rank's items.
        weight: scalar, how many these are.
    """
    if _alone():
        return value
    weight = weight.to(value.dtype)
    return value * (weight / mean(weight))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the ranks: call it after each ``backward()``, before clipping.

    Args:
        parameters: the same ones with a gradient on every rank.
    """
    if _alone():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(world_size())
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    if _alone():
        return number
    most = torch.tensor(number)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of the ranks; they are pickled."""
    if _alone():
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

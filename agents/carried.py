"""States that learners carry from chunk to chunk: they begin anew with an episode, and all processes save them."""

from typing import TypeVar

import torch
from torch import Tensor

from flowrl.nn.state import map_state, tensors_of
from flowrl.training import distributed

S = TypeVar("S")


def begun_anew(state: S, begins: Tensor) -> S:
    """The state with zeros in the rows where `begins` (B,) is True."""
    return map_state(lambda x: x.masked_fill(begins.view(-1, *(1,) * (x.ndim - 1)), 0), state)


def of_all_processes(state: object) -> list[Tensor]:
    """The state's tensors on the CPU, with the rows of all processes; all call it at the same time."""
    of_ranks = distributed.gather([x.cpu() for x in tensors_of(state)])
    return [torch.cat(parts) for parts in zip(*of_ranks, strict=True)]


def of_this_process(state: S, saved: list[Tensor]) -> S:
    """A state like `state` with this process's rows of what `of_all_processes` gave."""
    own = iter(x.chunk(distributed.world_size())[distributed.rank()] for x in saved)
    return map_state(lambda x: next(own).to(x), state)

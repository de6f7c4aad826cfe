"""States of trajectory models: tensors in nested lists and tuples, with the batch as their first axis."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

S = TypeVar("S")


def map_state(function: Callable[[Tensor], Tensor], state: S) -> S:
    """A copy of a state with `function` applied to every tensor whose first axis is the batch."""
    if isinstance(state, Tensor):
        return function(state) if state.ndim else state  # pyright: ignore[reportReturnType]
    if not isinstance(state, list | tuple):
        return state
    parts = [map_state(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)  # pyright: ignore[reportReturnType]


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state that `map_state` takes, in their order."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_state(collect, state)
    return tensors

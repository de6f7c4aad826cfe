"""torch.compile for the losses of a learner, as an option."""

from collections.abc import Callable
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

import torch

from flowrl.errors import InputError, cause


def compiled(loss: MethodType) -> Callable[..., Any]:
    """`loss` of a learner, compiled at its first call.

    Raises:
        InputError: at the first call, where there is no working compiler.
    """
    # A copy of its code: torch.compile counts versions by code object, over all learners of a process, and after a few
    # of them it runs what it was given uncompiled, in silence.
    method = loss.__func__
    own = FunctionType(
        method.__code__.replace(), method.__globals__, method.__name__, method.__defaults__, method.__closure__
    )
    own.__kwdefaults__ = method.__kwdefaults__
    inner, works = torch.compile(MethodType(own, loss.__self__)), False

    def run(*arguments: Any) -> Any:
        nonlocal works
        try:
            value = inner(*arguments)
        except Exception as error:  # without a compiler inductor raises classes of its own
            if works:
                raise
            raise InputError(f"compile is True and torch.compile does not work here: {cause(error)}") from error
        works = True
        return value

    return run


def compilable(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of an `ActorCritic` that is compiled where its `network.compile` is True.

    It computes losses from tensors, draws no random numbers and changes no weight.
    """

    @wraps(method)
    def run(self: Any, *arguments: Any) -> Any:
        if not self.network.compile:
            return method(self, *arguments)
        if method not in self.compiled:
            self.compiled[method] = compiled(MethodType(method, self))
        return self.compiled[method](*arguments)

    return run

"""Whether a saved state fits what it is loaded into, part by part: names, types, shapes, and optimisers as a whole."""

from typing import Any

import torch
from torch import Tensor

from flowrl.training.stored_json import is_number

# What Adam keeps for a weight it has moved, and of a group of weights.
_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_GROUP = {"lr", "betas", "eps", "weight_decay"}


def misfit(saved: Any, own: Any, path: str = "") -> str | None:
    """The first place at which a saved tree is not of the form of `own`, as 'a.b is X, not Y'; None if there is none.

    Tensors need the same shape and type, other values the same kind. Where `own` has None or a list of another length,
    and what it does not have at all, anything fits.
    """
    if isinstance(own, dict):
        if not isinstance(saved, dict):
            return _is_not(path, saved, own)
        for name in own:
            inner = f"{path}.{name}" if path else str(name)
            if name not in saved:
                if has_tensor(own[name]):  # other versions of torch keep other plain values
                    return f"{inner} is absent, not {shown(own[name])}"
            elif (found := misfit(saved[name], own[name], inner)) is not None:
                return found
        return None
    if isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple):
            return _is_not(path, saved, own)
        pairs = zip(saved, own, strict=True) if len(saved) == len(own) else ()
        places = (misfit(one, other, f"{path}.{index}") for index, (one, other) in enumerate(pairs))
        return next((found for found in places if found is not None), None)
    if isinstance(own, Tensor):
        fits = isinstance(saved, Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    elif is_number(own):
        fits = is_number(saved)
    else:
        fits = own is None or isinstance(saved, type(own))
    return None if fits else _is_not(path, saved, own)


def has_tensor(tree: Any) -> bool:
    """Whether there is a tensor in nested dicts and lists."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return any(map(has_tensor, tree)) if isinstance(tree, list | tuple) else isinstance(tree, Tensor)


def shown(value: Any) -> str:
    """A value as a message can name it."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return text if len(text := repr(value)) <= 80 else f"{text[:77]}..."


def check_optimisers(learner: Any) -> None:
    """Check what torch takes over unread: the state of a learner's optimisers, where they are attributes of it.

    Raises:
        ValueError: a state is not that of its weight, so that the next step would fail.
    """
    for name, optimiser in vars(learner).items():
        if not isinstance(optimiser, torch.optim.Optimizer):
            continue
        needed = _ADAM if isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW) else set()
        for group in optimiser.param_groups:
            if missing := (_GROUP & optimiser.defaults.keys()) - group.keys():
                raise ValueError(f"{name} has no {min(missing)}")
        for weight, state in optimiser.state.items():
            if not (isinstance(weight, Tensor) and isinstance(state, dict) and state.keys() >= needed):
                raise ValueError(f"{name} lacks the state of a weight")
            for part, value in state.items():
                _check_state(f"{name}.{part}", value, weight)


def _check_state(name: str, value: Any, weight: Tensor) -> None:
    """Raise ValueError where a part of an optimiser's state can belong to no weight of that shape and type."""
    if isinstance(value, Tensor):
        fits = value.numel() == 1 or (value.shape, value.dtype) == (weight.shape, weight.dtype)
    else:
        fits = value is None or is_number(value)
    if not fits:
        raise ValueError(f"{name} is {shown(value)} of a weight {shown(weight)}")


def _is_not(path: str, saved: Any, own: Any) -> str:
    return f"{path} is {shown(saved)}, not {shown(own)}"

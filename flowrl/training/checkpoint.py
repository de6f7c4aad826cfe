"""The contents of a checkpoint: nested dicts and lists of tensors and plain values, with a checksum over all."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowrl.errors import InputError, cause
from flowrl.protocols import Learner
from flowrl.training.first_wave import is_first_wave, upgraded_checkpoint

CHECKSUM = "checksum"
_PARTS = {"step", "learner", "sampler", "generators", "metrics", "config", "fingerprint"}
# Agents of other attentions, of other features or of discrete actions can have tensors of the same shapes: only the
# configuration tells them apart.
_IDENTITY = ("agent", "agent_config", "observation_columns", "discrete_start")


def to_bytes(checkpoint: dict[str, Any]) -> memoryview:
    """The file's content; `from_bytes` gives the checkpoint back."""
    buffer = io.BytesIO()  # torch hides a full disk behind an error of its own when it writes the file itself
    torch.save(checkpoint | {CHECKSUM: checksum(checkpoint)}, buffer)
    return buffer.getbuffer()


def from_bytes(content: bytes, name: str) -> dict[str, Any]:
    """The checkpoint in a file's content, on the CPU.

    Args:
        name: of the file, for messages.

    Raises:
        InputError: it is damaged, or no checkpoint of flowrl.
    """
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message is advice on an argument of its own
        raise InputError(f"{name} is damaged or no checkpoint of flowrl") from error
    except Exception as error:  # of a damaged pickle any step can fail
        raise InputError(f"{name} is damaged or no checkpoint of flowrl: {cause(error)}") from error
    if is_first_wave(checkpoint):
        return upgraded_checkpoint(checkpoint)
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= {*_PARTS, CHECKSUM}:
        raise InputError(f"{name} is no checkpoint of flowrl")
    expected = checkpoint.pop(CHECKSUM)
    if checksum(checkpoint) != expected:
        raise InputError(f"{name} is damaged: its checksum does not fit its contents")
    return checkpoint


def checksum(tree: Any) -> str:
    """A digest of nested dicts, lists and tuples of tensors and plain values: of every name, type, shape and bit."""
    digest = hashlib.blake2b(digest_size=16)
    _digest(tree, digest)
    return digest.hexdigest()


def _digest(tree: Any, digest: Any) -> None:
    if isinstance(tree, dict):
        digest.update(b"{")
        for key, value in tree.items():
            digest.update(repr(key).encode())
            _digest(value, digest)
        digest.update(b"}")
    elif isinstance(tree, list | tuple):
        digest.update(b"[")
        for value in tree:
            _digest(value, digest)
        digest.update(b"]")
    elif isinstance(tree, Tensor):
        digest.update(f"{tree.dtype}{tuple(tree.shape)}".encode())
        digest.update(tree.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    else:
        digest.update(f"{type(tree).__name__}{tree!r}".encode())


def is_finite(tree: Any) -> bool:
    """Whether no tensor in nested dicts, lists and tuples holds NaN or infinity."""
    if isinstance(tree, dict):
        return all(is_finite(value) for value in tree.values())
    if isinstance(tree, list | tuple):
        return all(is_finite(value) for value in tree)
    return not isinstance(tree, Tensor) or not tree.is_floating_point() or bool(tree.isfinite().all())


def restore(
    learner: Learner, checkpoint: dict[str, Any], config: dict[str, Any], run: Path, fingerprint: str | None = None
) -> None:
    """Load a run's checkpoint into a learner.

    Args:
        config: of the run.
        run: its folder, for messages.
        fingerprint: of the dataset to go on with; None to play only.

    Raises:
        InputError: the checkpoint is of another agent, architecture, dataset or version.
    """
    if fingerprint is not None:
        if "sampler" not in checkpoint:
            raise InputError(
                f"run {run} was trained by an earlier flowrl: it can be evaluated, but its training cannot go on; train"
                " anew in another folder"
            )
        if checkpoint["fingerprint"] != fingerprint:
            raise InputError(f"the data have changed since run {run} began")
    for name in _IDENTITY:
        was, is_ = (checkpoint["config"] or {}).get(name), config.get(name)
        if was != is_:
            raise InputError(f"the checkpoint in {run} is of another agent: its {name} is {was}, not {is_}")
    saved, own = (dict(_shapes(state)) for state in (checkpoint["learner"], learner.state_dict()))
    weights = {path for path in saved if path.startswith("actor.")}  # a new optimiser lacks what a used one has
    for path in sorted(weights | own.keys()):
        was, is_ = (shapes.get(path, "absent") for shapes in (saved, own))
        if was != is_:
            raise InputError(f"the checkpoint in {run} is of another architecture: {path} is {was}, not {is_}")
    try:
        learner.load_state_dict(checkpoint["learner"])
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the checkpoint in {run} is of another architecture: {cause(error)}") from error


def _shapes(tree: Any, path: str = "") -> list[tuple[str, tuple[int, ...]]]:
    """(dotted path, shape) of every tensor in nested dicts."""
    if isinstance(tree, Tensor):
        return [(path, tuple(tree.shape))]
    if not isinstance(tree, dict):
        return []
    return [item for key, value in tree.items() for item in _shapes(value, f"{path}.{key}" if path else str(key))]

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
from flowrl.training.fitting import check_optimisers, misfit, shown
from flowrl.training.seal import is_sealed, seal
from flowrl.training.stored_config import entry, other_run
from flowrl.training.stored_json import is_whole_number

CHECKSUM = "checksum"
# The parts, and of which types they must be.
_PARTS: dict[str, tuple[type, ...]] = {
    **{"step": (int,), "learner": (dict,), "sampler": (dict,), "generators": (dict,), "metrics": (dict,)},
    **{"config": (dict, type(None)), "fingerprint": (str,)},
}
# Agents of other attentions, of other features or of discrete actions can have tensors of the same shapes: only the
# configuration tells them apart.
_IDENTITY = ("agent", "agent_config", "observation_size", "observation_columns", "action_size", "discrete_start")
# What reading a state of another kind raises, in torch and in our own learners.
UNFIT = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError)


def to_bytes(checkpoint: dict[str, Any]) -> memoryview:
    """The file's content; `from_bytes` gives the checkpoint back."""
    buffer = io.BytesIO()  # torch hides a full disk behind an error of its own when it writes the file itself
    torch.save(checkpoint | {CHECKSUM: checksum(checkpoint)}, buffer)
    seal(buffer)
    return buffer.getbuffer()


def from_bytes(content: bytes, name: str) -> dict[str, Any]:
    """The checkpoint in a file's content, on the CPU.

    Args:
        name: of the file, for messages.

    Raises:
        InputError: it is damaged, or no checkpoint of flowrl.
    """
    try:
        is_sealed(content)  # a checkpoint of an earlier flowrl has only the checksum over its parts
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if is_first_wave(checkpoint):
            return _checked(upgraded_checkpoint(checkpoint), name)
        if not isinstance(checkpoint, dict) or not checkpoint.keys() >= {*_PARTS, CHECKSUM}:
            raise InputError(f"{name} is no checkpoint of flowrl")
        expected = checkpoint.pop(CHECKSUM)
        if checksum(checkpoint) != expected:
            raise InputError(f"{name} is damaged: its checksum does not fit its contents")
        return _checked(checkpoint, name)
    except InputError:
        raise
    except pickle.UnpicklingError as error:  # torch's message is advice on an argument of its own
        raise InputError(f"{name} is damaged or no checkpoint of flowrl") from error
    except Exception as error:  # of a damaged pickle any step can fail
        raise InputError(f"{name} is damaged or no checkpoint of flowrl: {cause(error)}") from error


def is_whole(content: bytes, name: str) -> bool:
    """Whether a file's content is a checkpoint as it was written; arguments as of `from_bytes`."""
    try:
        if not is_sealed(content):
            from_bytes(content, name)
    except ValueError:
        return False
    return True


def _checked(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    """The same, its parts being of their types."""
    for part, types in _PARTS.items():
        if part in checkpoint and not isinstance(checkpoint[part], types):
            raise InputError(f"{name} is damaged: its {part} is {shown(checkpoint[part])}")
    if not is_whole_number(step := checkpoint["step"]) or step < 1:
        raise InputError(f"{name} is damaged: its step is {step!r}")
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
        InputError: the checkpoint is of another agent, architecture, run, dataset or version.
    """
    if fingerprint is not None and "sampler" not in checkpoint:
        raise InputError(
            f"run {run} was trained by an earlier flowrl: it can be evaluated, but its training cannot go on; train"
            " anew in another folder"
        )
    check_run(checkpoint, config, run)
    if fingerprint is not None and checkpoint["fingerprint"] != fingerprint:
        raise InputError(f"the data have changed since run {run} began")
    saved = checkpoint["learner"]
    try:
        _check_architecture(saved, learner.state_dict(), run)
        learner.load_state_dict(saved)
        _check_architecture(saved, learner.state_dict(), run)  # also what a new optimiser does not have yet
        check_optimisers(learner)
    except InputError:
        raise
    except UNFIT as error:
        raise InputError(f"the checkpoint in {run} is of another architecture: {cause(error)}") from error


def check_run(checkpoint: dict[str, Any], config: dict[str, Any], run: Path) -> None:
    """Raise InputError where a checkpoint is not of the run in whose folder it lies."""
    of = checkpoint["config"] or {}
    for name in _IDENTITY:
        was, is_ = of.get(name), config.get(name)
        if was != is_:
            raise InputError(f"the checkpoint in {run} is of another agent: its {name} is {was}, not {is_}")
    if (other := other_run(of, config)) is not None:
        raise InputError(f"the checkpoint in {run} is of another run: its {other}")
    last = entry(config, ("training", "steps"))
    if last is not None and checkpoint["step"] > last:
        raise InputError(f"the checkpoint in {run} is of step {checkpoint['step']:,}, and the run has {last:,} steps")


def _check_architecture(saved: dict[str, Any], own: dict[str, Any], run: Path) -> None:
    """Raise InputError where a saved state is not of a learner's form."""
    weights, mine = saved.get("actor"), own["actor"]
    difference = misfit(weights, mine, "actor") or misfit(saved, own)
    if isinstance(weights, dict) and (more := sorted(weights.keys() - mine.keys())):
        difference = f"actor.{more[0]} is {shown(weights[more[0]])}, not absent"
    if difference is not None:
        raise InputError(f"the checkpoint in {run} is of another architecture: {difference}")

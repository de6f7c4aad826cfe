"""How long an agent is trained, on how much at once, and what every agent's settings can do."""

import types
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import torch

from flowrl.data.dataset import TrajectoryDataset
from flowrl.errors import InputError
from flowrl.nn.normaliser import Normaliser
from flowrl.protocols import Learner


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop, whatever the agent."""

    steps: int = 10_000
    """Training steps."""
    batch_size: int = 64
    """Windows in a batch (or episodes, chunks, transitions: whatever the agent learns from), of all processes
    together."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 trains under bfloat16 autocast, with weights and flows in float32; auto: where the device is fast at it."""
    log_every: int = 100
    """Training steps between two rows of metrics."""
    checkpoint_every: int = 500
    """Training steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.precision not in (known := ("auto", "fp32", "bf16")):
            raise ValueError(f"precision is {self.precision!r}: known are {', '.join(known)}")


class AgentConfig(ABC):
    """The settings of an agent: subclasses are frozen dataclasses, whose fields are the agent's options."""

    @abstractmethod
    def build(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> Learner:
        """A new learner on `device`; its initial weights come from torch's generator.

        Args:
            normaliser: on the CPU, with the sizes of observations and actions, and the statistics of the dataset where
                the learner is to be trained.
            training: with a precision other than auto.
        """

    def record(self) -> dict[str, Any]:
        """The settings that decide numbers, as JSON: they go into `config.json`, and a run resumes only with the same.
        The class is built from them again when the run is loaded."""
        return asdict(self)  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """The settings that `record` gave.

        Raises:
            TypeError, ValueError: they are those of another class or version.
        """
        if not isinstance(record, dict):
            raise TypeError(f"the agent's settings are {record!r}: they must be a dict")
        return _rebuilt(cls, record)

    def for_dataset(self, dataset: TrajectoryDataset) -> Self:
        """The same settings, with those filled in that depend on the data, before the run is recorded; the result asked
        again is the same.

        Raises:
            InputError: the agent cannot learn from these data.
        """
        return self

    def check_memory(self, normaliser: Normaliser, training: TrainingConfig, device: torch.device) -> None:  # noqa: B027
        """Raise InputError where the networks and a batch are sure not to fit the device's memory."""

    def cautions(self, dataset: TrajectoryDataset, training: TrainingConfig, device: torch.device) -> list[str]:
        """What is allowed and probably not meant when training on `dataset`, in sentences.

        Args:
            training: with the batch size of this process.
        """
        return self.acting_cautions()

    def acting_cautions(self) -> list[str]:
        """Where the agent acts otherwise than it is trained, in sentences."""
        return []

    def acting(self, rollout: str | None, acting_context: int | None) -> Self:
        """The same agent acting in another way; None leaves it as it is.

        Raises:
            InputError: the agent cannot act so.
        """
        choices = {"rollout": rollout, "acting_context": acting_context}
        if given := [f"{name} {value}" for name, value in choices.items() if value is not None]:
            raise InputError(f"{' and '.join(given)} cannot be chosen: this agent does not look back")
        return self


def _rebuilt(hint: Any, value: Any) -> Any:
    """A value of the type `hint` from JSON, which has dicts for dataclasses and lists for tuples."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(value, dict) and is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: _rebuilt(hints.get(name), part) for name, part in value.items()})
    if isinstance(value, list) and origin is tuple and parts:
        kinds = [parts[0]] * len(value) if parts[-1] is ... else parts
        return tuple(map(_rebuilt, kinds, value))
    if origin in (Union, types.UnionType):
        rebuilt = (_rebuilt(part, value) for part in parts)
        return next((one for one in rebuilt if one is not value), value)
    return value

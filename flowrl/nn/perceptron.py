"""A perceptron of the present observation, and the actor that acts by one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowrl.data.samplers import Batch
from flowrl.data.transitions import Transitions
from flowrl.nn.heads import ActionHead, deterministic_head
from flowrl.nn.normaliser import Normaliser

RELU = partial(nn.ReLU, inplace=True)


def perceptron(
    inputs: int,
    outputs: int,
    *,
    width: int,
    layers: int,
    dropout: float = 0.0,
    activation: Callable[[], nn.Module] = RELU,
) -> nn.Sequential:
    """(..., inputs) to (..., outputs) by `layers` hidden layers of `width` features with activation and dropout."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(inputs, width), activation(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*modules, nn.Linear(inputs, outputs))


class MemorylessActor(nn.Module):
    """Acts on the present observation alone, whatever the target: a base class of actors without memory."""

    conditioned = False
    rollout = "memoryless"
    acting_context: int | None = None

    def action(self, observations: Tensor) -> Tensor:
        """Raw actions (..., action size) for raw observations (..., observation size)."""
        raise NotImplementedError

    def initial(self, targets: Tensor) -> None:
        """See `flowrl.protocols.Actor`."""

    def select(self, carry: None, slots: Tensor) -> None:
        """See `flowrl.protocols.Actor`."""

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[None, Tensor]:
        """See `flowrl.protocols.Actor`."""
        return None, self.action(observations)


class PerceptronActor(MemorylessActor):
    """A perceptron from the scaled observation to an action.

    Args:
        head: what the outputs mean; by default one deterministic action within its bounds, or discrete ones.
    """

    def __init__(
        self,
        normaliser: Normaliser,
        *,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        head: ActionHead | None = None,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.head = head or deterministic_head(normaliser)
        self.network = perceptron(normaliser.input_size, self.head.size, width=width, layers=layers, dropout=dropout)
        self.free = nn.Parameter(torch.zeros(self.head.free)) if self.head.free else None

    def forward(self, observations: Tensor) -> Tensor:
        """The prediction for raw observations (..., observation size), as `head` takes it."""
        outputs = self.network(self.normaliser.observations(observations))
        if self.free is not None:
            outputs = torch.cat([outputs.float(), self.free.expand(*outputs.shape[:-1], -1)], dim=-1)
        return self.head.prediction(outputs)

    def predict(self, batch: Batch) -> Tensor:
        """The prediction of every step of a batch."""
        return self(batch.observations)

    def read(self, batch: Transitions) -> "Readings":
        """The predictions for transitions, each computed where it is asked for."""
        return Readings(self, batch)

    def action(self, observations: Tensor) -> Tensor:
        """See `MemorylessActor`."""
        return self.head.action(self(observations))


class Readings:
    """What a `PerceptronActor` predicts for transitions."""

    def __init__(self, actor: PerceptronActor, batch: Transitions) -> None:
        self._actor, self._batch = actor, batch

    @property
    def here(self) -> Tensor:
        """(B, ...) predictions for the observations."""
        return self._actor(self._batch.observations)

    @property
    def after(self) -> Tensor:
        """(B, ...) predictions for the next observations."""
        return self._actor(self._batch.next_observations)

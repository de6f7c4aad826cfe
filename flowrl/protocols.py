"""What the parts of flowrl ask of each other: a sampler draws, a learner trains, an actor plays."""

from typing import Any, Protocol

import torch
from torch import Tensor

from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Part


class Sampler(Protocol):
    """Draws batches from a dataset: windows, episodes, chunks or transitions."""

    def draw(self, generator: torch.Generator) -> Any:
        """The next batch, of the kind that the learner takes; all randomness comes from `generator`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What going on to the same batches needs, beside the generator: tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        ...


class Actor(Protocol):
    """Acts in many episodes at once, one slot an episode."""

    @property
    def conditioned(self) -> bool:
        """Whether it acts towards a target return. One that does not is played once, not once for every target."""
        ...

    @property
    def rollout(self) -> str:
        """How much of the past it uses: memoryless, window, recurrent or staggered."""
        ...

    @property
    def acting_context(self) -> int | None:
        """Steps of a window, or between the beginnings of staggered states; None where there is no such limit."""
        ...

    @property
    def training(self) -> bool:
        """As of `nn.Module`: whether dropout and the like are on; `train` switches them."""
        ...

    def train(self, mode: bool = True) -> Any:
        """See `training`."""
        ...

    def initial(self, targets: Tensor) -> Any:
        """The carry of episodes that have not begun.

        Args:
            targets: (slots,) target returns in raw units; NaN for an actor that is not conditioned.
        """
        ...

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """Act once in every slot.

        Args:
            carry: from `initial` or the last `act`.
            observations: (slots, observation size) raw.
            rewards: (slots,) of the last step; zeros at the first.

        Returns:
            The next carry, and (slots, action size) actions within their bounds; one-hot rows of discrete ones.
        """
        ...

    def select(self, carry: Any, slots: Tensor) -> Any:
        """The carry of the episodes at `slots` (int64) alone; the others are over."""
        ...


class Learner(Protocol):
    """Everything that training changes: networks, target networks, averages, optimisers, schedules."""

    @property
    def actor(self) -> Actor:
        """What plays: an `nn.Module`, trained in place."""
        ...

    def sampler(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> Sampler:
        """What draws the batches of `update`.

        Args:
            dataset: on the learner's device.
            batch_size: of all processes together.
            part: the part of each batch that this process trains on.

        Raises:
            InputError: the agent cannot learn from these data.
        """
        ...

    def update(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One gradient step of whatever the learner has.

        Args:
            step: 1, 2, ...

        Returns:
            Detached scalars by name; the loop logs the mean of each since the last row. A value need not be there at
            every step.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in nested dicts and lists of tensors and plain values, with the actor's weights
        under ``actor``. With several processes all call it at the same time."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, to the bit."""
        ...

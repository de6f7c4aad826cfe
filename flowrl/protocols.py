"""What the training loop and the rollout ask of an agent: a loss, and a way to act."""

from typing import Any, Protocol

from torch import Tensor

from flowrl.windows import Batch


class Agent(Protocol):
    """An `nn.Module` that learns from windows and acts in many episodes at once, one slot an episode."""

    context: int  # steps in the windows that `loss` takes

    def loss(self, batch: Batch) -> Tensor:
        """The scalar to minimise: a mean over real steps, each with the same weight."""
        ...

    def initial(self, targets: Tensor) -> Any:
        """The carry of episodes that have not begun; `targets` (slots,) are the returns asked for, in raw units."""
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
